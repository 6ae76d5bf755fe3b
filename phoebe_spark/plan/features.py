"""Plan features of each stage: what the predictors see before a run.

Flat dictionaries of floats, one per stage, fit for LightGBM: names are stable, a feature that is
not known is absent (LightGBM reads it as missing). History features (what past runs of the same
template did) are the predictors' own, not made here.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping

from phoebe_spark.graph import Stage
from phoebe_spark.plan.nodes import PlanNode, is_scan_kind
from phoebe_spark.plan.stages import PlanGraph

VERSION = 1
"""Goes up with every change of what a feature means or how it is made. A bundle says which one its
models were trained on; one of another version is refused."""

OPERATOR_GROUPS: Mapping[str, str] = {
    "SortMergeJoin": "join",
    "BroadcastHashJoin": "join",
    "ShuffledHashJoin": "join",
    "BroadcastNestedLoopJoin": "nested_join",
    "CartesianProduct": "nested_join",
    "HashAggregate": "aggregate",
    "SortAggregate": "aggregate",
    "ObjectHashAggregate": "aggregate",
    "Sort": "sort",
    "Filter": "filter",
    "Project": "project",
    "Window": "window",
    "WindowGroupLimit": "window",
    "Union": "union",
    "Expand": "expand",
    "Generate": "generate",
    "TakeOrderedAndProject": "limit",
    "GlobalLimit": "limit",
    "LocalLimit": "limit",
    "CollectLimit": "limit",
}
"""Spark's operators in groups; scans and Python nodes are told by name, the rest is other."""

GROUP_NAMES = (*sorted(set(OPERATOR_GROUPS.values())), "scan", "python", "other")

_STAGE_ROOTS = frozenset({"Exchange", "BroadcastExchange", "Subquery", "SubqueryBroadcast"})
_COLUMN = re.compile(r"#\d+L?\b")
_BYTES_PER_TYPE = {"bigint": 8, "int": 4, "double": 8, "float": 4, "date": 4, "timestamp": 8,
                   "string": 20, "boolean": 1, "smallint": 2, "tinyint": 1}  # fmt: skip
_FIELD_TYPE = re.compile(r":([a-z]+)")


def operator_group(kind: str) -> str:
    if is_scan_kind(kind):
        return "scan"
    if "Python" in kind or "Pandas" in kind or "InArrow" in kind:
        return "python"
    return OPERATOR_GROUPS.get(kind, "other")


def features(plan_graph: PlanGraph) -> dict[int, dict[str, float]]:
    """Plan features by stage id.

    ``own_<group>``: operators of the stage; ``up_<group>``: of the stage and all that it reads;
    ``depth``: longest chain of stages below; sizes as ``log_`` are natural log1p.
    """
    upstream: dict[int, frozenset[int]] = {}
    depth: dict[int, int] = {}
    stages = plan_graph.graph.stages
    readers = Counter(parent for stage in stages for parent in stage.parents)
    groups = {
        stage_id: Counter(operator_group(n.kind) for n in nodes if n.kind not in _STAGE_ROOTS)
        for stage_id, nodes in plan_graph.nodes.items()
    }
    made: dict[int, dict[str, float]] = {}
    for stage in stages:
        above = frozenset[int]().union(*(upstream[p] | {p} for p in stage.parents))
        upstream[stage.stage_id] = above
        depth[stage.stage_id] = 1 + max((depth[p] for p in stage.parents), default=-1)
        found = _own(stage, plan_graph.nodes[stage.stage_id])
        totals = Counter[str]()
        for stage_id in above:
            totals.update(groups[stage_id])
        for group in GROUP_NAMES:
            found[f"up_{group}"] = found[f"own_{group}"] + totals[group]
        found["depth"] = float(depth[stage.stage_id])
        found["upstream_stages"] = float(len(above))
        found["parents"] = float(len(stage.parents))
        found["readers"] = float(readers[stage.stage_id])
        parents = [stages[p].boundary for p in stage.parents]
        for carrier in ("shuffle", "broadcast"):
            found[f"parents_{carrier}"] = float(
                sum(b is not None and b.carrier == carrier for b in parents)
            )
        sizes = [b.catalyst_bytes for b in parents if b and b.catalyst_bytes is not None]
        if sizes:
            found["log_parents_catalyst_bytes"] = math.log1p(max(0, sum(sizes)))
        found["graph_stages"] = float(len(stages))
        made[stage.stage_id] = found
    return made


def _own(stage: Stage, nodes: tuple[PlanNode, ...]) -> dict[str, float]:
    # The node that ends a stage is not work of its own kind: it is in ``writes_*``.
    working = [node for node in nodes if node.kind not in _STAGE_ROOTS]
    counts = Counter(operator_group(node.kind) for node in working)
    found = {f"own_{group}": float(counts[group]) for group in GROUP_NAMES}
    found["own_operators"] = float(len(working))
    found["own_partial_aggregates"] = float(sum("partial_" in node.text for node in working))
    found["own_scan_columns"] = float(
        sum(len(_FIELD_TYPE.findall(n.metadata.get("ReadSchema", ""))) for n in working)
    )
    found["own_scan_row_bytes"] = float(sum(_row_bytes(n) for n in working))
    found["own_pushed_filters"] = float(
        sum(n.metadata.get("PushedFilters", "").count("(") for n in working)
    )
    found["own_text_length"] = float(sum(min(len(n.text), 1000) for n in working))
    boundary = stage.boundary
    found["writes_shuffle"] = float(boundary is not None and boundary.carrier == "shuffle")
    found["writes_broadcast"] = float(boundary is not None and boundary.carrier == "broadcast")
    if boundary is not None and boundary.carrier == "shuffle":
        if boundary.partitions is not None:
            found["partitions"] = float(boundary.partitions)
        if boundary.catalyst_bytes is not None:
            found["log_catalyst_bytes"] = math.log1p(max(0, boundary.catalyst_bytes))
        if boundary.catalyst_rows is not None:
            found["log_catalyst_rows"] = math.log1p(max(0, boundary.catalyst_rows))
        text = nodes[0].text if nodes else ""
        found["hash_keys"] = float(len(_COLUMN.findall(text.partition("ENSURE")[0])))
        found["range_partitioned"] = float("rangepartitioning" in text)
        found["repartition"] = float("REPARTITION" in text or "REBALANCE" in text)
    return found


def _row_bytes(node: PlanNode) -> int:
    """A guess at a scan's row width from its read schema, in bytes."""
    types = _FIELD_TYPE.findall(node.metadata.get("ReadSchema", ""))
    return sum(_BYTES_PER_TYPE.get(name, 16) for name in types)
