"""The Delta tables under ``<home>/tables``: records in, Arrow out.

Schemas are derived from the dataclasses of `tables.records`; one table per class, partitioned
by ``date``. Rows are only ever appended; `Tables.read` returns the last row of each key. Written
with the ``deltalake`` package, at a table protocol (1, 2) that delta-spark reads and appends to.

A later version may add columns: they are added to the tables with its first append, and what was
written before reads as their default. What is not an added column is another `FORMAT`; the tables
carry theirs in their description, and a version that does not know it says so.

Only ``deltalake`` (with its own small Arrow, ``arro3``) is imported here: a companion writes with
it in milliseconds. Reading takes ``pyarrow``, imported when first needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from arro3.core import Table
from deltalake import CommitProperties, DeltaTable, write_deltalake
from deltalake.exceptions import CommitFailedError, TableNotFoundError

from phoebe_spark.tables.ownership import checked_format, claim, description, needs_one
from phoebe_spark.tables.records import Record
from phoebe_spark.tables.rows import (
    PARTITION_COLUMN,
    RECORDS,
    Filter,
    by_table,
    empty,
    last_of_key,
    to_arrow,
    with_columns,
)
from phoebe_spark.tables.storage_options import options_for

if TYPE_CHECKING:
    import pyarrow

_LOST_RACE = (CommitFailedError, FileExistsError)


@dataclass(frozen=True, slots=True)
class Optimized:
    """What `Tables.optimize` did: so many files became so many."""

    table: str
    files_removed: int
    files_added: int


class Tables:
    """The tables of one home.

    >>> tables = Tables("/var/lib/phoebe")
    >>> tables.append(harvest.consume(event))
    >>> tables.read("stages", filters=[("app_id", "=", "app-1")])

    ``home`` is a directory, or the URI of one that the ``deltalake`` package can write to, with
    ``storage_options``, or else with what `tables.storage_options` makes of Hadoop's settings
    (raises `StoreUnreachableError` where that cannot be done). Several processes may append at
    once: a commit that loses a race is tried again. Errors are the ``deltalake`` package's
    (``DeltaError``) and ``OSError``.
    """

    def __init__(
        self, home: str | Path, *, storage_options: dict[str, str] | None = None, attempts: int = 8
    ) -> None:
        self.home = str(home)
        self._options = options_for(self.home) if storage_options is None else storage_options
        self._attempts = attempts
        self._checked: set[str] = set()
        self._claimed = False

    def path(self, table: str) -> str:
        """Where ``table`` lives. Raises ``KeyError`` for a name that is no table."""
        name = RECORDS[table].TABLE
        if "://" in self.home:
            return f"{self.home.rstrip('/')}/tables/{name}"
        return str(Path(self.home).expanduser() / "tables" / name)

    def append(self, records: Iterable[Record]) -> int:
        """Append ``records``, one commit per table; returns how many rows were written.

        Tables are created on first use. Each table's rows appear all at once or not at all.
        """
        groups = by_table(records)
        for table, rows in groups.items():
            self._commit(table, to_arrow(RECORDS[table], rows))
        return sum(map(len, groups.values()))

    def claim(self) -> None:
        """Raises `OtherWriterError` where the home is on S3 and another kind of writer has it."""
        if not self._claimed:
            if needs_one(self.home):
                claim(self.home, self._options)
            self._claimed = True

    def _commit(self, table: str, rows: Table) -> None:
        self.claim()
        path = self.path(table)
        if table not in self._checked and DeltaTable.is_deltatable(path, self._options):
            self._open(table)
        self._checked.add(table)
        try:
            self._write(path, table, rows)
        except _LOST_RACE:
            self._write_again(path, table, rows)

    def _write_again(self, path: str, table: str, rows: Table) -> None:
        # Imported when a race was lost: it brings asyncio and ssl along, memory that a companion in
        # `observe` hardly ever needs.
        from tenacity import (
            Retrying,
            retry_if_exception_type,
            stop_after_attempt,
            wait_random_exponential,
        )

        retrying = Retrying(
            retry=retry_if_exception_type(_LOST_RACE),
            stop=stop_after_attempt(self._attempts - 1),
            wait=wait_random_exponential(multiplier=0.02, max=2.0),
            reraise=True,
        )
        retrying(self._write, path, table, rows)

    def _write(self, path: str, table: str, rows: Table) -> None:
        write_deltalake(
            path,
            rows,
            mode="append",
            partition_by=[PARTITION_COLUMN],
            schema_mode="merge",  # a later version's new columns
            description=description(table),
            storage_options=self._options,
            commit_properties=CommitProperties(max_commit_retries=50),
        )

    def _open(self, table: str) -> DeltaTable:
        """Raises `NewerTablesError`, `ForeignTableError`, and ``TableNotFoundError`` for a table
        never written."""
        delta = DeltaTable(self.path(table), storage_options=self._options)
        checked_format(self.path(table), delta.metadata().description)
        return delta

    def exists(self, table: str) -> bool:
        return DeltaTable.is_deltatable(self.path(table), self._options)

    def read(
        self,
        table: str,
        *,
        columns: Sequence[str] | None = None,
        filters: Sequence[Filter] | None = None,
        latest: bool = True,
    ) -> pyarrow.Table:
        """The table's rows; with ``latest`` only the last one of each key (by ``written_at``).

        ``filters`` are conjunctive ``(column, op, value)`` triples as in ``pyarrow.dataset``; with
        ``latest`` they should only name columns that are equal in all rows of a key. A table that
        was never written is empty.
        """
        record = RECORDS[table]
        try:
            delta = self._open(table)
        except TableNotFoundError:
            none = empty(record)
            return none.select(list(columns)) if columns is not None else none
        wanted = None
        if columns is not None:
            needed = (*record.KEY, "written_at") if latest else ()
            wanted = list(dict.fromkeys((*columns, *needed)))
        there = {field.name for field in delta.schema().fields}
        asked = wanted if wanted is not None else [field.name for field in fields(record)]
        wanted = [name for name in asked if name in there]
        rows = _rows(self.path(table), delta, wanted, filters)
        rows = with_columns(rows, record, [name for name in asked if name not in there])
        if latest:
            rows = last_of_key(rows, record.KEY)
        return rows.select(list(columns)) if columns is not None else rows

    def optimize(self, table: str) -> Optimized:
        """Rewrite the small files of each partition as few large ones, and prune the table's log.

        Appends of running companions go on meanwhile. Raises ``TableNotFoundError`` for a table
        that was never written.
        """
        self.claim()
        delta = self._open(table)
        found = delta.optimize.compact()
        delta.create_checkpoint()
        delta.cleanup_metadata()
        return Optimized(table, int(found["numFilesRemoved"]), int(found["numFilesAdded"]))

    def vacuum(self, table: str, *, retention_hours: int, dry_run: bool = False) -> list[str]:
        """Delete the files that no version of the table younger than ``retention_hours`` refers
        to, and return them. Who still reads an older version then fails: under 168 hours (a week,
        Delta's own default) only when nothing reads the tables.

        What the table's log does not name stays: it may be somebody else's."""
        delta = self._open(table)
        if not dry_run:
            self.claim()  # a vacuum commits too
        return delta.vacuum(
            retention_hours=retention_hours,
            dry_run=dry_run,
            enforce_retention_duration=False,
            full=False,
        )


def _rows(
    place: str, delta: DeltaTable, columns: list[str], filters: Sequence[Filter] | None
) -> pyarrow.Table:
    from pyarrow import fs
    from pyarrow.parquet import filters_to_expression

    wanted = filters_to_expression(list(filters)) if filters else None
    # deltalake's own file system is in Python: if a thread of Arrow's still holds one of its files
    # when the interpreter ends, the process aborts. Arrow's needs no Python.
    local = "://" not in place
    files = fs.SubTreeFileSystem(place, fs.LocalFileSystem()) if local else None
    data = delta.to_pyarrow_dataset(filesystem=files)
    rows: pyarrow.Table = data.to_table(columns=columns, filter=wanted)
    return rows
