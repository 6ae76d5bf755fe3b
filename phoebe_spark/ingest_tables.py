"""What stands between an ingest and the tables: a commit for many logs, and tables in memory.

`Batch` gathers the rows of small logs into one commit per table. `MemoryTables` is what a task on
an executor sees: what the tables know of its applications, and room for what it adds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from phoebe_spark.ingest_log import ROWS_AT_ONCE, AnyTables
from phoebe_spark.records import ApplicationRecord, Record
from phoebe_spark.tables import RECORDS, Filter, last_of_key, to_arrow

if TYPE_CHECKING:
    import pyarrow


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
        if any(_asked_for(row, table, filters) for row in self._waiting):
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


class MemoryTables:
    """The rows ``known`` of some applications, and ``added``, those appended since."""

    home = ""

    def __init__(self, known: Iterable[Record] = ()) -> None:
        self._known = list(known)
        self.added: list[Record] = []

    def append(self, records: Iterable[Record]) -> int:
        """Adds to ``added``; returns how many rows."""
        before = len(self.added)
        self.added.extend(records)
        return len(self.added) - before

    def read(
        self, table: str, *, filters: Sequence[Filter] | None = None, latest: bool = True
    ) -> pyarrow.Table:
        """As `Tables.read`; of the filters' comparisons only equality is known here."""
        import pyarrow as pa

        rows = [row for row in (*self._known, *self.added) if _asked_for(row, table, filters)]
        found = pa.table(to_arrow(RECORDS[table], rows))
        return last_of_key(found, RECORDS[table].KEY) if latest else found


def _asked_for(row: Record, table: str, filters: Sequence[Filter] | None) -> bool:
    return table == row.TABLE and all(
        getattr(row, name) == value for name, _, value in (filters or ())
    )
