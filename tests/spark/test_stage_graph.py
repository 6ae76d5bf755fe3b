"""The stage graph derived before the run against the stages that ran, in the same applications."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from phoebe_spark.harvest import Harvest
from phoebe_spark.ingest.eventlog import EventReader
from phoebe_spark.ingest.finding import find_logs
from phoebe_spark.plan.nodes import parse_plan
from phoebe_spark.plan.stages import PlanGraph, derive
from phoebe_spark.tables.records import BoundaryRecord, ExecutionRecord, Record, StageRecord
from tests.support import in_turn, queries
from tests.support.places import ROOT
from tests.support.ran_stages import Execution, conf, items, read_executions
from tests.support.stage_graph import Tally, compare

EVENT_LOGS = ROOT / "tests" / "data" / "eventlogs"

_APPLICATION = """
from pyspark.sql import SparkSession
from pyspark.sql.functions import col

def main(path):
    folder = str(path)
    spark = SparkSession.builder.appName("graph").getOrCreate()
    big = spark.range(20000).selectExpr("id", "id % 50 as k", "id % 7 as g")
    big.write.parquet(folder + "/big")
    small = spark.range(50).selectExpr("id as k", "concat('name', id) as name")
    small.write.parquet(folder + "/small")
    for table in ("big", "small"):
        spark.read.parquet(folder + "/" + table).createOrReplaceTempView(table)
    spark.range(500).selectExpr("id", "id % 5 as k").write.parquet(folder + "/kept")
    kept = spark.read.parquet(folder + "/kept").repartition(3, col("k")).cache()
    kept.createOrReplaceTempView("cached")
    parted = spark.range(1000).selectExpr("id", "id % 10 as p0")
    parted.write.partitionBy("p0").parquet(folder + "/parted")
    spark.read.parquet(folder + "/parted").createOrReplaceTempView("parted")
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
        "sorted": "select * from big order by id desc",
        "top": "select k, sum(id) s from big group by k order by s limit 5",
        "top-of-scan": "select /*+ repartition(4) */ * from big order by id limit 5",
        "limit": "select * from (select /*+ repartition(4) */ * from big) limit 7",
        "taken": "select g, (select k from small order by k limit 1) f, count(*) from big "
                 "group by g",
        "repartitioned": "select /*+ repartition(5) */ id from big",
        "distinct": "select count(distinct k), sum(distinct g) from big",
        "window": "select id, row_number() over (partition by k order by id) r from big",
        "product": "select count(*) from big a cross join "
                   "(select /*+ repartition(2) */ * from small) b",
        "full-outer": "select /*+ broadcast(s) */ count(*) from big b full outer join small s "
                      "on b.k < s.k - 48",
        "semi-left": "select /*+ broadcast(s) */ count(*) from small s left semi join big b "
                     "on b.k < s.k - 48",
        "in": "select count(*) from big where k in (select k from small where name like '%1')",
        "cache": "select k, count(*) from cached group by k",
        "cache-again": "select k, count(*) from cached group by k",
        "pruning": "select count(*) from parted join small on parted.p0 = small.k "
                   "where name = 'name3'",
        "nothing": "select k from big where 1 = 0",
        "rows": "select * from values (1), (2) as t(a)",
    }
    for name, text in queries.items():
        spark.sparkContext.setJobDescription(name)
        spark.sql(text).write.format("noop").mode("overwrite").save()
    written = spark.sql(queries["aggregate"])
    spark.sparkContext.setJobDescription("parquet")
    written.write.mode("overwrite").parquet(folder + "/out")
    spark.sparkContext.setJobDescription("collected")
    spark.sql(queries["top"]).collect()
    spark.sparkContext.setJobDescription("collected-limit")
    spark.sql("select * from big").limit(3).collect()
    spark.stop()
