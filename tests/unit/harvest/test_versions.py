"""Event logs of Spark 3.5 to 4.2, and Spark's own published samples."""

from __future__ import annotations

from pathlib import Path

import pytest

from phoebe_spark.ingest import ingest
from phoebe_spark.tables import Tables

LOGS = Path(__file__).parents[2] / "data" / "eventlogs"
PUBLISHED = Path(__file__).parents[3] / "build" / "data" / "spark-events"


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


@pytest.mark.nightly
def test_sparks_published_samples(tmp_path: Path) -> None:
    """Files of core/src/test/resources/spark-events of the Apache Spark repository (Apache License
    2.0), from Spark 1.2 to today; put there by hand."""
    files = sorted(PUBLISHED.rglob("*")) if PUBLISHED.is_dir() else []
    if not files:
        pytest.skip(f"no samples in {PUBLISHED}")
    summary = ingest([PUBLISHED], tmp_path)
    assert summary.errors == ()
    assert summary.applications + summary.skipped == summary.files
    assert Tables(tmp_path).read("stages").num_rows > 100
