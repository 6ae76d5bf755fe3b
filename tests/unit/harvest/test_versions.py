"""Event logs of Spark 3.5 to 4.2, and Spark's own published samples."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from phoebe_spark.ingest.run import ingest
from phoebe_spark.tables.deltalake import Tables
from tests.support import tpc

LOGS = Path(__file__).parents[2] / "data" / "eventlogs"


@pytest.mark.parametrize("version", ["3.5.7", "4.0.1", "4.1.0"])
def test_logs_of_other_versions(version: str, tmp_path: Path) -> None:
    summary = ingest([LOGS / f"spark-{version}.gz"], tmp_path)
    assert (summary.applications, summary.errors, summary.bad_lines) == (1, (), 0)
    tables = Tables(tmp_path)
    (application,) = tables.read("applications").to_pylist()
    assert (application["spark_version"], application["job"]) == (version, "sample")
    assert application["complete"]
    executions = {row["description"]: row for row in tables.read("executions").to_pylist()}
    joined, failing = executions["joined"], executions["failing"]
    assert (joined["status"], joined["complete"]) == ("succeeded", True)
    assert (failing["status"], failing["error_class"]) == ("failed", "DIVIDE_BY_ZERO")
    stages = tables.read("stages").to_pylist()
    wrote = [
        row
        for row in stages
        if row["execution_id"] == joined["execution_id"] and row["shuffle_write_bytes"]
    ]
    assert len(wrote) >= 3
    assert all(row["boundary_id"] and row["template"] and row["complete"] for row in wrote)
    assert any(row["tasks_failed"] for row in stages)
    assert sum(row["execution_id"] is None for row in stages) == 2, "the plain RDD job"


@pytest.mark.nightly(guarded_by="tests/unit/harvest/test_versions.py::test_logs_of_other_versions")
def test_sparks_published_samples(tmp_path: Path) -> None:
    """The logs that Spark tests its History Server with, of Spark 1.2 to 4.2, in its own test
    artifact (Apache License 2.0)."""
    jar = tpc.artifact("org.apache.spark:spark-core_2.13:4.2.0:jar:tests", "spark-events")
    with zipfile.ZipFile(jar) as archive:
        names = [name for name in archive.namelist() if name.startswith("spark-events/")]
        archive.extractall(tmp_path, names)
    summary = ingest([tmp_path / "spark-events"], tmp_path / "home")
    assert summary.errors == ()
    assert (summary.files, summary.applications, summary.bad_lines) == (19, 19, 0)
    tables = Tables(tmp_path / "home")
    assert tables.read("stages").num_rows == 39
    assert all(row["complete"] for row in tables.read("applications").to_pylist())
