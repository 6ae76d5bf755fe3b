"""Records as rows: one Arrow schema for each record class, whoever writes or reads the table.

Only ``deltalake``'s own small Arrow, ``arro3``, is imported here; what needs ``pyarrow`` imports it
when it is called.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from datetime import UTC, date, datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, Any, Union, get_args, get_origin, get_type_hints

from arro3.core import Array, DataType, Field, Schema, Table, list_array

from phoebe_spark.tables.records import (
    ApplicationRecord,
    BoundaryRecord,
    CheckpointRecord,
    ExecutionRecord,
    ExecutorRecord,
    Record,
    StageRecord,
    TempStorageRecord,
)

if TYPE_CHECKING:
    import pyarrow

RECORDS: dict[str, type[Record]] = {
    record.TABLE: record
    for record in (
        ApplicationRecord,
        ExecutionRecord,
        StageRecord,
        BoundaryRecord,
        ExecutorRecord,
        CheckpointRecord,
        TempStorageRecord,
    )
}

PARTITION_COLUMN = "date"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


Filter = tuple[str, str, Any]


def by_table(records: Iterable[Record]) -> dict[str, list[Record]]:
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(record.TABLE, []).append(record)
    return groups


def with_columns(rows: pyarrow.Table, record: type[Record], names: list[str]) -> pyarrow.Table:
    """Columns that the table does not have yet, as their defaults."""
    import pyarrow as pa

    if not names:
        return rows
    kinds = empty(record).schema
    defaults = {field.name: field.default for field in fields(record)}
    for name in names:
        value = pa.scalar(defaults[name], type=kinds.field(name).type)
        rows = rows.append_column(name, pa.repeat(value, rows.num_rows))
    return rows


def last_of_key(rows: pyarrow.Table, key: tuple[str, ...]) -> pyarrow.Table:
    import pyarrow as pa

    if rows.num_rows == 0:
        return rows
    ordered = rows.sort_by([("written_at", "ascending")])
    ranks = pa.table(
        {**{name: ordered[name] for name in key}, "rank_": pa.array(range(ordered.num_rows))}
    )
    last = ranks.group_by(list(key), use_threads=False).aggregate([("rank_", "max")])
    return ordered.take(last["rank__max"].combine_chunks().sort())


def empty(record: type[Record]) -> pyarrow.Table:
    import pyarrow as pa

    rows: pa.Table = pa.table(to_arrow(record, []))
    return rows


def to_arrow(record: type[Record], rows: Sequence[Record]) -> Table:
    """Rows of one class as an Arrow table of that class's schema.

    Raises ``ValueError`` for a timestamp without a time zone.
    """
    schema = arrow_schema(record)
    columns = [
        make([getattr(row, name) for row in rows])
        for name, (_, _, make) in _columns(record.TABLE).items()
    ]
    return Table.from_arrays(columns, schema=schema)


def arrow_schema(record: type[Record]) -> Schema:
    """The table schema of a record class: field order, types and nullability of the dataclass."""
    return Schema(
        [
            Field(name, kind, nullable=null)
            for name, (kind, null, _) in _columns(record.TABLE).items()
        ]
    )


_Maker = Callable[[list[Any]], Array]


@cache
def _columns(table: str) -> dict[str, tuple[DataType, bool, _Maker]]:
    record = RECORDS[table]
    hints = get_type_hints(record)
    found: dict[str, tuple[DataType, bool, _Maker]] = {}
    for field in fields(record):
        hint, nullable = _optional(hints[field.name])
        kind, make = _column(hint)
        found[field.name] = (kind, nullable, make)
    return found


def _optional(hint: Any) -> tuple[Any, bool]:
    if get_origin(hint) in (Union, types.UnionType):
        inner = [arg for arg in get_args(hint) if arg is not type(None)]
        if len(inner) != 1:
            raise TypeError(f"a column must have one type, not {hint}")
        return inner[0], True
    return hint, False


def _column(hint: Any) -> tuple[DataType, _Maker]:
    """The Arrow type of a Python type, and what makes a column of it."""
    if get_origin(hint) is list:
        inner, make_inner = _column(get_args(hint)[0])
        kind = DataType.list(Field("element", inner, nullable=True))
        return kind, lambda values: _lists(values, kind, make_inner)
    if hint is datetime:
        stamp = DataType.timestamp("us", tz="UTC")
        return stamp, lambda values: _plain([_micros(v) for v in values], DataType.int64(), stamp)
    if hint is date:
        day = DataType.date32()
        return day, lambda values: _plain([_days(v) for v in values], DataType.int32(), day)
    plain = {
        int: DataType.int64(),
        float: DataType.float64(),
        bool: DataType.bool(),
        str: DataType.string(),
    }
    if hint not in plain:
        raise TypeError(f"no column type for {hint}")
    kind = plain[hint]
    return kind, lambda values: _plain(values, kind)


def _plain(values: list[Any], kind: DataType, target: DataType | None = None) -> Array:
    made = Array(values, type=kind)
    return made if target is None else made.cast(target)


def _lists(values: list[Any], kind: DataType, make_inner: _Maker) -> Array:
    offsets = [0]
    flat: list[Any] = []
    for value in values:
        flat.extend(value or ())
        offsets.append(len(flat))
    return list_array(
        Array(offsets, type=DataType.int32()),
        make_inner(flat),
        type=kind,
        mask=Array([value is None for value in values], type=DataType.bool()),
    )


def _micros(value: datetime | None) -> int | None:
    if value is None:
        return None
    if value.tzinfo is None:
        raise ValueError(f"a timestamp without a time zone: {value}")
    return (value - _EPOCH) // _MICROSECOND


def _days(value: date | None) -> int | None:
    return None if value is None else (value - date(1970, 1, 1)).days
