"""True stages, fingerprints and predictions as the benches and the demo read them from tables."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from benchmarks.demo import show, truth
from benchmarks.oracle import Best
from benchmarks.twelve import true_query
from phoebe_spark.tables.deltalake import Tables
from phoebe_spark.tables.records import BoundaryRecord, ExecutionRecord, StageRecord

NOW = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
COMMON: dict[str, Any] = {
    "date": NOW.date(),
    "app_id": "app-1",
    "app_attempt": "",
    "source": "live",
    "written_at": NOW,
}


def _stage(stage_id: int, parents: list[int], written: int, start: int, end: int) -> StageRecord:
    return StageRecord(
        **COMMON,
        stage_id=stage_id,
        stage_attempt=0,
        execution_id=7,
        parents=parents,
        status="succeeded",
        start_ms=start,
        end_ms=end,
        ttl_ms=9000 - end,
        shuffle_write_bytes=written,
        task_time_ms=end - start,
    )


@pytest.fixture
def home(tmp_path: Path) -> Path:
    Tables(tmp_path).append(
        [
            ExecutionRecord(
                **COMMON,
                execution_id=7,
                description="tpch/q5",
                duration_ms=9000,
                status="succeeded",
            ),
            _stage(1, [], 500, 0, 2000),
            _stage(2, [1], 300, 2000, 5000),
            _stage(3, [2], 0, 5000, 8900),
            BoundaryRecord(
                **COMMON,
                execution_id=7,
                boundary_id="e1",
                stage_id=1,
                fingerprint="abc",
                predicted_output_bytes=250.0,
                predicted_start_ms=0.0,
                decision="checkpoint",
                reason_code="chosen",
            ),
            BoundaryRecord(
                **COMMON, execution_id=7, boundary_id="e0", stage_id=2, decision="refuse"
            ),
        ]
    )
    return tmp_path


def test_true_query(home: Path) -> None:
    query = true_query(home, "app-1", "tpch/q5")
    assert query.shuffle_bytes == 800
    assert [s.eligible for s in query.stages] == [True, False, False]
    assert [s.carries for s in query.stages] == ["shuffle", "shuffle", "other"]
    assert query.stages[1].parents == (1,)
    assert query.stages[0].ttl_s == 7.0
    assert query.force(Best(1.0, checkpointed=frozenset({1}))) == "abc"
    assert query.force(Best(0.0)) == "none"
    with pytest.raises(LookupError):
        true_query(home, "app-1", "tpch/q6")


def test_prediction_against_truth(home: Path) -> None:
    (only,) = truth.stage_predictions(home, "app-1")
    assert (only.execution, only.boundary_id, only.decision) == ("tpch/q5", "e1", "checkpoint")
    assert only.predicted["output_bytes"] == 250.0
    assert only.true["output_bytes"] == 500.0
    assert math.isnan(only.predicted["end_ms"])


def test_q_errors_leave_out_what_is_not_known() -> None:
    known = {"output_bytes": 9.0, "task_time_ms": None}
    stages = [{"predicted": {**_NONE, **known}, "true": {**_NONE, "output_bytes": 19.0}}]
    assert show.q_errors(stages) == {"output_bytes": 2.0}


_NONE: dict[str, float | None] = dict.fromkeys(
    ("output_bytes", "task_time_ms", "start_ms", "end_ms", "ttl_ms")
)
