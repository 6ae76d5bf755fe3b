"""The application behind the bench ``checkpoint_cost``: ``checkpoint_app.py SPEC.json``."""

from __future__ import annotations

import json
import random
import shutil
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F  # noqa: N812 - the name that all of PySpark's users know


def rows(spark: SparkSession, shape: str, literal: int) -> tuple[DataFrame, str]:
    """The rows that a shape's shuffle carries, and the column that they are partitioned by."""
    lines = spark.table("lineitem").where(F.col("l_orderkey") > literal)
    match shape:
        case "narrow":
            return lines.select("l_orderkey", "l_partkey", "l_quantity"), "l_partkey"
        case "wide":
            return lines, "l_partkey"
        case "joined":
            orders = spark.table("orders")
            joined = lines.join(orders, F.col("l_orderkey") == F.col("o_orderkey"))
            kept = joined.select("o_custkey", "l_partkey", "l_extendedprice", "o_orderdate")
            return kept, "o_custkey"
        case "text":
            return lines.select("l_suppkey", "l_comment", "l_shipinstruct"), "l_suppkey"
        case _:
            raise ValueError(shape)


def finish(frame: DataFrame, key: str) -> None:
    """Shuffles by ``key`` and reduces, into a sink that keeps nothing."""
    shuffled = frame.repartition(32, key)
    others = [c for c in frame.columns if c != key]
    reduced = shuffled.groupBy(key).agg(*(F.max(c).alias(c) for c in others))
    reduced.write.format("noop").mode("overwrite").save()


def main(path: Path) -> int:
    spec = json.loads(path.read_text())
    spark = SparkSession.builder.appName("checkpoint-cost").getOrCreate()
    scratch = Path(spec["scratch"])
    spark.sparkContext.setCheckpointDir(str(scratch / "rdd"))
    for name, place in spec["tables"].items():
        spark.read.parquet(place).createOrReplaceTempView(name)
    rng = random.Random(spec["seed"])
    began = time.monotonic()

    def plugin(mode: str, force: str = "none") -> None:
        spark.conf.set("spark.phoebe.mode", mode)
        spark.conf.set("spark.phoebe.force", force)

    def plain(frame: DataFrame, key: str) -> None:
        finish(frame, key)

    def phoebe(frame: DataFrame, key: str) -> None:
        plugin("apply", "e0")
        finish(frame, key)

    def df_checkpoint(frame: DataFrame, key: str) -> None:
        finish(frame.checkpoint(), key)

    def parquet(frame: DataFrame, key: str) -> None:
        place = str(scratch / "parquet")
        frame.write.mode("overwrite").parquet(place)
        finish(spark.read.parquet(place), key)

    def clear() -> None:
        # What one variant wrote must not fill the disk's cache for the next.
        for place in (scratch, Path(spec["store"])):
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir(parents=True)

    variants: list[Callable[[DataFrame, str], None]] = [plain, phoebe, df_checkpoint, parquet]
    with Path(spec["results"]).open("a", buffering=1) as results:

        def timed(shape: str, name: str, repeat: int, action: Callable[[], object]) -> None:
            spark.sparkContext.setJobDescription(f"{shape} {name} {repeat}")
            started = time.monotonic()
            action()
            seconds = time.monotonic() - started
            spark.sparkContext.setJobDescription("between")
            line = {"shape": shape, "variant": name, "repeat": repeat}
            results.write(json.dumps({**line, "seconds": seconds}) + "\n")

        for repeat in range(spec["repeats"] + 1):
            for number, shape in enumerate(spec["shapes"]):
                if repeat > 1 and time.monotonic() - began > spec["budget_s"]:
                    break
                for variant in rng.sample(variants, len(variants)):
                    # Mode off before the rows are defined: only `phoebe` runs with the plugin on.
                    plugin("off")
                    frame, key = rows(spark, shape, repeat * 10 + number)
                    timed(shape, variant.__name__, repeat, partial(variant, frame, key))
                    clear()
                plugin("off")
                cached = rows(spark, shape, repeat * 10 + number)[0].cache()
                cached.count()
                timed(shape, "df_checkpoint_write", repeat, cached.checkpoint)
                cached.unpersist(blocking=True)
                clear()
    spark.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
