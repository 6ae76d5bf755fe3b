"""Writes a case's tables as files, without Spark, and changes them as the case says.

Files get modification times that lie in the past, apart from each other, as files of real inputs
do.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import struct
import time
from collections.abc import Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from tests.exactness.cases import Case, Change, File, Table

EPOCH_S = int(time.time()) - 90_000
"""A day before this process: the modification time of the first file."""

_BINARY = ("parquet", "orc", "avro")


def folder(root: Path, table: Table) -> Path:
    return root / table.name


def path_of(root: Path, table: Table, n: int) -> Path:
    """Where the table's ``n``-th file lies; names sort as the numbers do."""
    ends = {"text": "txt", "binaryFile": "bin"}.get(table.format, table.format)
    part = table.files[min(n, len(table.files) - 1)].part
    return folder(root, table) / part / f"f{n}.{ends}"


def write(root: Path, case: Case) -> None:
    """All tables of a case as they are at first."""
    for table in case.tables:
        folder(root, table).mkdir(parents=True)
        if table.format == "delta":
            for n, file in enumerate(table.files):
                _write_delta(root, table, file, "append" if n else "error")
        else:
            for n, file in enumerate(table.files):
                _put(path_of(root, table, n), encoded(table, file), time_s=EPOCH_S + 60 * n)


def keep(root: Path, kept: Path) -> None:
    """Remembers the files as they are; see ``bring_back``."""
    shutil.copytree(root, kept, dirs_exist_ok=False)


def bring_back(root: Path, kept: Path) -> None:
    """The files as they were kept: bytes, names and modification times."""
    shutil.rmtree(root)
    shutil.copytree(kept, root)


def change(root: Path, case: Case) -> None:
    """Applies the case's change to its files."""
    it = case.change
    if it.kind == "none" or not case.tables:
        return
    table = case.tables[it.table % len(case.tables)]
    if table.format == "delta":
        _change_delta(root, table, it)
        return
    n = it.file % len(table.files)
    path = path_of(root, table, n)
    if it.kind == "touch":
        os.utime(path, (EPOCH_S + 7200, EPOCH_S + 7200))
    elif it.kind == "rewrite":
        old = path.stat()
        when = old.st_mtime_ns / 1e9 if it.keep_time else time.time()
        file = dataclasses.replace(table.files[n], rows=it.rows, bad=it.bad)
        _put(path, encoded(table, file), time_s=when, in_place=it.in_place)
        if it.keep_time:
            os.utime(path, ns=(old.st_atime_ns, old.st_mtime_ns))
    elif it.kind == "append":
        file = dataclasses.replace(table.files[n], rows=it.rows, bad=it.bad)
        _put(path.with_stem("g"), encoded(table, file), time_s=EPOCH_S + 3600)
    elif it.kind == "remove":
        path.unlink()
    elif it.kind == "swap":
        other = path_of(root, table, (n + 1) % len(table.files))
        if other != path:
            one, two = path.read_bytes(), other.read_bytes()
            times = [(p, p.stat().st_mtime_ns) for p in (path, other)]
            path.write_bytes(two)
            other.write_bytes(one)
            if it.keep_time:
                for p, ns in times:
                    os.utime(p, ns=(ns, ns))
    else:
        raise ValueError(f"unknown change: {it.kind}")


def _put(path: Path, data: bytes, time_s: float, in_place: bool = True) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if in_place:
        path.write_bytes(data)
    else:
        beside = path.with_name("." + path.name)
        beside.write_bytes(data)
        beside.rename(path)
    os.utime(path, (time_s, time_s))


def encoded(table: Table, file: File) -> bytes:
    """A file's bytes."""
    columns = [c for c in table.columns if c[0] != "p"]
    if table.format == "parquet":
        return _arrow_bytes(columns, file.rows, "parquet")
    if table.format == "orc":
        return _arrow_bytes(columns, file.rows, "orc")
    if table.format == "avro":
        return _avro(columns, file.rows)
    if table.format == "binaryFile":
        return "".join(str(r[0]) for r in file.rows).encode()
    lines = [_line(table, columns, row) for row in file.rows]
    for position, line in file.bad:
        lines.insert(min(position, len(lines)), line)
    ending = table.options.get("lineSep", "\n")
    body = ending.join(lines) + ending
    if table.format == "csv" and table.options.get("header") == "true":
        body = ",".join(name for name, _ in columns) + ending + body
    if table.format == "xml":
        body = f"<rows>\n{body}</rows>\n"
    return body.encode(table.options.get("encoding", "utf-8"))


def _line(table: Table, columns: Sequence[Sequence[str]], row: Sequence[Any]) -> str:
    if table.format == "text":
        return "" if row[0] is None else str(row[0])
    if table.format == "csv":
        sep = table.options.get("sep", ",")
        return sep.join(_csv_field(v, sep) for v in row)
    if table.format == "json":
        # Not all fields of all lines: what is null may as well not be there.
        pairs = [(c[0], v) for c, v in zip(columns, row, strict=True) if v is not None]
        return json.dumps(dict(pairs))
    fields = "".join(
        f"<{c[0]}>{escape(_scalar(v))}</{c[0]}>"
        for c, v in zip(columns, row, strict=True)
        if v is not None
    )
    return f"<row>{fields}</row>"


def _scalar(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}.get(repr(value), repr(value))
    return str(value)


