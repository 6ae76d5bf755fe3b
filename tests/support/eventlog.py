"""Says what ran, from an application's event log: executions, jobs, stages, plan nodes.

Independent of the product's own harvest on purpose: tests judge one with the other. Reads plain
event logs, of ended, running and killed applications alike (a torn last line is left out).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_SQL = "org.apache.spark.sql.execution.ui.SparkListener"

NO_QUERY = 1_000_000
"""Execution ids from here on are no query's: ``Reads`` in ``benchmarks/checkpoint_app`` counts up
from it, as only what has one is planned by the plugin."""


@dataclass(slots=True)
class PlanNode:
    """A node of a ``SparkPlanInfo``; ``metrics`` are the names of its metrics by their ids."""

    name: str
    description: str
    metrics: dict[int, str]
    children: list[PlanNode]

    @property
    def accumulators(self) -> frozenset[int]:
        return frozenset(self.metrics)

    def walk(self) -> Iterator[PlanNode]:
        """Pre-order."""
        yield self
        for child in self.children:
            yield from child.walk()


@dataclass(slots=True)
class StageRun:
    """One attempt of a stage that was submitted. Times are milliseconds since the epoch.

    ``rdd_id`` is the last of its RDDs: a shuffle's map stage has another id in each job that lists
    it, and the same RDD. ``maps`` counts the map tasks that ended well by their partition.
    """

    stage_id: int
    attempt: int
    parents: tuple[int, ...]
    task_count: int
    rdd_id: int
    submitted_ms: int = 0
    completed_ms: int = 0
    failure: str | None = None
    tasks_ended: int = 0
    tasks_failed: int = 0
    task_time_ms: int = 0
    input_bytes: int = 0
    shuffle_write_bytes: int = 0
    shuffle_write_rows: int = 0
    shuffle_read_local_bytes: int = 0
    shuffle_read_remote_bytes: int = 0
    accumulators: set[int] = field(default_factory=set)
    properties: dict[str, str] = field(default_factory=dict)
    maps: Counter[int] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class Posted:
    """A value that the driver added to a metric, when so many tasks of its execution had ended."""

    metric: str
    value: int
    tasks_ended: int


@dataclass(slots=True)
class ExecutionRun:
    """One SQL execution. ``plans`` are the first plan and each re-plan, in order. ``posted`` is
    what the driver added to metrics of its nodes."""

    execution_id: int
    root_id: int
    description: str
    started_ms: int
    plans: list[PlanNode]
    ended_ms: int | None = None
    error: str | None = None
    job_ids: list[int] = field(default_factory=list)
    planned_stages: dict[int, tuple[int, ...]] = field(default_factory=dict)  # id to parents
    stages: list[StageRun] = field(default_factory=list)  # what ran, attempts in order
    posted: list[Posted] = field(default_factory=list)

    @property
    def ran(self) -> set[int]:
        """Ids of stages of which at least one task ended."""
        return {s.stage_id for s in self.stages if s.tasks_ended}

    @property
    def skipped(self) -> set[int]:
        """Ids of stages that a job listed and that never ran."""
        return set(self.planned_stages) - {s.stage_id for s in self.stages}

    def nodes_that_ran(self) -> list[PlanNode]:
        """Nodes, of any version of the plan, with a metric that a stage which ran has updated."""
        seen = set().union(*(s.accumulators for s in self.stages if s.tasks_ended))
        ids: set[frozenset[int]] = set()
        found = []
        for plan in self.plans:
            for node in plan.walk():
                if node.accumulators & seen and node.accumulators not in ids:
                    ids.add(node.accumulators)
                    found.append(node)
        return found


@dataclass(slots=True)
class AppRun:
    app_id: str
    executions: dict[int, ExecutionRun]
    ended: bool
    stages: list[StageRun]  # all, those outside SQL executions too

    def execution(self, description: str) -> ExecutionRun:
        """The one root execution of that description (job description in Spark's words)."""
        found = [
            e
            for e in self.executions.values()
            if e.description == description and e.root_id == e.execution_id
        ]
        if len(found) != 1:
            raise LookupError(f"{len(found)} executions are called {description!r}")
        return found[0]

    def stages_of(self, description: str) -> list[StageRun]:
        """Stages that ran in all executions of that description, nested ones too."""
        return [
            s
            for e in self.executions.values()
            if e.description == description
            for s in e.stages
            if s.tasks_ended
        ]

    def ran_twice(self) -> dict[int, list[int]]:
        """Shuffles of which a map task ended well more than once: its last RDD, and the stages."""
        maps: dict[int, Counter[int]] = {}
        for stage in self.stages:
            maps.setdefault(stage.rdd_id, Counter()).update(stage.maps)
        return {
            rdd_id: [s.stage_id for s in self.stages if s.rdd_id == rdd_id and s.maps]
            for rdd_id, tasks in maps.items()
            if any(count > 1 for count in tasks.values())
        }


def _plan(info: dict[str, Any]) -> PlanNode:
    return PlanNode(
        name=info["nodeName"],
        description=info.get("simpleString", ""),
        metrics={m["accumulatorId"]: m["name"] for m in info.get("metrics", [])},
        children=[_plan(c) for c in info.get("children", [])],
    )


def _metrics(plan: PlanNode) -> dict[int, str]:
    return {number: name for node in plan.walk() for number, name in node.metrics.items()}


def events(path: Path) -> Iterator[dict[str, Any]]:
    """The events of a log, or of the logs in a rolling directory, in order."""
    files = sorted(path.glob("events_*"), key=lambda p: int(p.name.split("_")[1]))
    for file in files if path.is_dir() else [path]:
        with file.open("rb") as lines:
            for line in lines:
                if not line.endswith(b"\n"):
                    return
                yield json.loads(line)


def read(path: Path) -> AppRun:
    """Reads a whole log; unknown events are left out."""
    run = AppRun("", {}, False, [])
    by_stage: dict[tuple[int, int], StageRun] = {}
    stage_execution: dict[int, ExecutionRun] = {}
    metrics: dict[int, dict[int, str]] = {}  # names by id, of each execution
    for event in events(path):
        kind = event["Event"].removeprefix(_SQL)
        if event.get("executionId", 0) >= NO_QUERY:
            continue
        match kind:
            case "SparkListenerApplicationStart":
                run.app_id = event["App ID"]
            case "SparkListenerApplicationEnd":
                run.ended = True
            case "SQLExecutionStart":
                execution = ExecutionRun(
                    event["executionId"],
                    event.get("rootExecutionId", event["executionId"]),
                    event.get("description", ""),
                    event["time"],
                    [_plan(event["sparkPlanInfo"])],
                )
                run.executions[execution.execution_id] = execution
                metrics[execution.execution_id] = _metrics(execution.plans[0])
            case "SQLAdaptiveExecutionUpdate":
                plan = _plan(event["sparkPlanInfo"])
                run.executions[event["executionId"]].plans.append(plan)
                metrics[event["executionId"]] |= _metrics(plan)
            case "SQLAdaptiveSQLMetricUpdates":  # a subquery's
                for found_metric in event["sqlPlanMetrics"]:
                    number = found_metric["accumulatorId"]
                    metrics[event["executionId"]][number] = found_metric["name"]
            case "DriverAccumUpdates":
                names = metrics.get(event["executionId"], {})
                for metric, value in event["accumUpdates"]:
                    if metric in names:
                        execution = run.executions[event["executionId"]]
                        ended = sum(s.tasks_ended for s in execution.stages)
                        execution.posted.append(Posted(names[metric], value, ended))
            case "SQLExecutionEnd":
                execution = run.executions[event["executionId"]]
                execution.ended_ms = event["time"]
                execution.error = event.get("errorMessage") or None
            case "SparkListenerJobStart":
                properties = event.get("Properties") or {}
                owner = run.executions.get(int(properties.get("spark.sql.execution.id") or -1))
                if owner is not None:
                    owner.job_ids.append(event["Job ID"])
                    for info in event["Stage Infos"]:
                        owner.planned_stages[info["Stage ID"]] = tuple(info["Parent IDs"])
                        stage_execution.setdefault(info["Stage ID"], owner)
            case "SparkListenerStageSubmitted":
                info = event["Stage Info"]
                stage = StageRun(
                    info["Stage ID"],
                    info["Stage Attempt ID"],
                    tuple(info["Parent IDs"]),
                    info["Number of Tasks"],
                    max(int(rdd["RDD ID"]) for rdd in info["RDD Info"]),
                    info.get("Submission Time", 0),
                    properties=event.get("Properties") or {},
                )
                by_stage[stage.stage_id, stage.attempt] = stage
                run.stages.append(stage)
                if stage.stage_id in stage_execution:
                    stage_execution[stage.stage_id].stages.append(stage)
            case "SparkListenerStageCompleted":
                info = event["Stage Info"]
                stage = by_stage[info["Stage ID"], info["Stage Attempt ID"]]
                stage.submitted_ms = info.get("Submission Time", stage.submitted_ms)
                stage.completed_ms = info.get("Completion Time", 0)
                stage.failure = info.get("Failure Reason")
                stage.accumulators |= {a["ID"] for a in info.get("Accumulables", [])}
            case "SparkListenerTaskEnd":
                found = by_stage.get((event["Stage ID"], event["Stage Attempt ID"]))
                if found is not None:
                    _add_task(found, event)
            case _:
                continue
    return run


def _add_task(stage: StageRun, event: dict[str, Any]) -> None:
    if event["Task End Reason"]["Reason"] != "Success":
        stage.tasks_failed += 1
        return
    stage.tasks_ended += 1
    if event["Task Type"] == "ShuffleMapTask":
        stage.maps[event["Task Info"]["Partition ID"]] += 1
    stage.accumulators |= {a["ID"] for a in event["Task Info"].get("Accumulables", [])}
    metrics = event.get("Task Metrics") or {}
    stage.task_time_ms += metrics.get("Executor Run Time", 0)
    stage.input_bytes += metrics.get("Input Metrics", {}).get("Bytes Read", 0)
    written = metrics.get("Shuffle Write Metrics", {})
    stage.shuffle_write_bytes += written.get("Shuffle Bytes Written", 0)
    stage.shuffle_write_rows += written.get("Shuffle Records Written", 0)
    read = metrics.get("Shuffle Read Metrics", {})
    stage.shuffle_read_local_bytes += read.get("Local Bytes Read", 0)
    stage.shuffle_read_remote_bytes += read.get("Remote Bytes Read", 0)
