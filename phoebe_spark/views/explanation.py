"""What was decided for an application's boundaries, and why: the tables' rows, joined."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from phoebe_spark.tables.deltalake import Tables

Row = dict[str, Any]

APPLICATIONS = ("app_id", "app_attempt", "app_name", "mode", "started_at", "status", "complete")


def applications(tables: Tables) -> list[Row]:
    """The applications there are, in order of their start, with the keys of `APPLICATIONS`."""
    rows = sorted(_read(tables, "applications"), key=lambda r: str(r["started_at"]))
    return [{**{k: row[k] for k in APPLICATIONS}, "status": _status(row)} for row in rows]


def knows(tables: Tables, application: str) -> bool:
    return bool(_read(tables, "applications", application))


def fingerprints(tables: Tables, application: str) -> tuple[list[Row], dict[int, str]]:
    """Of its last attempt: the rows of ``boundaries``, and what its SQL executions are called."""
    names = {
        row["execution_id"]: str(row["description"] or "")
        for row in _last_attempt(_read(tables, "executions", application))
    }
    return _last_attempt(_read(tables, "boundaries", application)), names


def boundaries(tables: Tables, application: str, execution: int | None) -> list[Row]:
    """The boundaries of an application in order, with what their stages and checkpoints became."""
    stages = {
        (row["app_attempt"], row["stage_id"]): row
        for row in _read(tables, "stages", application)
        if row.get("status") == "succeeded"
    }
    happened: dict[tuple[Any, ...], list[str]] = {}
    for row in sorted(_read(tables, "checkpoints", application), key=lambda r: r["at"]):
        happened.setdefault(tuple(row[k] for k in CHECKPOINT_KEYS), []).append(row["event"])
    found = []
    for row in _read(tables, "boundaries", application):
        if execution is not None and row["execution_id"] != execution:
            continue
        stage = stages.get((row["app_attempt"], row["stage_id"]), {})
        found.append(
            {
                **{k: row[k] for k in BOUNDARY_KEYS},
                "reason_args": orjson.loads(row["reason_args"]) if row["reason_args"] else {},
                "output_bytes": stage.get("shuffle_write_bytes"),
                "task_time_ms": stage.get("task_time_ms"),
                "checkpoint_events": happened.get(tuple(row[k] for k in CHECKPOINT_KEYS), []),
            }
        )
    return sorted(
        found, key=lambda r: (r["app_attempt"], r["execution_id"], _rank(r["boundary_id"]))
    )


CHECKPOINT_KEYS = ("app_attempt", "execution_id", "fingerprint")

BOUNDARY_KEYS = (
    "app_attempt",
    "execution_id",
    "boundary_id",
    "stage_id",
    "template",
    "fingerprint",
    "partitions",
    "decision",
    "reason_code",
    "reason_message",
    "predicted_output_bytes",
    "predicted_task_time_ms",
    "predicted_ttl_ms",
    "model_version",
)


def _status(row: Row) -> str:
    """A driver that died with its companion never wrote an end: its lease has expired."""
    lease = row["lease_until"]
    expired = row["status"] == "running" and lease is not None and lease < datetime.now(UTC)
    return "aborted" if expired else str(row["status"])


def _last_attempt(rows: list[Row]) -> list[Row]:
    """Of an application that was attempted more than once, its last attempt."""
    last = max(
        (row["app_attempt"] or "" for row in rows), key=lambda a: (len(a), a), default=""
    )  # fmt: skip
    return [row for row in rows if (row["app_attempt"] or "") == last]


def _read(tables: Tables, table: str, application: str | None = None) -> list[Row]:
    if not tables.exists(table):
        return []
    filters = None if application is None else [("app_id", "=", application)]
    rows: list[Row] = tables.read(table, filters=filters).to_pylist()
    return rows


def _rank(boundary_id: str) -> tuple[int, str]:
    digits = boundary_id.lstrip("e")
    return (int(digits) if digits.isdigit() else 1 << 30, boundary_id)
