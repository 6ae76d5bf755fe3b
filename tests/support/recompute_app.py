"""An application whose map output is computed twice, with other rows: ``recompute_app.py FOLDER``.

The store finishes no file, one output of the checkpointed shuffle is lost while it is read, and the
files that the rows come from say something else by then, at the same length and age. Then the store
goes on. ``FOLDER/changed`` gets the number of map outputs whose checksums Spark found changed.
"""

from __future__ import annotations

import os
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from pyspark.sql import DataFrame, Row, SparkSession

import phoebe_spark
from tests.support.shuffle_app import first_shuffle, has_read

MAPS, READERS = 3, 6


def _write(file: Path, first: int) -> None:
    file.write_text("".join(f"{first + i}\n" for i in range(5000)))


def _change(file: Path) -> None:
    before = file.stat()
    _write(file, 700_000)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.stat().st_size == before.st_size


def _query(spark: SparkSession, rows: Path) -> DataFrame:
    """Reads one file in each map task."""
    spark.udf.registerJavaFunction("held", "phoebe.testing.HeldReaders", "bigint")
    read = spark.read.schema("v bigint").csv(str(rows))
    return read.repartition(READERS, "v").selectExpr("sum(held(v))")


def _lose_an_output(spark: SparkSession, rows: Path, answer: Future[list[Row]]) -> Any:
    """What the tracker knows of the shuffle, of which the first output is lost while it is read."""
    while not has_read(spark, READERS):
        if answer.done():
            raise RuntimeError(f"over before an output was lost: {answer.result()}")
        time.sleep(0.05)
    shuffle_id, status = first_shuffle(spark)
    for file in rows.iterdir():
        _change(file)
    tracker = spark._jvm.org.apache.spark.SparkEnv.get().mapOutputTracker()  # type: ignore[union-attr]
    tracker.unregisterMapOutput(shuffle_id, 0, status.mapStatuses()[0].location())
    return status


def main(folder: Path) -> int:
    spark = SparkSession.builder.appName("recompute").getOrCreate()
    jvm: Any = spark._jvm
    rows = folder / "rows"
    rows.mkdir()
    for number in range(MAPS):
        _write(rows / f"{number}.csv", 100_000 * (number + 1))
    jvm.phoebe.testing.SlowRequests.holdWrites()
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(_query(spark, rows).collect)
        try:
            status = _lose_an_output(spark, rows, answer)
        finally:
            jvm.phoebe.testing.HeldReaders.release()
        answer.result()
        changed = status.checksumMismatchIndices().size()
    jvm.phoebe.testing.SlowRequests.releaseWrites()
    # Given up, and told, before the end can race it.
    while "checkpoints.abandoned" not in phoebe_spark.status(spark)["counts"]:
        time.sleep(0.05)
    (folder / "changed").write_text(str(changed))
    spark.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