def _csv_field(value: Any, sep: str) -> str:
    said = _scalar(value)
    if isinstance(value, str) and (said == "" or any(c in said for c in (sep, '"', "\n"))):
        return '"' + said.replace('"', '\\"') + '"'
    return said


def _arrow_type(kind: str) -> Any:
    import pyarrow as pa

    simple = {
        "int": pa.int32(),
        "bigint": pa.int64(),
        "double": pa.float64(),
        "float": pa.float32(),
        "string": pa.string(),
        "boolean": pa.bool_(),
        "date": pa.date32(),
        "timestamp": pa.timestamp("us", tz="UTC"),
        "timestamp_ntz": pa.timestamp("us"),
        "binary": pa.binary(),
        "array<int>": pa.list_(pa.int32()),
        "map<string,int>": pa.map_(pa.string(), pa.int32()),
        "struct<x:int,y:string>": pa.struct([("x", pa.int32()), ("y", pa.string())]),
    }
    if kind.startswith("decimal("):
        precision, scale = kind[8:-1].split(",")
        return pa.decimal128(int(precision), int(scale))
    return simple[kind]


def _value(kind: str, value: Any) -> Any:
    if value is None:
        return None
    if kind == "date":
        return date.fromisoformat(value)
    if kind == "timestamp":
        return datetime.fromisoformat(value).replace(tzinfo=UTC)
    if kind == "timestamp_ntz":
        return datetime.fromisoformat(value)
    if kind.startswith("decimal("):
        return Decimal(value)
    if kind == "binary":
        return value.encode()
    if kind.startswith("map<"):
        return list(value.items())
    return value


def _arrow(columns: Sequence[Sequence[str]], rows: Sequence[Sequence[Any]]) -> Any:
    import pyarrow as pa

    arrays = [
        pa.array([_value(kind, r[n]) for r in rows], type=_arrow_type(kind))
        for n, (_, kind) in enumerate(columns)
    ]
    return pa.table(arrays, names=[name for name, _ in columns])


def _arrow_bytes(
    columns: Sequence[Sequence[str]], rows: Sequence[Sequence[Any]], form: str
) -> bytes:
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    if form == "parquet":
        import pyarrow.parquet as pq

        # Plain and uncompressed: other values of the same kind give a file of the same length.
        pq.write_table(
            _arrow(columns, rows),
            sink,
            compression="none",
            use_dictionary=False,
            row_group_size=max(1, (len(rows) + 1) // 2),
        )
    else:
        import pyarrow.orc as orc

        orc.write_table(_arrow(columns, rows), sink)
    return bytes(sink.getvalue().to_pybytes())


def _zigzag(n: int) -> bytes:
    n = (n << 1) ^ (n >> 63)
    out = bytearray()
    while n & ~0x7F:
        out.append((n & 0x7F) | 0x80)
        n >>= 7
    out.append(n)
    return bytes(out)


def _avro_datum(kind: str, value: Any) -> bytes:
    if value is None:
        return _zigzag(1)
    if kind in ("int", "bigint"):
        body = _zigzag(value)
    elif kind == "double":
        body = struct.pack("<d", value)
    elif kind == "boolean":
        body = bytes([value])
    elif kind == "date":
        body = _zigzag((date.fromisoformat(value) - date(1970, 1, 1)).days)
    elif kind == "timestamp":
        when = datetime.fromisoformat(value).replace(tzinfo=UTC)
        body = _zigzag(int(when.timestamp() * 1_000_000))
    else:
        said = str(value).encode()
        body = _zigzag(len(said)) + said
    return _zigzag(0) + body


def _avro(columns: Sequence[Sequence[str]], rows: Sequence[Sequence[Any]]) -> bytes:
    """An Avro object container file with one block, not compressed."""
    names: dict[str, Any] = {
        "int": "int",
        "bigint": "long",
        "double": "double",
        "boolean": "boolean",
        "date": {"type": "int", "logicalType": "date"},
        "timestamp": {"type": "long", "logicalType": "timestamp-micros"},
    }
    fields = [{"name": n, "type": [names.get(k, "string"), "null"]} for n, k in columns]
    schema = json.dumps({"type": "record", "name": "r", "fields": fields}).encode()
    sync = b"0123456789abcdef"
    head = b"Obj\x01" + _zigzag(2)
    for key, value in ((b"avro.schema", schema), (b"avro.codec", b"null")):
        head += _zigzag(len(key)) + key + _zigzag(len(value)) + value
    head += _zigzag(0) + sync
    block = b"".join(_avro_datum(kind, r[n]) for r in rows for n, (_, kind) in enumerate(columns))
    return head + _zigzag(len(rows)) + _zigzag(len(block)) + block + sync if rows else head


def _write_delta(root: Path, table: Table, file: File, mode: Any) -> None:
    from deltalake import write_deltalake

    write_deltalake(str(folder(root, table)), _arrow(table.columns, file.rows), mode=mode)


def _change_delta(root: Path, table: Table, it: Change) -> None:
    from deltalake import DeltaTable

    if it.kind in ("append", "touch", "swap"):
        _write_delta(root, table, File(it.rows), "append")
    elif it.kind == "rewrite":
        _write_delta(root, table, File(it.rows), "overwrite")
    elif it.kind == "remove":
        DeltaTable(str(folder(root, table))).delete()
