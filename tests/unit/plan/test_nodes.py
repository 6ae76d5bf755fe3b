"""Plans: exchanges, templates, shapes, and the graph derived from them."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from phoebe_spark.plan.features import features
from phoebe_spark.plan.nodes import parse_plan, partitions
from phoebe_spark.plan.stages import derive
from phoebe_spark.plan.templates import exchanges, shape, template

Info = dict[str, Any]


def node(text: str, *children: Info, name: str | None = None, **more: Any) -> Info:
    name = name if name is not None else text.split("(")[0].split(" ")[0]
    return {"nodeName": name, "simpleString": text, "children": list(children),
            "metadata": {}, "metrics": [], **more}  # fmt: skip


def scan(table: str, *columns: str, literal: str = "5", path: str = "/day1") -> Info:
    first = columns[0]
    return node(
        f"FileScan parquet [{','.join(c + '#1' for c in columns)}] Batched: true",
        name="Scan parquet ",
        metadata={
            "Format": "Parquet",
            "Location": f"InMemoryFileIndex(1 paths)[file:{path}/{table}]",
            "ReadSchema": f"struct<{','.join(c + ':bigint' for c in columns)}>",
            "DataFilters": f"[isnotnull({first}#1), ({first}#1 > {literal})]",
            "PartitionFilters": "[]",
            "PushedFilters": f"[IsNotNull({first}), GreaterThan({first},{literal})]",
        },
    )


def exchange(key: str, child: Info, *, plan_id: int, acc: int, parts: int = 32) -> Info:
    return node(
        f"Exchange hashpartitioning({key}#7, {parts}), ENSURE_REQUIREMENTS, [plan_id={plan_id}]",
        child,
        metrics=[{"name": "shuffle bytes written", "accumulatorId": acc, "metricType": "size"}],
    )


def initial(literal: str = "5", path: str = "/day1", parts: int = 32) -> Info:
    """Two scans, sort-merge joined, aggregated."""
    left = exchange("a", scan("l", "a", "b", literal=literal, path=path),
                    plan_id=10, acc=100, parts=parts)  # fmt: skip
    right = exchange("c", scan("r", "c", "d", path=path), plan_id=11, acc=101, parts=parts)
    join = node(
        "SortMergeJoin [a#7], [c#8], Inner",
        node("Sort [a#7 ASC NULLS FIRST], false, 0", left),
        node("Sort [c#8 ASC NULLS FIRST], false, 0", right),
    )
    partial = node(f"HashAggregate(keys=[b#2], functions=[partial_sum((d#4 * {literal}))])", join)
    top = node("HashAggregate(keys=[b#2], functions=[sum((d#4 * 5))])",
               exchange("b", partial, plan_id=12, acc=102, parts=parts))  # fmt: skip
    return node("AdaptiveSparkPlan isFinalPlan=false", top)


def replanned() -> Info:
    """The same, after the right side turned out small: what ran."""
    left = node(
        "ShuffleQueryStage 0",
        exchange(
            "a",
            node(
                "WholeStageCodegen (1)",
                node("ColumnarToRow", node("InputAdapter", scan("l", "a", "b"))),
            ),
            plan_id=50,
            acc=200,
        ),
    )
    right = node(
        "BroadcastQueryStage 2",
        node(
            "BroadcastExchange HashedRelationBroadcastMode(List(input[0])), [plan_id=61]",
            node(
                "AQEShuffleRead local",
                node(
                    "ShuffleQueryStage 1",
                    exchange("c", scan("r", "c", "d"), plan_id=51, acc=201),
                ),
            ),
        ),
    )
    join = node(
        "BroadcastHashJoin [a#7], [c#8], Inner, BuildRight, false, false",
        node("AQEShuffleRead coalesced", left),
        right,
    )
    partial = node("SortAggregate(key=[b#2], functions=[partial_sum((d#4 * 5))])", join)
    final = node(
        "HashAggregate(keys=[b#2], functions=[sum((d#4 * 5))])",
        exchange("b", partial, plan_id=52, acc=202),
    )
    return node("AdaptiveSparkPlan isFinalPlan=true", node("ResultQueryStage 5", final))


def templates(info: Info) -> dict[str, str]:
    return {e.boundary_id: e.template for e in exchanges(parse_plan(info))}


def test_boundaries_are_numbered_in_pre_order() -> None:
    found = exchanges(parse_plan(initial()))
    assert [(e.boundary_id, e.node.shuffle_acc_id) for e in found] == [
        ("e0", 102), ("e1", 100), ("e2", 101),
    ]  # fmt: skip
    assert [e.partitions for e in found] == [32, 32, 32]


def test_template_survives_a_replan() -> None:
    assert templates(initial()) == templates(replanned())


def test_template_ignores_literals_paths_and_partition_count() -> None:
    assert templates(initial()) == templates(initial(literal="77", path="/day2", parts=8))


def test_template_tells_different_work_apart() -> None:
    assert len(set(templates(initial()).values())) == 3
    other = initial()
    other["children"][0]["children"][0]["children"][0]["simpleString"] = (
        "HashAggregate(keys=[b#2], functions=[partial_max(d#4)])"
    )
    assert templates(other)["e0"] != templates(initial())["e0"]
    assert templates(other)["e1"] == templates(initial())["e1"]


def test_string_literals_and_truncation_do_not_count() -> None:
    def filtered(literal: str) -> str:
        text = f"Filter ((n#3 = {literal}) AND isnotnull(n#3))"
        return template(parse_plan(node(text, scan("t", "n"))))

    assert filtered("FRANCE") == filtered("SAUDI ARABIA") == filtered("1995-01-01")
    inset = [
        template(parse_plan(node(text, scan("t", "n"))))
        for text in ("Filter n#3 IN (AIR,MAIL)", "Filter n#3 INSET 1, 2, 3, ... 8 more fields")
    ]
    assert inset[0] == inset[1]


def test_our_exchange_has_sparks_template() -> None:
    ours = initial()
    for info in (ours["children"][0]["children"][0],):
        info["simpleString"] = "Exchange hashpartitioning(b#7, 32), REQUIRED, phoebe=ab12cd"
    assert templates(ours) == templates(initial())


def test_reused_exchange_is_a_second_reader() -> None:
    once = exchange("a", scan("l", "a"), plan_id=1, acc=1)
    again = node("ReusedExchange [a#9], Exchange hashpartitioning(a#7, 32), [plan_id=1]", once)
    plan = parse_plan(node("Union", node("ShuffleQueryStage 3", again), once))
    assert [e.boundary_id for e in exchanges(plan)] == ["e0"]
    graph = derive(plan).graph
    assert [(s.stage_id, s.parents) for s in graph.stages] == [(0, ()), (1, (0,))]


def test_equal_exchanges_share_a_stage_and_different_literals_do_not() -> None:
    def pair(literal: str) -> Info:
        return node(
            "Union",
            exchange("a", scan("l", "a"), plan_id=1, acc=1),
            exchange("a", scan("l", "a", literal=literal), plan_id=2, acc=2),
        )

    merged = derive(parse_plan(pair("5")))
    assert len(merged.graph.stages) == 2
    assert merged.stage_of_boundary == {"e0": 0, "e1": 0}
    assert len(derive(parse_plan(pair("6"))).graph.stages) == 3


def test_graph_splits_at_broadcasts_and_subqueries() -> None:
    subquery = node("Subquery subquery#1, [id=#5]", scan("s", "x"))
    build = node("BroadcastExchange HashedRelationBroadcastMode(List(x)), [plan_id=3]",
                 scan("r", "c"))  # fmt: skip
    join = node(
        "BroadcastHashJoin [a#1], [c#2], Inner, BuildRight, false, false",
        node("Filter (a#1 > Subquery subquery#1, [id=#5])", scan("l", "a"), subquery),
        build,
    )
    graph = derive(parse_plan(exchange("a", join, plan_id=9, acc=9))).graph
    carriers = [s.boundary.carrier if s.boundary else None for s in graph.stages]
    assert carriers == ["broadcast", "broadcast", "shuffle"]
    assert graph.stages[2].parents == (0, 1)
    assert not any(s.boundary.eligible for s in graph.stages[:2] if s.boundary)


def test_advise_boundaries_fill_the_graph() -> None:
    plan = parse_plan(initial())
    first = exchanges(plan)[0].node.index
    graph = derive(plan, [{"node": first, "fingerprint": "f", "eligible": False, "partitions": 4,
                           "catalyst_bytes": 1000, "catalyst_rows": None}])  # fmt: skip
    boundary = graph.graph.stages[graph.stage_of_boundary["e0"]].boundary
    assert boundary is not None
    assert (boundary.fingerprint, boundary.eligible) == ("f", False)
    assert (boundary.partitions, boundary.catalyst_bytes) == (4, 1000)
    assert graph.graph.stages[-1].boundary is None


def test_features_are_flat_floats_per_stage() -> None:
    graph = derive(parse_plan(initial()))
    found = features(graph)
    assert set(found) == {0, 1, 2, 3}
    assert all(type(v) is float for row in found.values() for v in row.values())
    aggregated = found[graph.stage_of_boundary["e0"]]
    assert aggregated["own_join"] == 1
    assert aggregated["up_scan"] == 2
    assert aggregated["own_scan"] == 0
    assert aggregated["depth"] == 1
    assert aggregated["parents_shuffle"] == 2
    assert "log_catalyst_bytes" not in aggregated


def test_shape_is_the_documented_hash() -> None:
    plan = node("AdaptiveSparkPlan isFinalPlan=false",
                node("Filter x", node("FileScan", name="Scan parquet db.t")))  # fmt: skip
    expected = hashlib.sha256(b"Filter/1;Scan parquet/0;").hexdigest()[:16]
    assert shape(parse_plan(plan)) == expected
    assert shape(parse_plan(plan["children"][0])) == expected
    assert shape(parse_plan(node("OverwriteByExpression", plan))) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Exchange hashpartitioning(a#1, b#2, 17), ENSURE_REQUIREMENTS, [plan_id=4836]", 17),
        ("Exchange SinglePartition, ENSURE_REQUIREMENTS, [plan_id=1]", 1),
        ("Exchange RoundRobinPartitioning(9), REPARTITION_BY_NUM, [plan_id=1]", 9),
        ("Exchange rangepartitioning(a#1 ASC NULLS FIRST, 8), ENSURE_REQUIREMENTS", 8),
        ("Exchange hashpartitioning(coalesce(a#1, 0), 12), ENSURE_REQUIREMENTS", 12),
        ("Exchange something new", None),
    ],
)
def test_partitions(text: str, expected: int | None) -> None:
    assert partitions(parse_plan(node(text))) == expected


def test_deep_plans_do_not_hit_the_stack() -> None:
    info = scan("t", "a")
    for depth in range(3000):
        info = exchange("a", info, plan_id=depth, acc=depth) if depth % 500 == 0 else node(
            "Filter (a#1 > 3)", info)  # fmt: skip
    plan = parse_plan(info)
    assert len(derive(plan).graph.stages) == 7


def test_a_plan_that_is_no_plan() -> None:
    with pytest.raises(TypeError):
        parse_plan({"nodeName": "x", "children": [3]})
    with pytest.raises(TypeError):
        parse_plan({"nodeName": "x", "children": "abc"})
