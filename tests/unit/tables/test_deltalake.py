"""Tables: schemas from dataclasses, last row of a key wins, concurrent appends lose nothing."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
from dataclasses import fields, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from deltalake.exceptions import CommitFailedError

from phoebe_spark.errors import ForeignTableError, NewerTablesError
from phoebe_spark.tables.deltalake import Tables
from phoebe_spark.tables.ownership import FORMAT
from phoebe_spark.tables.records import ApplicationRecord, BoundaryRecord, StageRecord
from phoebe_spark.tables.rows import RECORDS, arrow_schema, to_arrow

AT = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
ROOT = Path(__file__).parents[3]


def stage(stage_id: int = 1, **more: object) -> StageRecord:
    row = StageRecord(date=date(2026, 1, 2), app_id="a", app_attempt="", source="live",
                      written_at=AT, stage_id=stage_id, stage_attempt=0)  # fmt: skip
    return replace(row, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("table", sorted(RECORDS))
def test_schema_follows_the_dataclass(table: str) -> None:
    record = RECORDS[table]
    schema = arrow_schema(record)
    assert schema.names == [field.name for field in fields(record)]
    assert not schema.field("app_id").nullable
    assert set(record.KEY) <= set(schema.names)


def test_values_come_back(tmp_path: Path) -> None:
    tables = Tables(tmp_path)
    row = stage(parents=[3, 4], operators=["Scan", "Filter"], name="n", submitted_at=AT, start_ms=7)
    assert tables.append([row, stage(2)]) == 2
    got = {r["stage_id"]: r for r in tables.read("stages").to_pylist()}
    for field in fields(row):
        assert got[1][field.name] == getattr(row, field.name), field.name
    assert got[2]["parents"] is None
    assert got[2]["start_ms"] is None


def test_last_row_of_a_key_wins_across_commits_and_in_one(tmp_path: Path) -> None:
    tables = Tables(tmp_path)
    app = ApplicationRecord(date=date(2026, 1, 2), app_id="a", app_attempt="", source="live",
                            written_at=AT)  # fmt: skip
    later = [replace(app, written_at=AT + timedelta(seconds=n), slots=n) for n in (3, 1, 2)]
    tables.append([app, *later])
    tables.append([replace(app, app_id="b")])
    tables.append([replace(app, written_at=AT + timedelta(seconds=2), slots=99)])
    rows = tables.read("applications", columns=["app_id", "slots"]).to_pylist()
    assert sorted(rows, key=str) == [{"app_id": "a", "slots": 3}, {"app_id": "b", "slots": None}]
    assert tables.read("applications", latest=False).num_rows == 6
    assert tables.read("applications", filters=[("app_id", "=", "b")]).num_rows == 1


def test_partitioned_by_date_at_a_protocol_that_spark_reads(tmp_path: Path) -> None:
    tables = Tables(tmp_path)
    tables.append([stage(), stage(2, date=date(2026, 1, 3))])
    delta = DeltaTable(tables.path("stages"))
    assert delta.metadata().partition_columns == ["date"]
    protocol = delta.protocol()
    assert (protocol.min_reader_version, protocol.min_writer_version) == (1, 2)
    assert sorted(p["date"] for p in delta.partitions()) == ["2026-01-02", "2026-01-03"]
    assert delta.version() == 0, "one commit, creation included"


def test_a_table_never_written_is_empty(tmp_path: Path) -> None:
    tables = Tables(tmp_path)
    assert not tables.exists("boundaries")
    empty = tables.read("boundaries")
    assert empty.num_rows == 0
    assert empty.column_names == [field.name for field in fields(BoundaryRecord)]


def test_a_timestamp_without_a_zone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="time zone"):
        Tables(tmp_path).append([stage(submitted_at=datetime(2026, 1, 1))])


_WRITERS = """
import os, sys
from datetime import UTC, date, datetime
from phoebe_spark.tables.records import ExecutorRecord
from phoebe_spark.tables.deltalake import Tables
def write(app, times):
    tables = Tables(sys.argv[1])
    for n in range(times):
        tables.append([ExecutorRecord(date=date(2026, 1, 1), app_id=app, app_attempt="",
                       source="live", written_at=datetime.now(UTC), executor_id=str(n))])
started = []
for n in range(50):  # what takes long, the imports, is done once
    process = os.fork()
    if process == 0:
        write(f"app{n}", 3 if n % 5 == 0 else 1)
        os._exit(0)
    started.append(process)
sys.exit(sum(os.waitpid(process, 0)[1] != 0 for process in started))
"""


def _ended(process: subprocess.Popen[bytes], within_s: float) -> bool:
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(within_s)
    return process.returncode is not None


def test_fifty_companions_at_once_lose_nothing(tmp_path: Path) -> None:
    """Real processes; the table's creation is a race too, and it is compacted meanwhile."""
    writers = subprocess.Popen([sys.executable, "-c", _WRITERS, str(tmp_path)], cwd=ROOT)
    tables = Tables(tmp_path)
    while not _ended(writers, within_s=0.5):
        if tables.exists("executors"):
            with contextlib.suppress(CommitFailedError):  # it gives way to appends
                tables.optimize("executors")
    assert writers.returncode == 0, "so many of them failed"
    rows = tables.read("executors", latest=False)
    keys = zip(*(rows[c].to_pylist() for c in ("app_id", "executor_id")), strict=True)
    assert rows.num_rows == 70
    assert len(set(keys)) == 70


