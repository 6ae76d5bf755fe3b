"""Event logs as Spark itself writes them: its compression codecs, rolled and not, and a driver that
was killed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from phoebe_spark.ingest.eventlog import EventReader
from phoebe_spark.ingest.finding import find_logs
from phoebe_spark.ingest.run import ingest
from phoebe_spark.tables.deltalake import Tables
from tests.support.places import spark_environment

_APPLICATION = """
import os, signal, sys
from pyspark.sql import SparkSession
codec, rolling, folder, end = sys.argv[1:]
spark = (
    SparkSession.builder.master("local[2]").appName("codec 2026-01-31")
    .config("spark.ui.enabled", "false").config("spark.driver.memory", "1g")
    .config("spark.driver.host", "127.0.0.1").config("spark.local.dir", folder)
    .config("spark.sql.warehouse.dir", folder + "/warehouse")
    .config("spark.sql.shuffle.partitions", "4")
    .config("spark.eventLog.enabled", "true").config("spark.eventLog.dir", folder + "/events")
    .config("spark.eventLog.compress", str(codec != "none").lower())
    .config("spark.eventLog.compression.codec", codec if codec != "none" else "zstd")
    .config("spark.eventLog.rolling.enabled", rolling)
    .config("spark.eventLog.rolling.maxFileSize", "10m")
    .getOrCreate()
)
for n in range(3):
    spark.range(1000 + n).selectExpr("id % 7 as k", "id").groupBy("k").sum("id").collect()
pairs = spark.sparkContext.parallelize(range(100), 2).map(lambda x: (x % 3, x)).groupByKey(2)
pairs.count(); pairs.count()
if end == "kill":
    jvm = spark.sparkContext._gateway.proc.pid
    os.kill(jvm, signal.SIGKILL)
else:
    spark.stop()
"""


def run(folder: Path, codec: str, rolling: str, end: str = "stop") -> Path:
    events = folder / "events"
    events.mkdir()
    script = folder / "application.py"
    script.write_text(_APPLICATION)
    done = subprocess.run(
        [sys.executable, str(script), codec, rolling, str(folder), end],
        capture_output=True,
        text=True,
        env=spark_environment(),
        cwd=folder,
        timeout=300,
    )
    assert end == "kill" or done.returncode == 0, done.stderr[-3000:]
    return events


@pytest.mark.parametrize(
    ("codec", "rolling"),
    [("none", "false"), ("zstd", "true"), ("lz4", "false"), ("lz4", "true"), ("snappy", "false")],
)
def test_what_spark_writes_is_read(tmp_path: Path, codec: str, rolling: str) -> None:
    events = run(tmp_path, codec, rolling)
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


def test_a_killed_driver_leaves_an_aborted_application(tmp_path: Path) -> None:
    events = run(tmp_path, "lz4", "false", end="kill")
    summary = ingest([events], tmp_path / "home")
    assert (summary.applications, summary.aborted, summary.errors) == (1, 1, ())
    (application,) = Tables(tmp_path / "home").read("applications").to_pylist()
    assert (application["status"], application["complete"]) == ("aborted", False)
