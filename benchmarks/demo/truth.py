"""Reads the home's Delta tables: what was decided, checkpointed, predicted, and what came true."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from tests.support.home import rows

_KEYS = ["app_id", "app_attempt"]


@dataclass(frozen=True, slots=True)
class StagePrediction:
    """A stage that wrote a shuffle: what was predicted before it ran, and what was measured."""

    execution: str
    boundary_id: str
    stage_id: int
    decision: str
    reason: str
    predicted: dict[str, float]
    true: dict[str, float]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def statuses(home: Path) -> dict[str, int]:
    """How many applications are finished, aborted and so on."""
    counts = rows(home, "applications")["status"].value_counts()
    return {str(status): int(count) for status, count in counts.items()}


def stage_predictions(home: Path, app_id: str) -> list[StagePrediction]:
    """Every boundary of an application that ran and had a prediction, in order of execution."""
    execution_key = [*_KEYS, "execution_id"]
    boundaries = rows(home, "boundaries", app_id)
    stages = rows(home, "stages", app_id)
    executions = rows(home, "executions", app_id)
    stages = stages[stages["status"] == "succeeded"]
    joined = (
        boundaries.dropna(subset=["stage_id", "predicted_output_bytes"])
        .astype({"stage_id": "int64"})
        .merge(stages, on=[*_KEYS, "stage_id"], suffixes=("", "_stage"))
        .merge(
            executions[[*execution_key, "description"]], on=execution_key, suffixes=("", "_query")
        )
        .sort_values(["execution_id", "stage_id"])
    )
    return [_prediction(row) for row in joined.to_dict("records")]


def _prediction(row: dict[Any, Any]) -> StagePrediction:
    def number(name: str) -> float:
        value = row[name]
        return float("nan") if pd.isna(value) else float(value)

    pairs = {
        "output_bytes": "shuffle_write_bytes",
        "task_time_ms": "task_time_ms",
        "start_ms": "start_ms",
        "end_ms": "end_ms",
        "ttl_ms": "ttl_ms",
    }
    return StagePrediction(
        execution=str(row["description"]),
        boundary_id=str(row["boundary_id"]),
        stage_id=int(row["stage_id"]),
        decision=str(row["decision"]),
        reason=str(row["reason_code"]),
        predicted={name: number(f"predicted_{name}") for name in pairs},
        true={name: number(column) for name, column in pairs.items()},
    )
