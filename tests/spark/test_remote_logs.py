"""Event logs on a file system that only Spark knows (Hadoop's ``viewfs``, mounted over a folder),
read by the tasks of a cluster of two workers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import orjson

from phoebe_spark.ingest.run import ingest
from phoebe_spark.tables.deltalake import Tables
from phoebe_spark.tables.rows import RECORDS
from tests.support.cluster import standalone
from tests.support.home import rows_as_text
from tests.support.places import ROOT, spark_environment

LOGS = ROOT / "tests" / "data" / "eventlogs"
SCRIPT = """
import sys
from datetime import datetime, UTC
from pyspark.sql import SparkSession
from phoebe_spark.ingest.run import ingest
import orjson
logs, home, master = sys.argv[1:]
builder = SparkSession.builder.master(master).config("spark.ui.enabled", "false")
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
    (logs / "deep" / "eventlog_v2_app" / "appstatus_app").touch()
    shutil.copy(LOGS / "spark-4.0.1.gz", logs / "app")
    (logs / "note").write_text("no log\n")
    shutil.copy(LOGS / "spark-3.5.7.gz", logs / "old")
    os.utime(logs / "old", (1_500_000_000, 1_500_000_000))
    (tmp_path / "cluster").mkdir()
    with standalone(tmp_path / "cluster") as cluster:
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, logs.as_uri(), str(home), cluster.master],
            env={
                **spark_environment(),
                "TMPDIR": str(scratch),
                "PYSPARK_PYTHON": sys.executable,
                "SPARK_LOCAL_IP": "127.0.0.1",
            },
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
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
    assert (second["applications"], second["skipped"]) == (1, 2), second["errors"]
    assert Tables(home).read("applications").num_rows == 3
    # The rows are those of the same logs read here.
    other = tmp_path / "other"
    here = ingest([logs], other)
    assert here.rows == first["rows"] + second["rows"]
    for table in RECORDS:
        assert rows_as_text(home, table) == rows_as_text(other, table), table
