"""A case's files: formats, and changes that keep what they say they keep."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pyarrow.orc as orc
import pyarrow.parquet as pq
import pytest

from tests.exactness import tables
from tests.exactness.cases import Case, Change, File, Run, Table

_RUN = Run({"k": "scan", "name": "t"})
_COLUMNS = [["k", "int"], ["s", "string"]]
_ROWS = [[1, "a"], [2, None]]


def _case(form: str, change: Change, **more: str) -> Case:
    files = [File(_ROWS, bad=[[1, "x,y,z"]] if form == "csv" else []), File([[3, "b"]])]
    return Case([Table("t", form, _COLUMNS, files, **more)], _RUN, _RUN, change)


def test_lines_of_text_formats() -> None:
    table = Table("t", "csv", _COLUMNS, [], {"header": "true"})
    assert tables.encoded(table, File(_ROWS, bad=[[1, "x,y,z"]])) == b"k,s\n1,a\nx,y,z\n2,\n"
    json = dataclasses.replace(table, format="json", options={})
    assert tables.encoded(json, File(_ROWS)) == b'{"k": 1, "s": "a"}\n{"k": 2}\n'
    xml = dataclasses.replace(table, format="xml", options={})
    assert b"<row><k>1</k><s>a</s></row>" in tables.encoded(xml, File(_ROWS))


@pytest.mark.parametrize("form", ["parquet", "orc"])
def test_columnar_files_hold_the_rows(tmp_path: Path, form: str) -> None:
    tables.write(tmp_path, _case(form, Change()))
    read = pq.read_table if form == "parquet" else orc.read_table
    assert read(str(tmp_path / "t" / f"f0.{form}")).to_pylist() == [
        {"k": 1, "s": "a"},
        {"k": 2, "s": None},
    ]


@pytest.mark.parametrize("form", ["csv", "parquet", "avro"])
def test_a_rewrite_can_keep_length_and_time(tmp_path: Path, form: str) -> None:
    change = Change("rewrite", rows=[[5, "b"], [6, None]], keep_time=True)
    case = _case(form, dataclasses.replace(change, bad=[[1, "x,y,z"]] if form == "csv" else []))
    tables.write(tmp_path, case)
    path = tables.path_of(tmp_path, case.tables[0], 0)
    before, data = path.stat(), path.read_bytes()
    tables.change(tmp_path, case)
    after = path.stat()
    assert (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns)
    assert path.read_bytes() != data


def test_what_is_brought_back_is_as_it_was(tmp_path: Path) -> None:
    for kind in ("touch", "append", "remove", "swap"):
        root, kept = tmp_path / kind / "data", tmp_path / kind / "kept"
        case = _case("csv", Change(kind, rows=[[9, "z"]]))
        tables.write(root, case)
        tables.keep(root, kept)
        before = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in root.rglob("*.csv")}
        tables.change(root, case)
        assert before != {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in root.rglob("*.csv")}
        tables.bring_back(root, kept)
        assert before == {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in root.rglob("*.csv")}
