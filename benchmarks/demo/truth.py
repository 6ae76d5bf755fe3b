"""Reads the home's Delta tables: what was decided, checkpointed, predicted, and what came true."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from deltalake import DeltaTable
from deltalake.exceptions import TableNotFoundError

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


def read_table(home: Path, table: str, key: list[str]) -> pd.DataFrame:
    """The current rows of a table (the last row of a key wins); empty when there is none yet."""
    try:
        frame = DeltaTable(str(home / "tables" / table)).to_pandas()
    except TableNotFoundError:
        return pd.DataFrame()
    return frame.sort_values("written_at", kind="stable").drop_duplicates(key, keep="last")


def app_started_after(home: Path, started_at: float) -> str:
    """The id of the first application that started at or after ``started_at`` (epoch seconds).

    Raises ``LookupError`` when none is in the table.
    """
    apps = read_table(home, "applications", _KEYS)
    if not apps.empty:
        apps = apps[apps["started_at"] >= pd.Timestamp(started_at - 1, unit="s", tz="UTC")]
    if apps.empty:
        raise LookupError(f"no application in {home}/tables/applications")
    return str(apps.sort_values("started_at")["app_id"].iloc[0])


def checkpoint_events(home: Path, app_id: str, event: str) -> int:
    """How many checkpoints of an application were ``committed``, ``restored`` and so on."""
    key = [*_KEYS, "execution_id", "fingerprint", "event"]
    frame = read_table(home, "checkpoints", key)
    if frame.empty:
        return 0
    return int(((frame["app_id"] == app_id) & (frame["event"] == event)).sum())


def statuses(home: Path) -> dict[str, int]:
    """How many applications are finished, aborted and so on."""
    apps = read_table(home, "applications", _KEYS)
    return {} if apps.empty else {str(k): int(v) for k, v in apps["status"].value_counts().items()}


def stage_predictions(home: Path, app_id: str) -> list[StagePrediction]:
    """Every boundary of an application that ran and had a prediction, in order of execution."""
    execution_key = [*_KEYS, "execution_id"]
    boundaries = read_table(home, "boundaries", [*execution_key, "boundary_id"])
    stages = read_table(home, "stages", [*_KEYS, "stage_id", "stage_attempt"])
    executions = read_table(home, "executions", execution_key)
    if boundaries.empty or stages.empty:
        return []
    stages = stages[stages["status"] == "succeeded"]
    joined = (
        boundaries[boundaries["app_id"] == app_id]
        .dropna(subset=["stage_id", "predicted_output_bytes"])
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
