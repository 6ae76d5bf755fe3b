"""Tables on a file system that only Spark reaches, written by delta-spark: the rows that the
``deltalake`` package writes, and nothing twice."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import orjson
import pytest

from phoebe_spark.errors import OtherWriterError
from phoebe_spark.ingest.run import ingest
from phoebe_spark.tables.deltalake import Tables
from phoebe_spark.tables.ownership import claim
from phoebe_spark.tables.rows import RECORDS
from tests.support import delta
from tests.support.home import rows_as_text
from tests.support.places import ROOT, ivy_home, spark_environment

LOGS = ROOT / "tests" / "data" / "eventlogs"
SCRIPT = """
import sys
import orjson
from phoebe_spark.ingest.run import ingest
from phoebe_spark.tables.delta_spark import delta_session
from phoebe_spark.tables.ownership import claim_by_spark
told = [ingest([log], "viewfs://store/home") for log in sys.argv[1:]]
for _ in range(2):  # as on S3
    claim_by_spark(delta_session(), "viewfs://store/home/of")
print(orjson.dumps(told).decode())
"""


def test_a_home_that_only_spark_reaches(tmp_path: Path) -> None:
    home, conf, logs = tmp_path / "home", tmp_path / "conf", tmp_path / "logs"
    for folder in (home, conf, logs):
        folder.mkdir()
    log = logs / "app"
    shutil.copy(LOGS / "spark-4.0.1.gz", log)
    settings = {
        "spark.master": "local[1]",
        "spark.ui.enabled": "false",
        "spark.driver.memory": "1g",
        "spark.sql.session.timeZone": "Asia/Tokyo",  # rows are in UTC all the same
        "spark.local.dir": str(tmp_path),
        "spark.sql.warehouse.dir": str(tmp_path / "warehouse"),
        "spark.sql.shuffle.partitions": "1",
        **delta.SMALL,
        "spark.hadoop.fs.viewfs.mounttable.store.link./home": home.as_uri(),
    }
    lines = (f"{key} {value}\n" for key, value in settings.items())
    (conf / "spark-defaults.conf").write_text("".join(lines))
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(log), str(log)],
        env={
            **spark_environment(),
            "SPARK_CONF_DIR": str(conf),
            "SPARK_SUBMIT_OPTS": f"-Duser.home={ivy_home()}",
        },
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    first, second = orjson.loads(done.stdout.splitlines()[-1])
    assert (first["applications"], first["errors"]) == (1, [])
    assert (second["applications"], second["skipped"], second["rows"]) == (0, 1, 0)
    other = tmp_path / "other"
    summary = ingest([log], other)
    assert summary.rows == first["rows"]
    for table in RECORDS:
        assert rows_as_text(home, table) == rows_as_text(other, table), table
        # Without a session: the package appends to what Spark made, and knows its format.
        if Tables(home).exists(table):
            assert Tables(home)._open(table).metadata().description == (
                Tables(other)._open(table).metadata().description
            )
    with pytest.raises(OtherWriterError, match="--writer delta-spark"):
        claim(str(home / "of"))
    assert (ingest([log], home).skipped, ingest([log], home).rows) == (1, 0)
