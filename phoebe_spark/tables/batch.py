"""Between an ingest and the tables: the rows of small logs become one commit per table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from phoebe_spark.tables.memory import asked_for
from phoebe_spark.tables.protocol import AnyTables
from phoebe_spark.tables.records import ApplicationRecord, Record
from phoebe_spark.tables.rows import Filter

if TYPE_CHECKING:
    import pyarrow

ROWS_AT_ONCE = 5_000
"""As many rows are held before they are written."""


class Batch:
    """Tables that are written when there is enough to write, and when the ``with`` block ends.

    An application's row is written after all others, so that an ingest cut short is done again.
    """

    def __init__(self, tables: AnyTables, rows_a_commit: int = ROWS_AT_ONCE) -> None:
        self.home = tables.home
        self._tables = tables
        self._rows_a_commit = rows_a_commit
        self._waiting: list[Record] = []

    def append(self, records: Iterable[Record]) -> int:
        """As `Tables.append`, later. Raises what the tables raise, also for earlier rows."""
        before = len(self._waiting)
        self._waiting.extend(records)
        added = len(self._waiting) - before
        if len(self._waiting) >= self._rows_a_commit:
            self.flush()
        return added

    def read(
        self, table: str, *, filters: Sequence[Filter] | None = None, latest: bool = True
    ) -> pyarrow.Table:
        """As `Tables.read`; of the filters' comparisons only equality is known here."""
        if any(asked_for(row, table, filters) for row in self._waiting):
            self.flush()
        return self._tables.read(table, filters=filters, latest=latest)

    def flush(self) -> None:
        """Write what waits. Raises what the tables raise; it waits on, then."""
        applications: list[Record] = [
            row for row in self._waiting if isinstance(row, ApplicationRecord)
        ]
        others = [row for row in self._waiting if not isinstance(row, ApplicationRecord)]
        self._tables.append(others)
        self._waiting = applications
        self._tables.append(applications)
        self._waiting = []

    def __enter__(self) -> Batch:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.flush()
