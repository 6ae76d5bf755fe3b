"""Long event logs out of a real one: its events again and again, under new ids and later times.

The result is one application as Spark would have logged it: ids of jobs, stages, tasks, RDDs,
accumulators and SQL executions never recur. ``tasks`` repeats each task within its stage, because
the logs at hand are of a machine with two cores, where stages have few tasks.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import zstandard

_SQL = "org.apache.spark.sql.execution.ui.SparkListener"
_EXECUTION_KEYS = ("spark.sql.execution.id", "spark.sql.execution.root.id")
_TIMES = ("Submission Time", "Completion Time", "Launch Time", "Finish Time", "time", "Timestamp")
_PER_RUN = frozenset(
    {
        "SparkListenerJobStart", "SparkListenerJobEnd", "SparkListenerStageSubmitted",
        "SparkListenerStageCompleted", "SparkListenerTaskStart", "SparkListenerTaskEnd",
        f"{_SQL}SQLExecutionStart", f"{_SQL}SQLExecutionEnd", f"{_SQL}SQLAdaptiveExecutionUpdate",
        f"{_SQL}SQLAdaptiveSQLMetricUpdates", f"{_SQL}DriverAccumUpdates",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Shift:
    """What is added to the ids of one repetition; ``tasks``: times that each task is repeated."""

    number: int
    time_ms: int
    tasks: int
    spans: dict[str, int] = field(default_factory=dict)

    def of(self, kind: str) -> int:
        return self.number * self.spans[kind]


def write(source: Path, target: Path, *, copies: int = 0, size: int = 0, tasks: int = 1) -> int:
    """Write ``copies`` repetitions of the zstd log ``source`` to ``target``, or as many as it takes
    for ``size`` bytes; returns the number of lines. Compressed where ``target`` ends in ``.zstd``.
    """
    lines = _lines(source)
    events = [orjson.loads(line) for line in lines]
    last = next(n for n, e in enumerate(events) if e["Event"] == "SparkListenerApplicationEnd")
    run = [e for e in events[:last] if e["Event"] in _PER_RUN]
    spans = _spans(run)
    times = [e[key] for e in run for key in ("Submission Time", "Completion Time") if key in e]
    span_ms = max(times) - min(times) + 1000
    written = count = repeat = 0
    with target.open("wb") as raw:
        out: Any = raw
        if target.suffix == ".zstd":
            out = zstandard.ZstdCompressor(level=1).stream_writer(raw, closefd=False)
        for event in events[:last]:
            if event["Event"] not in _PER_RUN:
                written, count = written + out.write(orjson.dumps(event) + b"\n"), count + 1
        while repeat < copies or written < size:
            shift = _Shift(repeat, repeat * span_ms, tasks, spans)
            for event in run:
                for shifted in _shifted(event, shift):
                    line = orjson.dumps(shifted) + b"\n"
                    out.write(line)
                    written, count = written + len(line), count + 1
            repeat += 1
        end = {**events[last], "Timestamp": events[last]["Timestamp"] + repeat * span_ms}
        out.write(orjson.dumps(end) + b"\n")
        if out is not raw:
            out.close()
    return count + 1


def _lines(source: Path) -> list[bytes]:
    with source.open("rb") as raw:
        text = zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True).read()
    return [line for line in text.split(b"\n") if line]


def _shifted(event: dict[str, Any], shift: _Shift) -> Iterator[dict[str, Any]]:
    found = copy.deepcopy(event)
    _move(found, shift)
    if event["Event"] not in ("SparkListenerTaskStart", "SparkListenerTaskEnd"):
        yield found
        return
    for n in range(shift.tasks):
        info = found["Task Info"]
        same = event["Task Info"]
        info["Index"] = info["Partition ID"] = same["Index"] * shift.tasks + n
        info["Task ID"] = (same["Task ID"] + shift.of("task")) * shift.tasks + n
        yield found


def _move(value: Any, shift: _Shift) -> None:
    """Shift ids and times in place, wherever they are."""
    if isinstance(value, list):
        for item in value:
            _move(item, shift)
        return
    if not isinstance(value, dict):
        return
    for key, kind in _IDS.items():
        if isinstance(value.get(key), int):
            value[key] += shift.of(kind)
    for key in _TIMES:
        if isinstance(value.get(key), int) and value[key] > 0:
            value[key] += shift.time_ms
    if "RDD ID" in value:
        value["Parent IDs"] = [i + shift.of("rdd") for i in value["Parent IDs"]]
    elif "Stage ID" in value and "Parent IDs" in value:
        value["Parent IDs"] = [i + shift.of("stage") for i in value["Parent IDs"]]
        value["Number of Tasks"] *= shift.tasks
    if "Stage IDs" in value:
        value["Stage IDs"] = [i + shift.of("stage") for i in value["Stage IDs"]]
    if "accumUpdates" in value:
        value["accumUpdates"] = [[i + shift.of("acc"), n] for i, n in value["accumUpdates"]]
    properties = value.get("Properties")
    if isinstance(properties, dict):
        for key in _EXECUTION_KEYS:
            if key in properties:
                properties[key] = str(int(properties[key]) + shift.of("execution"))
    for key, item in value.items():
        if key not in ("Properties", "modifiedConfigs", "Task Metrics"):
            _move(item, shift)


_IDS = {
    "Job ID": "job", "Stage ID": "stage", "Task ID": "task", "RDD ID": "rdd", "ID": "acc",
    "accumulatorId": "acc", "executionId": "execution", "rootExecutionId": "execution",
}  # fmt: skip


def _spans(run: list[dict[str, Any]]) -> dict[str, int]:
    """For each kind of id, one more than the largest in the log."""
    largest = dict.fromkeys(_IDS.values(), 0)

    def look(value: Any) -> None:
        if isinstance(value, list):
            for item in value:
                look(item)
        elif isinstance(value, dict):
            for key, item in value.items():
                if key in _IDS and isinstance(item, int):
                    largest[_IDS[key]] = max(largest[_IDS[key]], item)
                else:
                    look(item)

    look(run)
    return {kind: n + 1 for kind, n in largest.items()}
