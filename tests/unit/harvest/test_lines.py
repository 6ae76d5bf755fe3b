"""Cut lines say what whole lines say; damage is never cut away."""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path
from typing import Any

import orjson
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from phoebe_spark.harvest import Harvest, decode
from phoebe_spark.harvest._lines import _READ
from phoebe_spark.ingest.eventlog import EventReader, LogSource
from phoebe_spark.tables.records import ExecutionRecord, Record, StageRecord

LOGS = Path(__file__).parents[2] / "data" / "eventlogs"
SMALL, LARGE = "01-tpch-sf0.1-p8", "12-tpcds-sf1-p32"


@cache
def lines(log: str) -> tuple[bytes, ...]:
    with (LOGS / f"{log}.zstd").open("rb") as raw:
        text = zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True).read()
    return tuple(line for line in text.split(b"\n") if line)


def rows(events: Any) -> list[dict[str, Any]]:
    harvest = Harvest(source="eventlog")
    found: list[Record] = [row for event in events for row in harvest.consume(event)]
    found += harvest.close()
    return [
        {n: getattr(row, n) for n in row.__dataclass_fields__ if n != "written_at"} for row in found
    ]


@pytest.mark.parametrize("log", [SMALL, LARGE])
def test_what_is_cut_is_not_read(log: str) -> None:
    cut = [event for event in map(decode, lines(log)) if event is not None]
    assert rows(cut) == rows(map(orjson.loads, lines(log)))
    assert len(cut) < len(lines(log)), "lines that nobody reads are passed over"


def test_every_event_that_harvest_takes_is_decoded() -> None:
    taken = {name.encode() for name in Harvest()._events}
    assert taken == _READ.keys()


def test_texts_beyond_twenty_million_characters_are_read_past() -> None:
    """The history server of Spark 3.5 refuses such a line whole."""
    start = next(line for line in lines(SMALL) if b'SQLExecutionStart"' in line)
    event = orjson.loads(start)
    event["physicalPlanDescription"] = "x" * 21_000_000
    cut, whole = decode(orjson.dumps(event)), decode(start)
    assert cut == whole
    assert "physicalPlanDescription" not in cut


def test_lines_in_another_order_of_fields_are_decoded_whole() -> None:
    shuffled = []
    for line in lines(SMALL):
        fields = list(orjson.loads(line).items())
        random.shuffle(fields)
        shuffled.append(orjson.dumps(dict(fields)))
    events = [event for event in map(decode, shuffled) if event is not None]
    assert rows(events) == rows(map(orjson.loads, lines(SMALL)))


def test_a_copied_checkpoint_is_never_cut_away() -> None:
    line = next(line for line in lines(SMALL) if b'"Event":"SparkListenerTaskEnd"' in line)
    event = orjson.loads(line)
    event["Task Info"]["Accumulables"].append(
        {"ID": 1, "Name": "checkpoint copy time", "Update": "7", "Metadata": "sql"}
    )
    assert decode(orjson.dumps(event)) == event


@pytest.mark.parametrize("name", ["SparkListenerTaskEnd", "SparkListenerTaskStart"])
def test_two_lines_that_became_one_are_not_json(name: str) -> None:
    whole = [line for line in lines(SMALL) if f'"Event":"{name}"'.encode() in line]
    for cut in range(20, len(whole[0]), 97):
        with pytest.raises(orjson.JSONDecodeError):
            decode(whole[0][:cut] + whole[1])


@settings(max_examples=25)
@given(st.data())
def test_a_damaged_log_never_counts_as_whole(tmp_path_factory: Any, data: st.DataObject) -> None:
    """Bytes are lost anywhere: nothing raises, no time is negative, what is complete is right."""
    text = b"\n".join(lines(SMALL)) + b"\n"
    start = data.draw(st.integers(len(lines(SMALL)[0]) + 1, len(text) - 1))
    size = data.draw(st.integers(1, 200_000) | st.just(len(text)))
    path = tmp_path_factory.mktemp("log") / "app"
    path.write_bytes(text[:start] + text[start + size :])
    reader = EventReader(LogSource(path, (path,), "eventlog"), decode)
    harvest, lost = Harvest(source="eventlog"), 0
    found: list[Record] = []
    for event in reader:
        if reader.bad_lines > lost:
            found += harvest.lost(reader.bad_lines - lost)
            lost = reader.bad_lines
        found += harvest.consume(event)
    found += harvest.close()
    whole = {row["execution_id"]: row for row in _whole() if "shape" in row}
    for row in found:
        if isinstance(row, ExecutionRecord) and row.complete:
            same = whole[row.execution_id]
            assert (row.duration_ms, row.stage_count) == (same["duration_ms"], same["stage_count"])
        if isinstance(row, ExecutionRecord | StageRecord):
            assert (row.duration_ms or 0) >= 0
        if isinstance(row, StageRecord):
            assert min(row.start_ms or 0, row.end_ms or 0, row.ttl_ms or 0, row.task_time_ms) >= 0
            if row.complete:
                assert row.tasks_succeeded == row.task_count


@cache
def _whole() -> tuple[dict[str, Any], ...]:
    return tuple(rows(map(orjson.loads, lines(SMALL))))
