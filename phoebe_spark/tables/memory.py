"""Tables in memory: what a task on an executor sees of a home.

It has what the tables know of its applications, and room for what it adds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from phoebe_spark.tables.records import Record
from phoebe_spark.tables.rows import RECORDS, Filter, last_of_key, to_arrow

if TYPE_CHECKING:
    import pyarrow


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

        rows = [row for row in (*self._known, *self.added) if asked_for(row, table, filters)]
        found = pa.table(to_arrow(RECORDS[table], rows))
        return last_of_key(found, RECORDS[table].KEY) if latest else found


def asked_for(row: Record, table: str, filters: Sequence[Filter] | None) -> bool:
    """Whether a row is of those that a `read` with these filters (equality only) returns."""
    return table == row.TABLE and all(
        getattr(row, name) == value for name, _, value in (filters or ())
    )
