"""Applications whose inputs change: ``inputs_app.py WORK RUN:MODE ...``, in one JVM.

In run 1 every eligible boundary is written, and the application ends as a failed one. Run 2 is the
re-submission: it changes files, before it lists them or between that and its query. Each prints a
JSON object as its last line: the rows of each case (or the error's class), and how many boundaries
were restored. It makes the same changes whenever it is run, so a run without the plugin (mode
``off``) says what is right.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pyspark.sql import DataFrame, SparkSession

import phoebe_spark
from tests.support import waiting

WORK = Path(sys.argv[1])
RUN, MODE = 0, ""  # of the application that runs now
TIME_NS = 1_700_000_000_000_000_000
"""A modification time that files are given."""

ONE, OTHER = "1,100\n1,200\n", "1,400\n1,500\n"
CLEANS_UP = "spark.sql.classic.shuffleDependency.fileCleanup.enabled"
MALFORMED = {
    "csv": "1,10\n1,x\n2,20\n",
    "json": '{"a": 1, "b": 10}\n{"a": 1, "b": "x"}\n{"a": 2, "b": 20}\n',
    "xml": "<rs><r><a>1</a><b>10</b></r><r><a>1</a><b>x</b></r><r><a>2</a><b>20</b></r></rs>",
}
COMMITS = 3 * len(MALFORMED) + 9
"""Boundaries that run 1 writes."""


def session() -> SparkSession:
    builder = (
        SparkSession.builder.master("local[2]")
        .appName("inputs")
        .config("spark.ui.enabled", "false")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.local.dir", str(WORK / "local"))
        .config("spark.sql.warehouse.dir", str(WORK / "warehouse"))
        .config("spark.sql.shuffle.partitions", "2")
        .config("spark.sql.autoBroadcastJoinThreshold", "-1")
    )
    builder = phoebe_spark.configure(
        builder,
        home=str(WORK / "home"),
        mode=MODE,
        force="all" if RUN == 1 else "none",
        harvest_sink="spool",
        advice_timeout_ms=10000,
    )
    spark = builder.getOrCreate()
    spark.sparkContext.setLogLevel("WARN")
    return spark


def write(name: str, text: str, *, at_ns: int = TIME_NS) -> Path:
    """A file in a directory of its own; its directory."""
    path = WORK / name / "part.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    os.utime(path, ns=(at_ns, at_ns))
    return path.parent


def rows(df: DataFrame) -> Any:
    try:
        return sorted([list(r) for r in df.collect()], key=str)
    except Exception as e:
        return type(e).__name__


def sums(spark: SparkSession, folder: Path) -> DataFrame:
    """Lists the folder now; runs later."""
    return spark.read.schema("k int, v int").csv(str(folder)).groupBy("k").sum("v")


def malformed(spark: SparkSession, kind: str) -> Any:
    path = WORK / f"malformed.{kind}"
    if not path.exists():
        path.write_text(MALFORMED[kind])
    read = spark.read.schema("a int, b int").options(mode="DROPMALFORMED", rowTag="r")
    df = read.format(kind).load(str(path))
    pruned = rows(df.groupBy("a").count())
    return [pruned, rows(df.repartition(2, "b").groupBy("a").count())]


def changed(
    spark: SparkSession,
    name: str,
    before: Callable[[], object] | None = None,
    after: Callable[[Path], object] | None = None,
) -> Any:
    """One file; in run 2 something happens to it before it is listed, or after that."""
    folder = WORK / name
    if RUN == 1:
        write(name, ONE)
    elif before:
        before()
    df = sums(spark, folder)
    if RUN == 2 and after:
        after(folder)
    return rows(df)


def asked_twice(spark: SparkSession, name: str, *, cleans: bool) -> Any:
    """The same plan again, after Spark's clean-up if that is on; then when its file has changed."""
    path = WORK / name / "part.csv"
    if not path.exists() or path.read_text() != ONE:
        write(name, ONE)
    spark.conf.set(CLEANS_UP, cleans)
    df = sums(spark, path.parent)
    kept = shuffle_files()
    found = [rows(df)]
    if RUN == 2:
        if cleans:
            waiting.until(lambda: shuffle_files() <= kept, "Spark has cleaned up")
        found.append(rows(df))
        if cleans:
            waiting.until(lambda: shuffle_files() <= kept, "Spark has cleaned up")
        write(name, OTHER)
        found += [rows(df), rows(df)]
    spark.conf.unset(CLEANS_UP)
    return found


def shuffle_files() -> set[Path]:
    return set((WORK / "local").glob("**/shuffle_*.data"))


def of_another_session(spark: SparkSession) -> Any:
    """Times of a file are read by the zone of the session that made the relation."""
    folder = WORK / "zoned"
    if RUN == 1:
        write("zoned", "2024-05-01 00:00:00\n")
    other = spark.newSession()
    other.conf.set("spark.sql.session.timeZone", "UTC" if RUN == 1 else "Asia/Tokyo")
    other.read.schema("t timestamp").csv(str(folder)).createOrReplaceGlobalTempView("zoned")
    return rows(spark.sql("select unix_micros(t), count(*) from global_temp.zoned group by 1"))


def main() -> None:
    global RUN, MODE
    WORK.mkdir(parents=True, exist_ok=True)
    for told in sys.argv[2:]:
        number, MODE = told.split(":")
        RUN = int(number)
        application()


def application() -> None:
    spark = session()

    def again(folder: Path) -> None:
        write(folder.name, OTHER)

    def later(folder: Path) -> None:
        write(folder.name, OTHER, at_ns=TIME_NS + 5_000_000_000)

    def added(folder: Path) -> None:
        (folder / "more.csv").write_text("1,7\n")

    def removed(folder: Path) -> None:
        (folder / "part.csv").unlink()

    def back() -> None:
        """As run 1 left it, for whichever run 2 this is."""
        write("removed", ONE)
        (WORK / "added" / "more.csv").unlink(missing_ok=True)

    if RUN == 2:
        back()
    result = {kind: malformed(spark, kind) for kind in MALFORMED}
    result |= {
        "unchanged": changed(spark, "unchanged"),
        "same_time": changed(spark, "same_time", before=lambda: write("same_time", OTHER)),
        "rewritten": changed(spark, "rewritten", after=later),
        "rewritten_same_time": changed(spark, "rewritten_same_time", after=again),
        "added": changed(spark, "added", after=added),
        "removed": changed(spark, "removed", after=removed),
        "of_another_session": of_another_session(spark),
        "asked_twice": asked_twice(spark, "asked_twice", cleans=True),
        "asked_twice_kept": asked_twice(spark, "asked_twice_kept", cleans=False),
    }
    if RUN == 1:
        deadline = time.monotonic() + 60
        while phoebe_spark.status(spark)["counts"].get("checkpoints.committed", 0) < COMMITS:
            if time.monotonic() > deadline:
                raise TimeoutError(phoebe_spark.status(spark)["counts"])
            time.sleep(0.1)
        rows(spark.sql("select raise_error('die')"))
    counts = {} if MODE == "off" else phoebe_spark.status(spark)["counts"]
    print(json.dumps({"rows": result, "restored": counts.get("checkpoints.restored", 0)}))
    sys.stdout.flush()
    spark.stop()


if __name__ == "__main__":
    main()
