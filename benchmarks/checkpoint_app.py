"""The application behind the bench ``checkpoint_cost``: ``checkpoint_app.py SPEC.json``."""

from __future__ import annotations

import json
import random
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F  # noqa: N812 - the name that all of PySpark's users know

from tests.support import store as stores


@dataclass(frozen=True, slots=True)
class Shape:
    """One boundary: its rows, by which column and into how many partitions they are shuffled, how
    many boundaries of the same size the query has (the first one is checkpointed), and how often
    it is run in a round: what takes little time, or is a small difference of large times, more
    often, by all variants but ``df_checkpoint_write``."""

    rows: str
    key: str
    partitions: int = 32
    boundaries: int = 1
    copies: int = 1
    times: int = 1


SHAPES = {
    "narrow": Shape("narrow", "l_partkey"),
    "wide_16": Shape("wide", "l_partkey", partitions=16),
    "text": Shape("text", "l_suppkey"),
    "skewed": Shape("skewed", "skewed_key"),
    "narrow_400": Shape("narrow", "l_partkey", partitions=400),
    "small": Shape("small", "l_partkey", times=5),
    "sixth": Shape("narrow", "l_partkey", boundaries=6, times=3),
    "large": Shape("wide", "l_partkey", copies=4),
}
"""Few wide rows, many narrow rows, skew, 16 and 400 partitions, and (scale factor 1) from about
10 MB to 2 GB; the query of ``sixth`` shuffles six times what is checkpointed."""


def rows(spark: SparkSession, shape: Shape, literal: int) -> DataFrame:
    """The rows that a shape's shuffle carries; ``literal`` makes one repeat's unlike another's."""
    lines = spark.table("lineitem").where(F.col("l_orderkey") > literal)
    match shape.rows:
        case "narrow":
            found = lines.select("l_orderkey", "l_partkey", "l_quantity")
        case "small":
            found = lines.where("l_orderkey % 9 = 0").select("l_orderkey", "l_partkey")
        case "wide":
            found = lines
        case "text":
            found = lines.select("l_suppkey", "l_comment", "l_shipinstruct")
        case "skewed":
            # Half of all rows in one partition.
            key = F.when(F.col("l_orderkey") % 2 == 0, F.lit(0)).otherwise(F.col("l_partkey"))
            found = lines.select(key.alias("skewed_key"), "l_orderkey", "l_extendedprice")
        case _:
            raise ValueError(shape.rows)
    several = found
    for _ in range(shape.copies - 1):
        several = several.union(found)
    return several


def shuffled(frame: DataFrame, shape: Shape) -> DataFrame:
    """The boundary: the place that every variant writes at."""
    return frame.repartition(shape.partitions, shape.key)


def finish(first: DataFrame, shape: Shape, others: list[DataFrame]) -> None:
    """Reads every column of ``first``, which is what became of the boundary, and of the others'
    shuffles: a reader that does little else, as the cost is to show against it, not to hide behind
    it."""
    reduced = None
    for frame in [first, *(shuffled(other, shape) for other in others)]:
        part = frame.select(F.xxhash64(*frame.columns).alias("hash")).agg(F.max("hash"))
        reduced = part if reduced is None else reduced.union(part)
    assert reduced is not None
    reduced.write.format("noop").mode("overwrite").save()


def await_commit(store: Path) -> None:
    """Waits until a checkpoint is in the store's catalogue: uploads end beside the query."""
    deadline = time.monotonic() + 120
    while not list(store.glob("catalog/*.manifest")):
        if time.monotonic() > deadline:
            raise TimeoutError("no checkpoint was committed")
        time.sleep(0.02)


class Reads:
    """Reads one shuffle twice: while its local files are there, and once it is in the store."""

    def __init__(self, spark: SparkSession, store: Path) -> None:
        self.spark = spark
        self.store = store
        self.executions = 1_000_000

    def seconds(self, frame: DataFrame, shape: Shape, checkpointed: bool) -> float:
        """Seconds of a job that only reads the shuffle (its map stage has run before)."""
        context = self.spark.sparkContext
        # Only queries with an execution id are planned by the plugin; this one is run as an RDD.
        self.executions += 1
        context.setLocalProperty("spark.sql.execution.id", str(self.executions))
        boundary: Any = shuffled(frame, shape)
        rdd = boundary._jdf.queryExecution().toRdd()
        rdd.count()
        if checkpointed:
            await_commit(self.store)
            time.sleep(0.3)  # readers hear of it
        started = time.monotonic()
        rdd.count()
        seconds = time.monotonic() - started
        context.setLocalProperty("spark.sql.execution.id", None)  # type: ignore[arg-type]
        return seconds


