"""What stands between an ingest and the tables: batches, and tables in memory."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import pytest

from phoebe_spark.tables.batch import Batch
from phoebe_spark.tables.memory import MemoryTables
from phoebe_spark.tables.records import ApplicationRecord, ExecutionRecord, Record, from_row

NOW = datetime(2026, 1, 2, tzinfo=UTC)


def of(kind: type[Any], app_id: str, **more: Any) -> Any:
    return kind(
        date=NOW.date(), app_id=app_id, app_attempt="", source="eventlog", written_at=NOW, **more
    )


class Written(MemoryTables):
    """Tables that remember each append, and may fail."""

    def __init__(self) -> None:
        super().__init__()
        self.commits: list[list[Record]] = []
        self.broken = False

    def append(self, records: Iterable[Record]) -> int:
        rows = list(records)
        if self.broken:
            raise OSError("no")
        self.commits.append(rows)
        return super().append(rows)


def test_applications_are_written_last() -> None:
    tables = Written()
    rows = [of(ApplicationRecord, "a"), of(ExecutionRecord, "a", execution_id=0)]
    with Batch(tables) as batch:
        assert batch.append(rows) == 2
        assert tables.commits == []
    assert tables.commits == [[rows[1]], [rows[0]]]


def test_a_batch_is_written_when_it_is_full_and_when_it_is_asked_about() -> None:
    tables = Written()
    with Batch(tables, rows_a_commit=2) as batch:
        batch.append([of(ExecutionRecord, "a", execution_id=0)])
        assert tables.added == []
        batch.append([of(ExecutionRecord, "a", execution_id=1)])
        assert len(tables.added) == 2
        batch.append([of(ApplicationRecord, "a")])
        assert batch.read("applications", filters=[("app_id", "=", "b")]).num_rows == 0
        assert len(tables.added) == 2
        assert batch.read("applications", filters=[("app_id", "=", "a")]).num_rows == 1
        assert len(tables.added) == 3


def test_what_could_not_be_written_waits() -> None:
    tables = Written()
    batch = Batch(tables)
    batch.append([of(ApplicationRecord, "a")])
    tables.broken = True
    with pytest.raises(OSError, match="no"):
        batch.flush()
    tables.broken = False
    batch.flush()
    assert [row.app_id for row in tables.added] == ["a"]


def test_tables_in_memory_answer_as_tables_do() -> None:
    early = of(ApplicationRecord, "a", status="running")
    late = of(ApplicationRecord, "a", status="finished")
    tables = MemoryTables([early])
    tables.append([late])
    filters = [("app_id", "=", "a"), ("app_attempt", "=", "")]
    assert tables.read("applications", filters=filters, latest=False).num_rows == 2
    assert tables.read("applications", filters=filters).num_rows == 1
    assert tables.read("executions").num_rows == 0
    (row,) = MemoryTables([early]).read("applications").to_pylist()
    assert from_row(ApplicationRecord, {**row, "a later column": 1}) == early
