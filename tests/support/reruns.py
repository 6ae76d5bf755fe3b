"""Says, from an event log, which stages below a committed boundary ran again after a lost executor.

Stages are known by the last of their RDDs: a shuffle's map stage has another id in each job that
lists it, and the same RDD. A boundary counts as committed from the moment at which its plan node's
metric "checkpoint bytes copied" is posted; the log's order decides what was before what.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support import eventlog

_SQL = "org.apache.spark.sql.execution.ui.SparkListener"
_COPIED = "checkpoint bytes copied"


@dataclass(slots=True)
class Losses:
    """What became of one execution: boundaries committed before the first executor was lost, and
    stages (their RDDs' names) at or below these that were submitted after it."""

    lost_executors: int = 0
    committed: int = 0
    committed_before: int = 0
    reruns: list[int] = field(default_factory=list)


@dataclass(slots=True)
class _Execution:
    losses: Losses = field(default_factory=Losses)
    nodes: dict[int, frozenset[int]] = field(default_factory=dict)  # copied-metric to all metrics
    parents: dict[int, set[int]] = field(default_factory=dict)
    finals: list[int] = field(default_factory=list)  # of jobs that run
    writers: list[tuple[int, set[int]]] = field(default_factory=list)
    committed: set[int] = field(default_factory=set)
    protected: set[int] = field(default_factory=set)


def _nodes(info: dict[str, Any]) -> Iterator[tuple[int, frozenset[int]]]:
    metrics = info.get("metrics", [])
    for metric in metrics:
        if metric["name"] == _COPIED:
            yield metric["accumulatorId"], frozenset(m["accumulatorId"] for m in metrics)
    for child in info.get("children", []):
        yield from _nodes(child)


def _key(stage: dict[str, Any]) -> int:
    return max(int(rdd["RDD ID"]) for rdd in stage["RDD Info"])


def _below(execution: _Execution, tops: set[int], stop: set[int]) -> set[int]:
    """``tops`` and all below them, not going through ``stop``."""
    found: set[int] = set()
    todo = list(tops - stop)
    while todo:
        key = todo.pop()
        if key not in found:
            found.add(key)
            todo.extend(execution.parents.get(key, set()) - stop)
    return found


def read(log: Path) -> dict[str, Losses]:
    """Losses by the description of root executions, the last one of a name wins."""
    executions: dict[int, _Execution] = {}
    names: dict[int, str] = {}
    stage_execution: dict[int, _Execution] = {}
    running: set[int] = set()
    for event in eventlog.events(log):
        match event["Event"].removeprefix(_SQL):
            case "SQLExecutionStart":
                number = event["executionId"]
                execution = executions[number] = _Execution()
                execution.nodes |= dict(_nodes(event["sparkPlanInfo"]))
                if event.get("rootExecutionId", number) == number:
                    names[number] = event.get("description", "")
                running.add(number)
            case "SQLAdaptiveExecutionUpdate":
                executions[event["executionId"]].nodes |= dict(_nodes(event["sparkPlanInfo"]))
            case "SQLExecutionEnd":
                running.discard(event["executionId"])
            case "SparkListenerJobStart":
                owner = executions.get(
                    int((event.get("Properties") or {}).get("spark.sql.execution.id") or -1)
                )
                if owner is None:
                    continue
                keys = {info["Stage ID"]: _key(info) for info in event["Stage Infos"]}
                for info in event["Stage Infos"]:
                    stage_execution[info["Stage ID"]] = owner
                    parents = {keys[p] for p in info["Parent IDs"] if p in keys}
                    owner.parents.setdefault(_key(info), set()).update(parents)
            case "DriverAccumUpdates":
                owner = executions.get(event["executionId"])
                for metric, _ in event["accumUpdates"]:
                    if owner is not None and metric in owner.nodes:
                        _committed(owner, owner.nodes[metric])
            case "SparkListenerStageCompleted":
                info = event["Stage Info"]
                owner = stage_execution.get(info["Stage ID"])
                if owner is not None:
                    metrics = {a["ID"] for a in info.get("Accumulables", [])}
                    owner.writers.append((_key(info), metrics))
            case "SparkListenerExecutorRemoved":
                for number in running:
                    _lost(executions[number])
            case "SparkListenerStageSubmitted":
                info = event["Stage Info"]
                owner = stage_execution.get(info["Stage ID"])
                if owner is not None and _key(info) in owner.protected:
                    owner.losses.reruns.append(_key(info))
    return {name: executions[number].losses for number, name in names.items()}


def _committed(execution: _Execution, metrics: frozenset[int]) -> None:
    # The stage that wrote it ended before any that read it: both carry metrics of the node.
    writer = next((key for key, touched in execution.writers if touched & metrics), None)
    if writer is not None and writer not in execution.committed:
        execution.committed.add(writer)
        execution.losses.committed += 1


def _lost(execution: _Execution) -> None:
    """From now on nothing at or below a committed boundary may run, unless something that is not
    committed reads it too."""
    execution.losses.lost_executors += 1
    if execution.losses.lost_executors == 1:
        execution.losses.committed_before = len(execution.committed)
        everyone = set(execution.parents)
        tops = everyone - {p for parents in execution.parents.values() for p in parents}
        live = _below(execution, tops, execution.committed)
        execution.protected = _below(execution, execution.committed, set()) - live
