"""Event logs as Spark itself writes them: its compression codecs, rolled and not, and a driver that
was killed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from phoebe_spark.ingest.eventlog import EventReader
from phoebe_spark.ingest.finding import find_logs
from phoebe_spark.ingest.run import ingest
from phoebe_spark.tables.deltalake import Tables
from tests.support import apps, in_turn

_APPLICATION = """
import sys
from pathlib import Path
from pyspark.sql import SparkSession

def main(path):
    spark = SparkSession.builder.appName("codec 2026-01-31").getOrCreate()
    for n in range(3):
        spark.range(1000 + n).selectExpr("id % 7 as k", "id").groupBy("k").sum("id").collect()
    pairs = spark.sparkContext.parallelize(range(100), 2).map(lambda x: (x % 3, x)).groupByKey(2)
    pairs.count(); pairs.count()
    if path.read_text() == "kill":
        spark._jvm.java.lang.Runtime.getRuntime().halt(1)
    spark.stop()
"""


@pytest.fixture(scope="module")
def jvm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[in_turn.Jvm]:
    folder = tmp_path_factory.mktemp("jvm")
    with in_turn.of_text(folder, "codec_app", _APPLICATION) as found:
        yield found


def run(jvm: in_turn.Jvm, folder: Path, codec: str, rolling: str, end: str = "stop") -> Path:
    argument = folder / "end"
    argument.write_text(end)
    conf = {
        "spark.sql.shuffle.partitions": "4",
        "spark.eventLog.compress": str(codec != "none").lower(),
        "spark.eventLog.compression.codec": codec if codec != "none" else "zstd",
        "spark.eventLog.rolling.enabled": rolling,
        "spark.eventLog.rolling.maxFileSize": "10m",
    }
    with pytest.raises(apps.AppFailedError) if end == "kill" else contextlib.nullcontext():
        jvm.run(folder, "codec_app", argument, conf, plugin=False)
    return folder / "events"


@pytest.mark.parametrize(
    ("codec", "rolling"),
    [("none", "false"), ("zstd", "true"), ("lz4", "false"), ("lz4", "true"), ("snappy", "false")],
)
def test_what_spark_writes_is_read(
    jvm: in_turn.Jvm, tmp_path: Path, codec: str, rolling: str
) -> None:
    events = run(jvm, tmp_path, codec, rolling)
    (source,) = find_logs([events])
    assert source.path.name.startswith("eventlog_v2_") == (rolling == "true")
    reader = EventReader(source)
    kinds = [event["Event"] for event in reader]
    assert kinds[0] == "SparkListenerLogStart"
    assert kinds[-1] == "SparkListenerApplicationEnd"
    assert (reader.bad_lines, reader.torn) == (0, False)

    home = tmp_path / "home"
    summary = ingest([events], home)
    assert (summary.applications, summary.executions, summary.errors) == (1, 3, ())
    (application,) = Tables(home).read("applications").to_pylist()
    assert application["job"] == "codec"
    assert (application["status"], application["complete"]) == ("finished", True)
    executions = Tables(home).read("executions").to_pylist()
    assert len({row["template"] for row in executions}) == 1, "literals do not count"
    assert all(row["complete"] and row["boundary_count"] == 1 for row in executions)
    stages = Tables(home).read("stages").to_pylist()
    plain = sorted(
        (row for row in stages if row["execution_id"] is None), key=lambda row: row["stage_id"]
    )
    # Two jobs of two stages, the last one's map stage skipped: both results read the one that ran.
    wrote, first, second = plain
    assert wrote["shuffle_write_bytes"] > 0
    assert first["parents"] == second["parents"] == [wrote["stage_id"]]


def test_a_killed_driver_leaves_an_aborted_application(jvm: in_turn.Jvm, tmp_path: Path) -> None:
    """The last test of this JVM, which ends with it."""
    events = run(jvm, tmp_path, "lz4", "false", end="kill")
    (log,) = events.iterdir()
    assert log.suffix == ".inprogress"
    summary = ingest([events], tmp_path / "home")
    assert (summary.applications, summary.aborted, summary.errors) == (1, 1, ())
    (application,) = Tables(tmp_path / "home").read("applications").to_pylist()
    assert (application["status"], application["complete"]) == ("aborted", False)
