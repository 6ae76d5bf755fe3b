"""The application behind the bench ``checkpoint_ways``: ``checkpoint_ways_app.py SPEC.json``."""

from __future__ import annotations

import json
import random
import shutil
import sys
import time
from pathlib import Path

from pyspark.sql import SparkSession

from benchmarks import checkpoint_app
from tests.support.store import clear

SHAPES = ("narrow", "wide_16", "text", "skewed", "narrow_400")
PLAIN = "plain"
WAYS = ("phoebe", "copy", "tee")
"""To write a checkpoint; ``PLAIN`` is the query without one."""


def main(path: Path) -> int:
    spec = json.loads(path.read_text())
    spark = SparkSession.builder.appName("checkpoint-ways").getOrCreate()
    context = spark.sparkContext
    store = Path(spec["store"])
    for name, place in spec["tables"].items():
        spark.read.parquet(place).createOrReplaceTempView(name)
    rng = random.Random(spec["seed"])
    began = time.monotonic()

    def run(name: str, way: str, literal: int) -> dict[str, object]:
        shape = checkpoint_app.SHAPES[name]
        clear(store)
        own = store.with_name("tasks")
        shutil.rmtree(own, ignore_errors=True)
        own.mkdir(parents=True)
        # Mode off before the rows are defined: only where it says so is it on.
        spark.conf.set("spark.phoebe.mode", "off")
        frame = checkpoint_app.rows(spark, shape, literal)
        if way == "phoebe":
            spark.conf.set("spark.phoebe.mode", "apply")
            spark.conf.set("spark.phoebe.force", "e1")  # e0 is above it: the maximum's
        elif way != PLAIN:
            context.setLocalProperty("phoebe.testing.folder", str(own))
            context.setLocalProperty("phoebe.testing.way", way)
        started = time.monotonic()
        checkpoint_app.finish(checkpoint_app.shuffled(frame, shape), shape, [])
        seconds = time.monotonic() - started
        context.setLocalProperty("phoebe.testing.way", None)  # type: ignore[arg-type]
        lag_s = 0.0
        if way == "phoebe":
            checkpoint_app.await_commit(store)
            lag_s = time.monotonic() - started - seconds
            time.sleep(1)  # what follows a commit is not the next way's to bear
        spark.conf.set("spark.phoebe.mode", "off")
        packs = (file for place in (store, own) for file in place.rglob("*.pack"))
        stored = sum(file.stat().st_size for file in packs)
        assert (stored > 0) == (way != PLAIN), f"{way} stored {stored} bytes"
        found = {"shape": name, "way": way, "seconds": seconds}
        return {**found, "stored_bytes": stored, "lag_s": lag_s}

    with Path(spec["results"]).open("a", buffering=1) as results:
        for number in range(spec["repeats"] + 1):
            if number > 1 and time.monotonic() - began > spec["budget_s"] * number / (number + 1):
                break  # not enough time for another whole round
            for shape in SHAPES:
                for turn, way in enumerate(rng.sample([PLAIN, *WAYS], 1 + len(WAYS))):
                    # A literal of its own: what one run has written another is not to restore.
                    line = run(shape, way, 10 * (100 * number + turn))
                    results.write(json.dumps({"round": number, **line}) + "\n")
                    time.sleep(0.2)
    spark.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
