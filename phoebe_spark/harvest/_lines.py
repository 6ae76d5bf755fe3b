"""Cuts lines of an event log to the parts that harvest uses, before they are decoded.

Most of a log's bytes are not used: events that harvest does not take, plan texts, the accumulators
and executor metrics of each task. Cuts assume the order of fields that Spark 3.5 to 4.2 write. Any
other line is decoded in full, so a cut changes only the cost of reading and never the result. Cuts
are found by text such as ``,"Accumulables":[``, which no JSON string can contain, because a quote
inside a string is escaped. Plans stay JSON, whatever their depth.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import orjson

from phoebe_spark import nested_json

_HEAD = b'{"Event":"'
_SQL = b"org.apache.spark.sql.execution.ui.SparkListener"
_LONGEST_NAME = 120

PLAN_JSON = "plan_json"
"""Replaces ``sparkPlanInfo`` in an event that was cut: the plan's JSON, not decoded yet."""
ACCUMULABLES_JSON = "accumulables_json"
"""Replaces ``Accumulables`` in a task's end that was cut: their JSON, for `accumulator_ids`."""


def decode(line: bytes) -> Any:
    """The line's JSON value without unused parts; None for an event that harvest does not take.

    Raises ``orjson.JSONDecodeError`` for a line that is not JSON.
    """
    if not line.startswith(_HEAD):
        return nested_json.loads(line)
    cut = _READ.get(line[len(_HEAD) : line.find(b'"', len(_HEAD), _LONGEST_NAME)], _unread)
    # If a lost piece joined two lines, the result must not pass for the first of them.
    if cut is None or line.find(_HEAD, len(_HEAD)) != -1:
        return nested_json.loads(line)
    return cut(line)


def _unread(line: bytes) -> None:
    if not line.endswith(b"}"):
        nested_json.loads(line)


_ID = re.compile(rb'\{"ID":(\d+),')


def _task_end(line: bytes) -> Any:
    start = line.find(b',"Accumulables":[')
    last = line.find(b']},"Task Executor Metrics":{', start)  # the plugin's lines have none
    end = line.find(b'},"Task Metrics":{', last)
    if start < 0 or last < 0 or end < 0 or line.find(b'"Name":"checkpoint ', start, last) != -1:
        return nested_json.loads(line)
    event = _loads(line[:start] + b"}" + line[end + 1 :])
    if event is None:
        return nested_json.loads(line)
    event[ACCUMULABLES_JSON] = line[start:last]
    return event


def accumulator_ids(accumulables: bytes) -> set[int]:
    """The ids in ``ACCUMULABLES_JSON``: of operators' metrics, and of Spark's own for its tasks."""
    return set(map(int, _ID.findall(accumulables)))


def _plan(line: bytes) -> Any:
    text, plan = line.find(b',"physicalPlanDescription":"'), line.find(b',"sparkPlanInfo":{')
    # The plan is the last field, or the time follows it; no time follows an object within a plan.
    end = line.rfind(b'},"time":', plan) + 1 or len(line) - 1
    if plan < 0 or not line.endswith(b"}") or line[end - 1 : end] != b"}":
        return nested_json.loads(line)
    event = _loads(line[: text if 0 < text < plan else plan] + line[end:])
    if event is None:
        return nested_json.loads(line)
    event[PLAN_JSON] = line[plan + len(b',"sparkPlanInfo":') : end]
    return event


def _loads(piece: bytes) -> Any:
    try:
        return orjson.loads(piece)
    except orjson.JSONDecodeError:
        return None


_READ: dict[bytes, Callable[[bytes], Any] | None] = {
    b"SparkListenerTaskEnd": _task_end,
    _SQL + b"SQLExecutionStart": _plan,
    _SQL + b"SQLAdaptiveExecutionUpdate": _plan,
    **dict.fromkeys(
        (
            b"SparkListenerLogStart",
            b"SparkListenerApplicationStart",
            b"SparkListenerApplicationEnd",
            b"SparkListenerExecutorAdded",
            b"SparkListenerExecutorRemoved",
            b"SparkListenerJobStart",
            b"SparkListenerJobEnd",
            b"SparkListenerStageSubmitted",
            b"SparkListenerStageCompleted",
            _SQL + b"SQLExecutionEnd",
        )
    ),
}
"""The events that harvest takes, and how their lines are cut (None: not at all)."""
