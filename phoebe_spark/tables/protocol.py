"""What ingest and harvest need of a home's tables, whoever writes them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import pyarrow

    from phoebe_spark.tables.records import Record
    from phoebe_spark.tables.rows import Filter


class Appends(Protocol):
    """Where rows go: all that a companion needs."""

    def append(self, records: Iterable[Record]) -> int: ...


class AnyTables(Appends, Protocol):
    """`Tables`, or what stands for it.

    ``home`` is empty where nothing can fail to be written.
    """

    home: str

    def read(
        self, table: str, *, filters: Sequence[Filter] | None = None, latest: bool = True
    ) -> pyarrow.Table: ...