"""

QUERIES = ("aggregate", "join", "broadcast", "reused", "subquery", "union")


@dataclass(frozen=True)
class Ran:
    """What an application ran; ``harvested``: derived graph and rows of some of its queries."""

    adaptive: bool
    executions: list[Execution]
    harvested: dict[str, tuple[PlanGraph, list[Record]]]


@pytest.fixture(scope="module")
def jvm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[in_turn.Jvm]:
    folder = tmp_path_factory.mktemp("jvm")
    with in_turn.of_text(folder, "graph_app", _APPLICATION) as found:
        yield found


@pytest.fixture(scope="module", params=["false", "true"], ids=["aqe-off", "aqe-on"])
def ran(
    jvm: in_turn.Jvm, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Ran:
    folder = tmp_path_factory.mktemp("graph")
    settings = {
        "spark.sql.shuffle.partitions": "3",
        "spark.sql.adaptive.enabled": request.param,
        "spark.sql.autoBroadcastJoinThreshold": "20000",
    }
    jvm.run(folder, "graph_app", folder, settings, plugin=False)
    (source,) = find_logs([folder / "events"])
    harvest, rows, plans = Harvest(source="eventlog"), list[Record](), {}
    for event in EventReader(source):
        if event["Event"].endswith("SQLExecutionStart") and event["description"] in QUERIES:
            plans[event["executionId"]] = (event["description"], event["sparkPlanInfo"])
        rows += harvest.consume(event)
    rows += harvest.close()
    harvested = {
        name: (
            derive(parse_plan(plan)),
            [row for row in rows if getattr(row, "execution_id", None) == execution_id],
        )
        for execution_id, (name, plan) in plans.items()
    }
    return Ran(request.param == "true", read_executions(source.path), harvested)


def test_the_graph_is_what_runs(ran: Ran) -> None:
    tally = Tally().add(ran.executions)
    assert tally.unexplained == []
    if not ran.adaptive:
        assert tally.equal == tally.executions
    assert {e.description for e in ran.executions if not e.failed} >= {"parquet", "collected"}


@pytest.mark.parametrize("query", QUERIES)
def test_every_boundary_is_tied_to_its_stage(ran: Ran, query: str) -> None:
    _, rows = ran.harvested[query]
    boundaries = [row for row in rows if isinstance(row, BoundaryRecord)]
    assert boundaries
    assert all(row.stage_id is not None for row in boundaries)
    (execution,) = (row for row in rows if isinstance(row, ExecutionRecord))
    assert execution.complete


@pytest.mark.parametrize("adaptive", [False, True], ids=["aqe-off", "aqe-on"])
def test_tpch(jvm: in_turn.Jvm, adaptive: bool, tmp_path: Path) -> None:
    spec = queries.write_spec(items("tpch"), tmp_path, allow_failures=True)
    ran = jvm.run(tmp_path, "tests.support.query_app", spec, conf(adaptive), plugin=False)
    tally = Tally().add(read_executions(ran.event_log))
    assert tally.executions == 30  # 22 queries, 8 views
    assert tally.unexplained == []
    assert tally.stages > 130
    if not adaptive:
        assert tally.equal == 30


@pytest.mark.parametrize("log", sorted(EVENT_LOGS.glob("*.zstd")), ids=lambda log: log.stem)
def test_recorded_logs(log: Path) -> None:
    tally = Tally().add(read_executions(log))
    assert tally.unexplained == []
    assert tally.equal >= tally.executions // 4


def test_a_stage_too_many_or_too_few_is_seen(ran: Ran) -> None:
    """The comparison can fail: with the plan of another query nothing fits."""
    by_name = {e.description: e for e in ran.executions}
    other = compare(derive(by_name["join"].plans[0]), by_name["union"])
    assert not other.equal
    assert other.missing


def test_a_broadcast_is_waited_for(ran: Ran) -> None:
    _, rows = ran.harvested["broadcast"]
    stages = {row.stage_id: row for row in rows if isinstance(row, StageRecord)}
    writer = next(row for row in stages.values() if row.boundary_id is not None)
    assert writer.parents
    build = stages[writer.parents[0]]
    assert build.shuffle_write_bytes == 0
    assert build.operators is not None
    assert build.operators[0] == "BroadcastExchange"
    assert build.template in {s.template for s in ran.harvested["broadcast"][0].graph.stages}