def test_optimize_and_vacuum_keep_every_row(tmp_path: Path) -> None:
    tables = Tables(tmp_path)
    for n in range(12):
        tables.append([stage(n)])
    done = tables.optimize("stages")
    assert (done.files_removed, done.files_added) == (12, 1)
    folder = Path(tables.path("stages"))
    assert len(list(folder.rglob("*.parquet"))) >= 13
    assert len(tables.vacuum("stages", retention_hours=0, dry_run=True)) == 12
    assert len(tables.vacuum("stages", retention_hours=168)) == 0
    assert len(tables.vacuum("stages", retention_hours=0)) == 12
    data = [p for p in folder.rglob("*.parquet") if "_delta_log" not in p.parts]
    assert len(data) == 1
    assert sorted(tables.read("stages")["stage_id"].to_pylist()) == list(range(12))
    tables.append([stage(12)])
    assert tables.read("stages").num_rows == 13


def test_a_table_of_the_version_before_gets_the_new_columns(tmp_path: Path) -> None:
    """Evolution: old rows read as defaults, and new rows go into the same table."""
    tables = Tables(tmp_path)
    new = {"spill_disk_bytes", "task_ms_p90", "operators"}
    rows = pa.table(to_arrow(StageRecord, [stage(1)]))
    before = rows.drop_columns(sorted(new))
    said = "phoebe_spark stages, format 1"
    write_deltalake(tables.path("stages"), before, partition_by=["date"], description=said)
    (old,) = tables.read("stages").to_pylist()
    assert (old["spill_disk_bytes"], old["task_ms_p90"], old["operators"]) == (0, None, None)
    assert tables.read("stages", columns=["stage_id", "spill_disk_bytes"]).to_pylist() == [
        {"stage_id": 1, "spill_disk_bytes": 0}
    ]
    tables.append([stage(2, spill_disk_bytes=7, operators=["Scan"])])
    both = {r["stage_id"]: r for r in tables.read("stages").to_pylist()}
    assert both[2]["spill_disk_bytes"] == 7
    assert both[2]["operators"] == ["Scan"]
    assert both[1]["task_ms_p90"] is None


def test_a_column_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    tables = Tables(tmp_path)
    rows = pa.table(to_arrow(StageRecord, [stage(1)]))
    more = rows.append_column("from_the_future", pa.array(["x"]))
    said = "phoebe_spark stages, format 1"
    write_deltalake(tables.path("stages"), more, partition_by=["date"], description=said)
    tables.append([stage(2)])
    assert sorted(tables.read("stages")["stage_id"].to_pylist()) == [1, 2]
    assert "from_the_future" not in tables.read("stages").column_names
    kept = DeltaTable(tables.path("stages")).to_pyarrow_table()
    assert sorted(kept["from_the_future"].to_pylist(), key=str) == [None, "x"]


def test_a_newer_format_is_named_and_not_written_to(tmp_path: Path) -> None:
    tables = Tables(tmp_path)
    write_deltalake(
        tables.path("stages"),
        pa.table({"date": [date(2026, 1, 1)], "whatever": [1]}),
        description=f"phoebe_spark stages, format {FORMAT + 1}",
    )
    for use in (lambda: tables.append([stage(1)]), lambda: tables.read("stages")):
        with pytest.raises(NewerTablesError, match=r"stages was written by a newer .* upgrade"):
            use()
    assert DeltaTable(tables.path("stages")).version() == 0


def test_another_ones_table_is_neither_written_nor_cleaned(tmp_path: Path) -> None:
    """A home in the middle of somebody's lake, with tables of the same names."""
    tables = Tables(tmp_path)
    for said in (None, "stages of our rockets", "phoebe_spark executors, format 1x"):
        path = tables.path("stages")
        rows = pa.table({"date": [date(2026, 1, 1)], "whatever": [1]})
        write_deltalake(path, rows, description=said, mode="overwrite")
        before = sorted(Path(path).rglob("*"))
        for use in (
            lambda: Tables(tmp_path).append([stage(1)]),
            lambda: tables.read("stages"),
            lambda: tables.optimize("stages"),
            lambda: tables.vacuum("stages", retention_hours=0),
        ):
            with pytest.raises(ForeignTableError, match="name another home"):
                use()
        assert sorted(Path(path).rglob("*")) == before
        shutil.rmtree(path)


def test_a_vacuum_leaves_what_others_put_into_a_table(tmp_path: Path) -> None:
    tables = Tables(tmp_path)
    for number in range(3):
        tables.append([stage(number)])
    tables.optimize("stages")
    path = Path(tables.path("stages"))
    partition = next(path.glob("date=*"))
    foreign = [path / "report.parquet", partition / "part-0.parquet", path / "sub" / "notes.txt"]
    for file in foreign:
        file.parent.mkdir(exist_ok=True)
        file.write_text("somebody's")
    assert len(tables.vacuum("stages", retention_hours=0, dry_run=True)) == 3
    assert len(tables.vacuum("stages", retention_hours=0)) == 3
    assert all(file.exists() for file in foreign)
    assert tables.read("stages").num_rows == 3


def test_import_is_light() -> None:
    heavy = {"pandas", "pyarrow", "lightgbm"}
    code = f"import sys, phoebe_spark.tables.deltalake; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "set()"