def main(path: Path) -> int:
    spec = json.loads(path.read_text())
    spark = SparkSession.builder.appName("checkpoint-cost").getOrCreate()
    scratch, store = Path(spec["scratch"]), Path(spec["store"])
    spark.sparkContext.setCheckpointDir(str(scratch / "rdd"))
    for name, place in spec["tables"].items():
        spark.read.parquet(place).createOrReplaceTempView(name)
    rng = random.Random(spec["seed"])
    reads = Reads(spark, store)
    began = time.monotonic()

    def plugin(mode: str, force: str = "none") -> None:
        spark.conf.set("spark.phoebe.mode", mode)
        spark.conf.set("spark.phoebe.force", force)

    def clear() -> None:
        # What one variant wrote must not fill the disk's cache for the next.
        stores.clear(store)
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)

    def timed(action: Callable[[], object]) -> float:
        started = time.monotonic()
        action()
        return time.monotonic() - started

    def plain(shape: Shape, frame: DataFrame, others: list[DataFrame]) -> float:
        return timed(partial(finish, shuffled(frame, shape), shape, others))

    def phoebe(shape: Shape, frame: DataFrame, others: list[DataFrame]) -> float:
        plugin("apply", "e1")  # e0 is above it: the maximum's one row from each task
        return timed(partial(finish, shuffled(frame, shape), shape, others))

    def df_checkpoint(shape: Shape, frame: DataFrame, others: list[DataFrame]) -> float:
        return timed(lambda: finish(shuffled(frame, shape).checkpoint(), shape, others))

    def parquet(shape: Shape, frame: DataFrame, others: list[DataFrame]) -> float:
        def both() -> None:
            place = str(scratch / "parquet")
            shuffled(frame, shape).write.mode("overwrite").parquet(place)
            finish(spark.read.parquet(place), shape, others)

        return timed(both)

    def df_checkpoint_write(shape: Shape, frame: DataFrame, _: list[DataFrame]) -> float:
        cached = shuffled(frame, shape).cache()
        cached.count()
        try:
            return timed(cached.checkpoint)
        finally:
            cached.unpersist(blocking=True)

    def read_local(shape: Shape, frame: DataFrame, _: list[DataFrame]) -> float:
        return reads.seconds(frame, shape, checkpointed=False)

    def read_store(shape: Shape, frame: DataFrame, _: list[DataFrame]) -> float:
        plugin("apply", "e0")
        return reads.seconds(frame, shape, checkpointed=True)

    variants: list[Callable[[Shape, DataFrame, list[DataFrame]], float]] = [
        plain, phoebe, df_checkpoint, parquet, df_checkpoint_write, read_local, read_store,
    ]  # fmt: skip
    often = [v for v in variants if v is not df_checkpoint_write]
    with Path(spec["results"]).open("a", buffering=1) as results:
        for repeat in range(spec["repeats"] + 1):
            for number, name in enumerate(spec["shapes"]):
                shape = SHAPES[name]
                # The large one three times and not to warm up: its bytes make up for the rounds.
                if shape.copies > 1 and not 1 <= repeat <= 3:
                    continue
                if repeat > 0 and time.monotonic() - began > spec["budget_s"]:
                    continue
                again = rng.sample(often, len(often)) * (shape.times - 1) if repeat > 0 else []
                for turn, variant in enumerate([*rng.sample(variants, len(variants)), *again]):
                    # Mode off before the rows are defined: only where it says so is it on.
                    plugin("off")
                    literal = 10 * ((100 * repeat + turn) * len(SHAPES) + number)
                    frame = rows(spark, shape, literal)
                    others = [rows(spark, shape, literal + i) for i in range(1, shape.boundaries)]
                    spark.sparkContext.setJobDescription(f"{name} {variant.__name__} {repeat}")
                    seconds = variant(shape, frame, others)
                    ended = time.monotonic()
                    if variant is phoebe:
                        await_commit(store)
                    lag_s = time.monotonic() - ended
                    spark.sparkContext.setJobDescription("between")
                    plugin("off")
                    spark.catalog.clearCache()
                    line: dict[str, Any] = {
                        "shape": name,
                        "variant": variant.__name__,
                        "repeat": repeat,
                    }
                    line |= {"variant": variant.__name__, "seconds": seconds, "lag_s": lag_s}
                    results.write(json.dumps(line) + "\n")
                    time.sleep(0.2)
                    clear()
    spark.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
