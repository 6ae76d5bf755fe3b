"""Event logs on a file system that only Spark knows: Hadoop's ``viewfs``, mounted over a folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import orjson

from phoebe_spark.tables import Tables
from tests.support.places import ROOT, spark_environment

LOGS = ROOT / "tests" / "data" / "eventlogs"
SCRIPT = """
import sys
from datetime import datetime, UTC
from pyspark.sql import SparkSession
from phoebe_spark.ingest import ingest
import orjson
logs, home = sys.argv[1:]
builder = SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false")
builder.config("spark.hadoop.fs.viewfs.mounttable.store.link./logs", logs).getOrCreate()
uris = ["viewfs://store/logs", "viewfs://store/logs/none", "nofs://store/logs"]
since = datetime.fromtimestamp(1_600_000_000, tz=UTC)
print(orjson.dumps([ingest(uris, home, since=since), ingest(uris, home)]).decode())
"""


def test_logs_are_read_through_hadoops_file_systems(tmp_path: Path) -> None:
    logs, home, scratch = tmp_path / "logs", tmp_path / "home", tmp_path / "scratch"
    (logs / "deep" / "eventlog_v2_app").mkdir(parents=True)
    scratch.mkdir()
    shutil.copy(LOGS / "01-tpch-sf0.1-p8.zstd", logs / "deep" / "eventlog_v2_app" / "events_1_app")
    shutil.copy(LOGS / "spark-4.0.1.gz", logs / "app")
    (logs / "note").write_text("no log\n")
    shutil.copy(LOGS / "spark-3.5.7.gz", logs / "old")
    os.utime(logs / "old", (1_500_000_000, 1_500_000_000))
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, logs.as_uri(), str(home)],
        env={**spark_environment(), "TMPDIR": str(scratch)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = orjson.loads(done.stdout.splitlines()[-1])
    assert (first["applications"], first["too_old"]) == (2, 1)
    reasons = {error["path"]: error["reason"] for error in first["errors"]}
    assert set(reasons) == {"viewfs://store/logs/note", "viewfs://store/logs/none",
                            "nofs://store/logs"}  # fmt: skip
    assert "not JSON" in reasons["viewfs://store/logs/note"]
    assert "FileNotFound" in reasons["viewfs://store/logs/none"]
    assert "nofs" in reasons["nofs://store/logs"]
    assert (second["applications"], second["skipped"]) == (1, 2)
    assert Tables(home).read("applications").num_rows == 3
    assert not list(scratch.glob("phoebe-log-*")), "copies are gone"
