"""The tables, both ways: written by the ``deltalake`` package and read and appended to by Spark
with delta-spark, and then read here again."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from phoebe_spark.tables.deltalake import Tables
from phoebe_spark.tables.records import ApplicationRecord, StageRecord
from phoebe_spark.tables.rows import RECORDS
from tests.support.places import ivy_home, spark_environment

LOG = Path(__file__).parents[1] / "data" / "eventlogs" / "01-tpch-sf0.1-p8.zstd"
AT = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)

_SPARK_SIDE = """
import json, sys
from delta import configure_spark_with_delta_pip
from pyspark.sql import SparkSession, functions as F
from tests.support import delta
home, work = sys.argv[1:]
builder = (
    SparkSession.builder.master("local[2]").appName("delta")
    .config("spark.ui.enabled", "false").config("spark.driver.memory", "1g")
    .config("spark.driver.host", "127.0.0.1").config("spark.sql.session.timeZone", "UTC")
    .config("spark.sql.shuffle.partitions", "2").config("spark.local.dir", work)
    .config("spark.sql.warehouse.dir", work + "/warehouse")
    .config(map=delta.SETTINGS)
)
spark = configure_spark_with_delta_pip(builder).getOrCreate()
read = lambda table: spark.read.format("delta").load(f"{home}/tables/{table}")
counts = {t: read(t).count() for t in ("applications", "executions", "stages", "boundaries",
                                       "executors")}
stages = read("stages")
row = stages.where("app_id = 'a'").first()
more = stages.where("app_id = 'a'").withColumn("stage_id", F.lit(77).cast("long"))
more.write.format("delta").mode("append").save(f"{home}/tables/stages")
print("RESULT " + json.dumps({
    "counts": counts,
    "types": dict(stages.dtypes),
    "row": {"parents": row.parents, "operators": row.operators, "start_ms": row.start_ms,
            "submitted_at": row.submitted_at.isoformat(), "date": row.date.isoformat(),
            "complete": row.complete, "name": row.name},
    "joined": stages.join(read("executions"), ["app_id", "execution_id"]).count(),
}))
spark.stop()
"""


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Tables:
    from phoebe_spark.ingest.run import ingest

    home = tmp_path_factory.mktemp("home")
    ingest([LOG], home)
    made = Tables(home)
    made.append(
        [
            StageRecord(
                date=date(2026, 1, 2), app_id="a", app_attempt="", source="live", written_at=AT,
                stage_id=1, stage_attempt=0, parents=[3, 4], operators=["Scan parquet", "Filter"],
                submitted_at=AT, start_ms=7, complete=True,
            ),
            ApplicationRecord(
                date=date(2026, 1, 2), app_id="a", app_attempt="", source="live", written_at=AT
            ),
        ]
    )  # fmt: skip
    return made


def test_spark_reads_and_appends(tables: Tables, tmp_path: Path) -> None:
    script = tmp_path / "delta_side.py"
    script.write_text(_SPARK_SIDE)
    environment = {**spark_environment(), "SPARK_SUBMIT_OPTS": f"-Duser.home={ivy_home()}"}
    done = subprocess.run(
        [sys.executable, str(script), tables.home, str(tmp_path)],
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    result = json.loads(done.stdout.split("RESULT ", 1)[1])
    assert result["counts"] == {
        "applications": 2, "executions": 30, "stages": 149, "boundaries": 46, "executors": 1,
    }  # fmt: skip
    assert result["row"] == {
        "parents": [3, 4], "operators": ["Scan parquet", "Filter"], "start_ms": 7,
        "submitted_at": "2026-01-02T03:04:05.678901", "date": "2026-01-02", "complete": True,
        "name": None,
    }  # fmt: skip
    assert result["types"]["written_at"] == "timestamp"
    assert result["types"]["parents"] == "array<bigint>"
    assert result["joined"] > 100

    # And back: what Spark appended, and appends of ours after Spark's.
    mine = tables.read("stages", filters=[("app_id", "=", "a")]).to_pylist()
    assert sorted(row["stage_id"] for row in mine) == [1, 77]
    (appended,) = (row for row in mine if row["stage_id"] == 77)
    assert appended["written_at"] == AT
    assert appended["operators"] == ["Scan parquet", "Filter"]
    tables.append(
        [
            StageRecord(
                date=date(2026, 1, 3), app_id="a", app_attempt="", source="live",
                written_at=datetime.now(UTC), stage_id=77, stage_attempt=0, name="later",
            )
        ]
    )  # fmt: skip
    mine = tables.read("stages", filters=[("app_id", "=", "a")]).to_pylist()
    assert {row["stage_id"]: row["name"] for row in mine} == {1: None, 77: "later"}
    assert set(RECORDS) >= set(result["counts"])
