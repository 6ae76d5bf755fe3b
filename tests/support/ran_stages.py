"""The stages that Spark ran: `record` makes logs of TPC queries, `read_executions` reads them.

Shares nothing with the harvest. A stage is what computes an RDD: a job that takes some partitions
more, and a stage that a later job lists again, are the same stage.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from phoebe_spark.ingest.eventlog import EventReader
from phoebe_spark.ingest.finding import find_logs
from phoebe_spark.plan.nodes import PlanNode, parse_plan
from tests.support import queries, tpc

SCALE_FACTOR = 0.01
CONF: Mapping[str, str] = {
    "spark.sql.shuffle.partitions": "2",
    # So that there are broadcasts and shuffles at this scale.
    "spark.sql.autoBroadcastJoinThreshold": "100KB",
}


def record(suite: tpc.Suite, adaptive: bool, folder: Path, timeout_s: float = 1200) -> Path:
    """Run all queries of ``suite`` at a tiny scale into the noop sink, in one application; the
    event log is what is returned."""
    with queries.submit_queries(
        items(suite), folder=folder, allow_failures=True, driver_memory="2g", conf=conf(adaptive)
    ) as app:
        return app.wait(timeout_s).check().event_log


def items(suite: tpc.Suite) -> list[queries.Item]:
    data = tpc.data(suite, SCALE_FACTOR)
    return [queries.Item(name, data, output=False) for name in tpc.query_names(suite)]


def conf(adaptive: bool) -> dict[str, str]:
    return {**CONF, "spark.sql.adaptive.enabled": str(adaptive).lower()}


@dataclass(slots=True)
class RanStage:
    """A stage that ran: all Spark stages and attempts that computed ``rdd``."""

    rdd: int
    stage_ids: set[int] = field(default_factory=set)
    writes_shuffle: bool | None = None
    accumulators: set[int] = field(default_factory=set)
    parents: set[int] = field(default_factory=set)  # RDDs of the map stages that it reads
    scopes: list[tuple[str, str]] = field(default_factory=list)  # (plan node's id, its name)
    ends_in: tuple[str, str] | None = None
    tasks: int = 0
    order: int = 0


@dataclass(slots=True)
class Execution:
    """One SQL execution as the log has it; ``plans``: the first one, then each re-plan."""

    execution_id: int
    description: str
    plans: list[PlanNode]
    adaptive: bool
    ran: dict[int, RanStage] = field(default_factory=dict)
    failed: bool = False
    ended: bool = False
    known_before: frozenset[int] = frozenset()  # plan metrics that earlier executions had

    @property
    def stages(self) -> dict[int, RanStage]:
        """The stages that were started, by RDD."""
        return {rdd: stage for rdd, stage in self.ran.items() if stage.stage_ids}


def read_executions(log: Path) -> list[Execution]:
    """The executions of one event log, whole or failed ones alike."""
    (source,) = find_logs([log])
    executions: dict[int, Execution] = {}
    of_stage: dict[int, RanStage] = {}
    seen: set[int] = set()
    for event in EventReader(source):
        name = event["Event"].rpartition(".")[2]
        if name == "SparkListenerSQLExecutionStart":
            plan = parse_plan(event["sparkPlanInfo"])
            adaptive = any(node.kind == "AdaptiveSparkPlan" for node in plan.walk())
            executions[event["executionId"]] = Execution(
                event["executionId"],
                event["description"],
                [plan],
                adaptive,
                known_before=frozenset(seen),
            )
            seen.update(acc for node in plan.walk() for acc in node.metrics.values())
        elif name == "SparkListenerSQLAdaptiveExecutionUpdate":
            executions[event["executionId"]].plans.append(parse_plan(event["sparkPlanInfo"]))
        elif name == "SparkListenerSQLExecutionEnd":
            found = executions[event["executionId"]]
            found.ended, found.failed = True, bool(event.get("errorMessage"))
        elif name == "SparkListenerJobStart":
            _job(event, executions, of_stage)
        elif name == "SparkListenerStageSubmitted":
            _submitted(event, executions, of_stage)
        elif name == "SparkListenerStageCompleted":
            info = event["Stage Info"]
            if (stage := of_stage.get(info["Stage ID"])) is not None:
                stage.accumulators |= {
                    a["ID"] for a in info["Accumulables"] if a.get("Metadata") == "sql"
                }
        elif name == "SparkListenerTaskEnd" and event["Stage ID"] in of_stage:
            stage = of_stage[event["Stage ID"]]
            stage.tasks += 1
            stage.writes_shuffle = event["Task Type"] == "ShuffleMapTask"
            stage.accumulators |= {
                a["ID"] for a in event["Task Info"]["Accumulables"] if a.get("Metadata") == "sql"
            }
    return list(executions.values())


def _last_rdd(info: Mapping[str, Any]) -> dict[str, Any]:
    """The RDD that a stage computes: no other of its RDDs reads it."""
    rdds = info["RDD Info"]
    read = {parent for rdd in rdds for parent in rdd["Parent IDs"]}
    return next((rdd for rdd in rdds if rdd["RDD ID"] not in read), rdds[0])


def _job(
    event: Mapping[str, Any], executions: Mapping[int, Execution], of_stage: dict[int, RanStage]
) -> None:
    execution = executions.get(int(event["Properties"].get("spark.sql.execution.id", -1)))
    if execution is None:
        return
    infos = {info["Stage ID"]: info for info in event["Stage Infos"]}
    for info in infos.values():
        rdd = _last_rdd(info)["RDD ID"]
        stage = execution.ran.get(rdd) or RanStage(rdd)
        stage.parents |= {
            _last_rdd(infos[p])["RDD ID"]
            for p in info["Parent IDs"]
            if p in infos and infos[p]["Number of Tasks"]  # one of no rows is not run
        }
        of_stage.setdefault(info["Stage ID"], stage)
        execution.ran.setdefault(rdd, stage)


def _submitted(
    event: Mapping[str, Any], executions: Mapping[int, Execution], of_stage: dict[int, RanStage]
) -> None:
    info = event["Stage Info"]
    execution = executions.get(int(event["Properties"].get("spark.sql.execution.id", -1)))
    stage = of_stage.get(info["Stage ID"])
    if execution is None or stage is None:
        return
    stage.stage_ids.add(info["Stage ID"])
    stage.order = stage.order or min(stage.stage_ids) + 1
    last = _last_rdd(info)
    stage.ends_in = _scope(last)
    stage.scopes = [s for rdd in info["RDD Info"] if (s := _scope(rdd)) is not None]


def _scope(rdd: Mapping[str, Any]) -> tuple[str, str] | None:
    if "Scope" not in rdd:
        return None
    scope = json.loads(rdd["Scope"])
    return str(scope["id"]).removeprefix("spark_plan_"), str(scope["name"]).strip()
