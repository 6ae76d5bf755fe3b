"""Reads a home's Delta tables as tests, benches and the demo need them: by application."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd

from phoebe_spark.tables.deltalake import Tables


def rows(home: Path, table: str, app_id: str | None = None) -> pd.DataFrame:
    """The current rows of a table, of one application if given; empty when there is none yet."""
    filters = [("app_id", "=", app_id)] if app_id is not None else None
    found: pd.DataFrame = Tables(home).read(table, filters=filters).to_pandas()
    return found


def records(home: Path, table: str, app_id: str | None = None) -> list[dict[Any, Any]]:
    """:func:`rows` as dictionaries."""
    found: list[dict[Any, Any]] = rows(home, table, app_id).to_dict("records")
    return found


def rows_as_text(home: Path, table: str) -> list[str]:
    """All rows of a table but for when they were written, in an order that two homes share."""
    found = Tables(home).read(table, latest=False).drop_columns(["written_at"]).to_pylist()
    return sorted(map(repr, found))


def app_started_after(home: Path, started_at: float) -> str:
    """The id of the first application that started at or after ``started_at`` (epoch seconds).

    Raises ``LookupError`` when none is in the table.
    """
    apps = rows(home, "applications")
    apps = apps[apps["started_at"] >= pd.Timestamp(started_at - 1, unit="s", tz="UTC")]
    if apps.empty:
        raise LookupError(f"no application after {started_at} in {home}/tables/applications")
    return str(apps.sort_values("started_at")["app_id"].iloc[0])


def checkpoint_events(home: Path, app_id: str) -> Counter[str]:
    """How many checkpoints of an application were ``committed``, ``restored`` and so on."""
    return Counter(str(r["event"]) for r in records(home, "checkpoints", app_id))


def boundaries(home: Path, app_id: str, query: str) -> list[dict[Any, Any]]:
    """The boundary rows of the executions whose description is ``query``."""
    executions = {
        r["execution_id"] for r in records(home, "executions", app_id) if r["description"] == query
    }
    return [r for r in records(home, "boundaries", app_id) if r["execution_id"] in executions]
