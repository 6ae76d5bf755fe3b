"""The stage graph derived before the run against the stages that ran, in the same applications."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from phoebe_spark.eventlog import EventReader, find_logs
from phoebe_spark.harvest import Harvest
from phoebe_spark.plan import parse_plan
from phoebe_spark.plan_graph import PlanGraph, derive
from phoebe_spark.records import BoundaryRecord, ExecutionRecord, Record, StageRecord
from tests.support.places import spark_environment

_APPLICATION = """
import sys
from pyspark.sql import SparkSession
folder, adaptive = sys.argv[1:]
spark = (
    SparkSession.builder.master("local[2]").appName("graph")
    .config("spark.ui.enabled", "false").config("spark.driver.memory", "1g")
    .config("spark.driver.host", "127.0.0.1").config("spark.local.dir", folder)
    .config("spark.sql.warehouse.dir", folder + "/warehouse")
    .config("spark.sql.shuffle.partitions", "3").config("spark.sql.adaptive.enabled", adaptive)
    .config("spark.sql.autoBroadcastJoinThreshold", "20000")
    .config("spark.eventLog.enabled", "true").config("spark.eventLog.dir", folder + "/events")
    .config("spark.eventLog.rolling.enabled", "false")
    .getOrCreate()
)
spark.range(20000).selectExpr("id", "id % 50 as k", "id % 7 as g").write.parquet(folder + "/big")
spark.range(50).selectExpr("id as k", "concat('name', id) as name").write.parquet(folder + "/small")
for table in ("big", "small"):
    spark.read.parquet(folder + "/" + table).createOrReplaceTempView(table)
queries = {
    "aggregate": "select g, count(*) c from big group by g",
    "join": "select a.k, count(*) c from big a join big b on a.id = b.id where b.g > 1 "
            "group by a.k",
    "broadcast": "select name, sum(id) s from big join small on big.k = small.k group by name",
    "reused": "select * from (select k, sum(id) s from big group by k) x join "
              "(select k, sum(id) s from big group by k) y on x.k = y.k",
    "subquery": "select g, count(*) c from big where id > (select avg(id) from big) group by g",
    "union": "select k, count(*) c from (select k from big where g = 1 union all "
             "select k from big where g = 2) group by k",
}
for name, text in queries.items():
    spark.sparkContext.setJobDescription(name)
    spark.sql(text).write.format("noop").mode("overwrite").save()
spark.stop()
"""

QUERIES = ("aggregate", "join", "broadcast", "reused", "subquery", "union")


@pytest.fixture(scope="module", params=["false", "true"], ids=["aqe-off", "aqe-on"])
def ran(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[PlanGraph, list[Record]]]:
    folder = tmp_path_factory.mktemp("graph")
    (folder / "events").mkdir()
    (folder / "app.py").write_text(_APPLICATION)
    done = subprocess.run(
        [sys.executable, "app.py", str(folder), request.param],
        capture_output=True,
        text=True,
        env=spark_environment(),
        cwd=folder,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (source,) = find_logs([folder / "events"])
    harvest, rows, plans = Harvest(source="eventlog"), list[Record](), {}
    for event in EventReader(source):
        if event["Event"].endswith("SQLExecutionStart") and event["description"] in QUERIES:
            plans[event["executionId"]] = (event["description"], event["sparkPlanInfo"])
        rows += harvest.consume(event)
    rows += harvest.close()
    return {
        name: (
            derive(parse_plan(plan)),
            [row for row in rows if getattr(row, "execution_id", None) == execution_id],
        )
        for execution_id, (name, plan) in plans.items()
    }


def _derived_edges(graph: PlanGraph) -> set[tuple[str, str]]:
    """Edges between shuffle boundaries and the end, each named by its boundaries' template."""
    names = {
        s.stage_id: s.template if s.boundary and s.boundary.carrier == "shuffle" else "end"
        for s in graph.graph.stages
    }
    edges: set[tuple[str, str]] = set()
    sources: dict[int, set[str]] = {}
    for stage in graph.graph.stages:  # broadcasts and subqueries are seen through
        below = set[str]().union(*(sources[parent] for parent in stage.parents))
        name = names[stage.stage_id]
        through = stage.boundary is not None and stage.boundary.carrier != "shuffle"
        sources[stage.stage_id] = below if through else {name}
        if not through:
            edges |= {(source, name) for source in below}
    return edges


def _run_edges(rows: list[Record]) -> set[tuple[str, str]]:
    stages = {row.stage_id: row for row in rows if isinstance(row, StageRecord)}
    (execution,) = (row for row in rows if isinstance(row, ExecutionRecord))
    last = max(stages)
    edges: set[tuple[str, str]] = set()
    sources: dict[int, set[str]] = {}
    for stage_id, parents in sorted(
        (int(k), v) for k, v in json.loads(execution.stage_parents or "{}").items()
    ):
        below = set[str]().union(*(sources[parent] for parent in parents))
        stage = stages[stage_id]
        through = stage.boundary_id is None and stage_id != last
        name = "end" if stage_id == last else str(stage.template)
        sources[stage_id] = below if through else {name}
        if not through:
            edges |= {(source, name) for source in below}
    return edges


@pytest.mark.parametrize("query", QUERIES)
def test_the_graph_is_what_runs(ran: dict[str, tuple[PlanGraph, list[Record]]], query: str) -> None:
    graph, rows = ran[query]
    assert _derived_edges(graph) == _run_edges(rows)
    boundaries = [row for row in rows if isinstance(row, BoundaryRecord)]
    assert boundaries
    assert all(row.stage_id is not None for row in boundaries)
    (execution,) = (row for row in rows if isinstance(row, ExecutionRecord))
    assert execution.complete


def test_a_broadcast_is_waited_for(ran: dict[str, tuple[PlanGraph, list[Record]]]) -> None:
    _, rows = ran["broadcast"]
    stages = {row.stage_id: row for row in rows if isinstance(row, StageRecord)}
    writer = next(row for row in stages.values() if row.boundary_id is not None)
    assert writer.parents
    build = stages[writer.parents[0]]
    assert build.shuffle_write_bytes == 0
    assert build.operators is not None
    assert build.operators[0] == "BroadcastExchange"
    assert build.template in {s.template for s in ran["broadcast"][0].graph.stages}
