"""Training reads the same frames through delta-spark as without Spark, and trains on them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
from deltalake import write_deltalake
from phoebe_training.data import COLUMNS, read_frames

from phoebe_spark.ingest.run import ingest
from phoebe_spark.predict.bundle import read_bundle
from phoebe_spark.tables.deltalake import Tables
from phoebe_spark.tables.rows import RECORDS, by_table, to_arrow
from tests.support import delta
from tests.support.places import ROOT, ivy_home, spark_environment, spark_home
from tests.unit.training.test_pipeline import day

LOG = Path(__file__).parents[1] / "data" / "eventlogs" / "01-tpch-sf0.1-p8.zstd"

_COMPARE = """
import sys
import pandas as pd
from delta import configure_spark_with_delta_pip
from pyspark.sql import SparkSession
from phoebe_training.data import COLUMNS, read_frames
from tests.support import delta
builder = (
    SparkSession.builder.master("local[2]")
    .config("spark.driver.memory", "1g").config("spark.ui.enabled", "false")
    .config("spark.driver.host", "127.0.0.1")
    .config("spark.sql.session.timeZone", "Asia/Kathmandu")
    .config(map=delta.SETTINGS)
)
spark = configure_spark_with_delta_pip(builder).getOrCreate()
for home in sys.argv[1:]:
    plain, by_spark = read_frames(home), read_frames(home, spark)
    for name in COLUMNS:
        pd.testing.assert_frame_equal(getattr(plain, name), getattr(by_spark, name), obj=name)
    print("EQUAL", {name: len(getattr(plain, name)) for name in COLUMNS})
spark.stop()
"""


def run(command: list[str], work: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    # Few tasks for few rows: a window shuffles to 200.
    few = {"spark.sql.shuffle.partitions": "2", **delta.SMALL}
    small = " ".join(f"--conf {key}={value}" for key, value in few.items())
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env={
            **spark_environment(),
            "SPARK_SUBMIT_OPTS": f"-Duser.home={ivy_home()}",
            "PYSPARK_SUBMIT_ARGS": f"{small} pyspark-shell",
            **environment,
        },
        cwd=work,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done


def test_both_ways_give_the_same_frames(tmp_path: Path) -> None:
    home = tmp_path / "home"
    ingest([LOG], home)
    Tables(home).append(day(1, 50.0))
    Tables(home).append(day(1, 60.0, later_h=1))  # the same keys again: the last row wins
    rows = {name: len(getattr(read_frames(home), name)) for name in COLUMNS}
    assert rows == {"applications": 2, "executions": 34, "stages": 168, "boundaries": 62}
    before = tmp_path / "before"
    tables_of_the_version_before(before)
    script = tmp_path / "compare.py"
    script.write_text(_COMPARE)
    told = run([sys.executable, str(script), str(home), str(before)], tmp_path).stdout
    assert f"EQUAL {rows}" in told
    assert told.count("EQUAL") == 2


def tables_of_the_version_before(home: Path) -> None:
    """Columns that came later are not there: with a default, and with none."""
    later = {"executions": ["plan", "restored"], "stages": ["ttl_ms", "operators"]}
    for name, records in by_table(day(1, 50.0)).items():
        rows = pa.table(to_arrow(RECORDS[name], records)).drop_columns(later.get(name, []))
        said = f"phoebe_spark {name}, format 1"
        path = Tables(home).path(name)
        write_deltalake(path, rows, partition_by=["date"], description=said)
    frames = read_frames(home)
    assert frames.executions["plan"].isna().all()
    assert not frames.executions["restored"].any()


def test_the_scheduled_job_trains_through_spark(tmp_path: Path) -> None:
    home = tmp_path / "home"
    Tables(home).append([*day(0, 50.0), *day(1, 80.0)])
    done = run(
        ["sh", str(ROOT / "conf" / "scheduled-training.sh")],
        tmp_path,
        PHOEBE_HOME=str(home),
        PHOEBE_PYTHON=sys.executable,
        PATH=f"{spark_home() / 'bin'}:{os.environ['PATH']}",
    )
    assert "8 runs, 40 stages" in done.stdout
    assert read_bundle(home).version
