"""Rolled logs: their files in order; a missing piece is never passed over in silence."""

from __future__ import annotations

import gzip
import shutil
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from phoebe_spark.ingest.eventlog import EventReader
from phoebe_spark.ingest.finding import find_logs
from phoebe_spark.ingest.rolled_logs import application_of, in_order
from phoebe_spark.ingest.run import ingest
from phoebe_spark.ingest.summary import IngestSummary
from phoebe_spark.tables.deltalake import Tables

TPCH = Path(__file__).parents[2] / "data" / "eventlogs" / "01-tpch-sf0.1-p8.zstd"
APP = "app-20260921000000-0000"


@pytest.fixture(scope="module")
def lines() -> list[bytes]:
    with TPCH.open("rb") as raw:
        text = zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True).read()
    return [line for line in text.split(b"\n") if line]


def pieces(lines: list[bytes], count: int) -> list[bytes]:
    """The log cut between queries: each piece is whole by itself."""
    ends = [
        n + 1
        for n, line in enumerate(lines)
        if line.startswith(
            b'{"Event":"org.apache.spark.sql.execution.ui.SparkListenerSQLExecutionEnd"'
        )
    ]
    cuts = [0, *(ends[len(ends) * k // count - 1] for k in range(1, count)), len(lines)]
    return [b"\n".join(lines[a:b]) + b"\n" for a, b in pairwise(cuts)]


def rolled(folder: Path, files: dict[str, bytes]) -> Path:
    place = folder / f"eventlog_v2_{APP}"
    place.mkdir(parents=True)
    for name, data in files.items():
        (place / name).write_bytes(data)
    return place


def taken(home: Path) -> tuple[dict[str, Any], list[bool]]:
    tables = Tables(home)
    (application,) = tables.read("applications").to_pylist()
    return application, [row["complete"] for row in tables.read("executions").to_pylist()]


def said(summary: IngestSummary) -> str:
    return " | ".join(warning.reason for warning in summary.warnings)


E1, E2, E3 = (f"events_{n}_{APP}" for n in (1, 2, 3))
OVER = f"appstatus_{APP}"


@pytest.mark.parametrize(
    ("files", "lacks"),
    [
        pytest.param({E1: 0, E3: 2, OVER: None}, "a piece is missing (events_2)", id="middle"),
        pytest.param({E2: 1, E3: 2, OVER: None}, "its beginning is missing (events_1)", id="first"),
        pytest.param({E1: 0, E2: 1, OVER: None}, "its end is missing", id="last"),
        pytest.param({E1: 0, E2: None, E3: 2, OVER: None}, f"{E2} is empty", id="empty"),
        pytest.param(
            {E1: 0, E2: 1, E2 + ".zstd": 0, E3: 2}, "two files have one number", id="number twice"
        ),
        pytest.param({E1 + ".compact": 0, E2: 1, E3: 2}, "compacted", id="compacted"),
        pytest.param({E2 + ".compact": 0, E3: 2}, "compacted", id="compacted from two"),
        pytest.param({E1: 0, f"events_12_{APP}": 2}, "(events_2 to events_11)", id="many"),
    ],
)
def test_what_lacks_a_piece_is_incomplete_and_said(
    tmp_path: Path, lines: list[bytes], files: dict[str, int | None], lacks: str
) -> None:
    cut = pieces(lines, 3)
    contents = {name: b"" if n is None else cut[n] for name, n in files.items()}
    place = rolled(tmp_path / "logs", contents)
    summary = ingest([tmp_path / "logs"], tmp_path / "home")
    assert (summary.applications, summary.aborted, summary.incomplete) == (1, 0, 1)
    assert summary.errors == ()
    assert lacks in said(summary)
    application, complete = taken(tmp_path / "home")
    assert (application["status"], application["complete"]) == ("finished", False)
    assert application["events_dropped"] >= 1
    # What was over before the hole is whole, what came after it is not.
    before = 10 if E1 in files else 0
    assert complete.count(True) == (20 if lacks.startswith("its end") else before)
    assert place.is_dir()


def test_a_compacted_file_stands_for_all_up_to_its_number() -> None:
    """Spark removes what it has compacted some time later."""
    compacted = E2 + ".compact"
    assert in_order([E1, E2, compacted, E3]).names == (compacted, E3)


@pytest.mark.parametrize(
    "files",
    [
        pytest.param({E1: 0, E2: 1, E3: 2, OVER: None}, id="whole"),
        pytest.param({E1: 0, E2: 1, E3: 2}, id="no status"),
        pytest.param({E1: 0, E2: 1, E2 + ".zstd": 1, E3: 2}, id="a file twice"),
        pytest.param({f"events_{n}_{APP}": n - 9 for n in (9, 10, 11)}, id="from nine"),
    ],
)
def test_what_is_whole_is_complete(
    tmp_path: Path, lines: list[bytes], files: dict[str, int | None]
) -> None:
    cut = pieces(lines, 3)
    made = {name: b"" if n is None else cut[n] for name, n in files.items()}
    packed = zstandard.ZstdCompressor()
    made = {k: packed.compress(v) if k.endswith(".zstd") else v for k, v in made.items()}
    rolled(tmp_path / "logs", made)
    summary = ingest([tmp_path / "logs"], tmp_path / "home")
    assert (summary.applications, summary.incomplete, summary.warnings) == (1, 0, ())
    application, complete = taken(tmp_path / "home")
    assert (application["complete"], application["events_dropped"]) == (True, 0)
    assert complete == [True] * 30


@settings(max_examples=30, deadline=None)
@given(numbers=st.sets(st.integers(1, 30), min_size=1), compact=st.booleans(), data=st.data())
def test_any_hole_in_the_numbers_is_known(
    numbers: set[int], compact: bool, data: st.DataObject
) -> None:
    names = [f"events_{n}_a.zstd" for n in numbers]
    part = in_order(data.draw(st.permutations(names)))
    assert list(part.names) == [f"events_{n}_a.zstd" for n in sorted(numbers)]
    holes = set(range(1, max(numbers) + 1)) - numbers
    assert bool(holes) == bool(part.missing or part.late)
    if compact:
        with_it = in_order([*names, f"events_{min(numbers)}_a.zstd.compact"])
        assert 0 in with_it.missing


def test_in_progress_only_the_end_is_open(tmp_path: Path, lines: list[bytes]) -> None:
    cut = pieces(lines, 3)
    place = rolled(tmp_path / "logs", {E1: cut[0], E2: cut[1], E3: b"", OVER + ".inprogress": b""})
    summary = ingest([tmp_path / "logs"], tmp_path / "home")
    assert (summary.aborted, summary.incomplete, summary.warnings) == (1, 0, ())
    assert taken(tmp_path / "home")[1] == [True] * 20
    (place / E3).write_bytes(cut[2])
    (place / f"{OVER}.inprogress").rename(place / OVER)
    assert ingest([tmp_path / "logs"], tmp_path / "home").applications == 1
    application, complete = taken(tmp_path / "home")
    assert (application["complete"], complete) == (True, [True] * 30)


def test_a_part_that_is_named_alone_stands_for_its_log(tmp_path: Path, lines: list[bytes]) -> None:
    cut = pieces(lines, 2)
    place = rolled(tmp_path / "logs", {E1: cut[0], E2: cut[1], OVER: b""})
    (source,) = find_logs(sorted(place.iterdir()))
    assert [path.name for path in source.files] == [E1, E2]
    elsewhere = tmp_path / "copied"
    shutil.copytree(place, elsewhere)
    (source,) = find_logs([elsewhere])
    assert [path.name for path in source.files] == [E1, E2]
    assert ingest([elsewhere], tmp_path / "home").incomplete == 0


def test_applications_are_named_by_their_directory() -> None:
    named = {
        "eventlog_v2_app-7": ("app-7", ""),
        "eventlog_v2_application_1700_0007_2": ("application_1700_0007", "2"),
        "eventlog_v2_application_1700_0007": ("application_1700_0007", ""),
        "other": None,
    }
    assert {name: application_of(Path(name)) for name in named} == named


# --- Databricks ----------------------------------------------------------------------------------


def databricks(folder: Path, lines: list[bytes], *, heads: bool, context: int = 7) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    names = ["eventlog-2021-06-15--15-00.gz", "eventlog-2021-06-15--16-00.gz", "eventlog"]
    for number, (name, piece) in enumerate(zip(names, pieces(lines, 3), strict=True)):
        head = {"Event": "DBCEventLoggingListenerMetadata", "Spark Version": "3.5.0",
                "Timestamp": 1, "Rollover Number": number, "SparkContext Id": context}  # fmt: skip
        data = (orjson.dumps(head) + b"\n" if heads else b"") + piece
        (folder / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return [folder / name for name in names]


@pytest.mark.parametrize("heads", [True, False])
def test_databricks_parts_are_one_log(tmp_path: Path, lines: list[bytes], heads: bool) -> None:
    # The folder's parent has the name of the newest file.
    files = databricks(tmp_path / "logs" / "eventlog" / "7", lines, heads=heads)
    (source,) = find_logs([tmp_path / "logs"])
    assert list(source.files) == files
    assert find_logs([files[2]]) == find_logs(files) == [source]
    summary = ingest([tmp_path / "logs"], tmp_path / "home")
    assert (summary.files, summary.applications, summary.incomplete) == (1, 1, 0)
    assert taken(tmp_path / "home")[1] == [True] * 30

    files[2].unlink()
    since = datetime.now(UTC).replace(year=2020)
    unfinished = ingest([tmp_path / "logs"], tmp_path / "other", since=since)
    assert (unfinished.applications, unfinished.aborted) == (1, 1)
    assert taken(tmp_path / "other")[1] == [True] * 20


def test_a_databricks_part_that_is_missing_is_known_by_its_number(
    tmp_path: Path, lines: list[bytes]
) -> None:
    files = databricks(tmp_path / "middle", lines, heads=True)
    files[1].unlink()
    assert "rollover 1" in said(ingest([tmp_path / "middle"], tmp_path / "home"))
    assert taken(tmp_path / "home")[1].count(True) == 10
    files = databricks(tmp_path / "first", lines, heads=True)
    files[0].unlink()
    (error,) = ingest([tmp_path / "first"], tmp_path / "home").errors
    assert "its beginning is missing (rollover 0)" in error.reason


def test_two_databricks_clusters_in_one_folder_are_two_logs(
    tmp_path: Path, lines: list[bytes]
) -> None:
    databricks(tmp_path, lines, heads=True, context=7)
    head = {"Event": "DBCEventLoggingListenerMetadata", "Rollover Number": 0,
            "SparkContext Id": 8}  # fmt: skip
    other = tmp_path / "eventlog-2021-06-15--15-30.gz"
    other.write_bytes(gzip.compress(orjson.dumps(head) + b"\n" + lines[0] + b"\n"))
    assert sorted(len(source.files) for source in find_logs([tmp_path])) == [1, 3]


def test_a_folder_of_that_name_is_no_log(tmp_path: Path) -> None:
    (tmp_path / "eventlog").mkdir()
    assert find_logs([tmp_path]) == []
    (tmp_path / "eventlog" / "app-1").write_bytes(b'{"n":1}\n')
    (source,) = find_logs([tmp_path])
    assert [event["n"] for event in EventReader(source)] == [1]
