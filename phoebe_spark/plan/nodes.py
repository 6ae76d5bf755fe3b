"""Physical plans as Spark's listeners show them: `PlanNode` and what kind of node one is.

Read from a ``SparkPlanInfo`` JSON object (node name, one-line string, children, metadata, metrics),
which event logs and the live plugin both carry. What recurs of a plan from run to run is
`phoebe_spark.plan.templates`', stages are `phoebe_spark.plan.stages`'s, model inputs
`phoebe_spark.plan.features`'.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

SHUFFLE_WRITE_METRIC = "shuffle bytes written"

_WRAPPERS = frozenset(
    {
        "AdaptiveSparkPlan", "WholeStageCodegen", "InputAdapter", "ColumnarToRow", "RowToColumnar",
        "ShuffleQueryStage", "BroadcastQueryStage", "TableCacheQueryStage", "ResultQueryStage",
        "LogicalQueryStage", "AQEShuffleRead", "CustomShuffleReader", "ReusedExchange",
        "ReusedSubquery",
    }
)  # fmt: skip
"""Nodes that do no work of their own or that only AQE and codegen put there."""

PRUNING_SUBQUERIES = frozenset({"SubqueryBroadcast", "SubqueryAdaptiveBroadcast"})
"""Dynamic pruning: AQE keeps it or turns it into ``true`` from run to run."""


@dataclass(slots=True, eq=False)  # not frozen: plans are parsed by the thousand
class PlanNode:
    """One node of a physical plan, which nobody changes once it is parsed.

    ``kind`` is the operator's name without codegen numbers, arguments and paths ("Scan parquet",
    "Exchange"); ``index`` the node's rank in the pre-order of the whole plan as sent (root 0).
    """

    name: str
    text: str
    children: Sequence[PlanNode]
    index: int
    kind: str
    raw_metrics: Sequence[Any] = field(default=(), repr=False)
    metadata: Mapping[str, str] = field(default_factory=dict)

    def walk(self) -> Iterator[PlanNode]:
        """Every node, in pre-order."""
        stack = [self]
        while stack:
            node = stack.pop()
            yield node
            stack.extend(reversed(node.children))

    @property
    def metrics(self) -> dict[str, int]:
        """Metric names to accumulator ids; made when asked for, because few nodes are asked."""
        return _metrics(self.raw_metrics)

    @property
    def shuffle_acc_id(self) -> int | None:
        """Accumulator id of the exchange's "shuffle bytes written" metric."""
        for metric in self.raw_metrics:
            if isinstance(metric, dict) and metric.get("name") == SHUFFLE_WRITE_METRIC:
                return found if isinstance(found := metric.get("accumulatorId"), int) else None
        return None


def parse_plan(info: Mapping[str, Any]) -> PlanNode:
    """A `PlanNode` from a ``SparkPlanInfo`` JSON object.

    Missing fields are read as empty: a plan written by another Spark version still parses. Raises
    ``TypeError`` when ``info`` or a child is not an object.
    """
    # Iterative: plans of some hundred levels would hit Python's recursion limit.
    root: PlanNode | None = None
    stack: list[tuple[Mapping[str, Any], list[PlanNode]]] = [(info, [])]
    index = 0
    while stack:
        item, siblings = stack.pop()
        if not isinstance(item, dict):
            raise TypeError(f"a plan node must be an object, not {type(item).__name__}")
        name = str(item.get("nodeName") or "").strip()
        below: list[PlanNode] = []
        node = PlanNode(
            name=name,
            text=str(item.get("simpleString") or ""),
            children=below,
            index=index,
            kind=_kind(name),
            raw_metrics=metrics if isinstance(metrics := item.get("metrics"), list) else (),
            metadata=_strings(item.get("metadata")),
        )
        siblings.append(node)
        if index == 0:
            root = node
        index += 1
        children = item.get("children") or ()
        if not isinstance(children, (list, tuple)):
            raise TypeError("a plan node's children must be a list")
        stack.extend((child, below) for child in reversed(children))
    assert root is not None
    return root


def _strings(raw: object) -> dict[str, str]:
    return {k: str(v) for k, v in raw.items()} if isinstance(raw, dict) and raw else {}


def _metrics(raw: Sequence[Any]) -> dict[str, int]:
    try:
        found = {metric["name"]: metric["accumulatorId"] for metric in raw}
        if set(map(type, found)) <= {str} and set(map(type, found.values())) <= {int}:
            return found
    except (KeyError, TypeError):
        pass  # not Spark's shape: what can be read is read
    found = {}
    for metric in raw:
        if isinstance(metric, dict) and isinstance(metric.get("accumulatorId"), int):
            found[str(metric.get("name"))] = metric["accumulatorId"]
    return found


@lru_cache(maxsize=4096)
def _kind(name: str) -> str:
    words = name.split("(", 1)[0].split()
    if not words:
        return ""
    if words[0] in ("Scan", "BatchScan"):
        return " ".join(words[:2])
    if words[0] in ("Execute", "Subquery"):
        return " ".join(words[:2]) if words[0] == "Execute" else "Subquery"
    return words[0]


def is_shuffle(node: PlanNode) -> bool:
    """Whether the node is a shuffle exchange, Spark's or ours (both are named ``Exchange``)."""
    return node.kind == "Exchange"


def is_broadcast(node: PlanNode) -> bool:
    return node.kind == "BroadcastExchange"


def is_scan(node: PlanNode) -> bool:
    return is_scan_kind(node.kind)


def is_scan_kind(kind: str) -> bool:
    return kind.startswith(("Scan ", "BatchScan", "LocalTableScan", "InMemoryTableScan"))


def is_wrapper(node: PlanNode) -> bool:
    """Whether the node is there only because of codegen or AQE."""
    return node.kind in _WRAPPERS


_PLAN_ID = re.compile(r"\[plan_id=(\d+)\]")


def exchange_identity(node: PlanNode) -> tuple[str, int]:
    """What tells one exchange node from another inside one plan version."""
    acc_id = node.shuffle_acc_id
    if acc_id is not None:
        return ("acc", acc_id)
    if found := _PLAN_ID.search(node.text):
        return ("plan_id", int(found.group(1)))
    return ("index", node.index)


def exchange_nodes(plan: PlanNode) -> list[PlanNode]:
    """The plan's shuffle exchanges in pre-order, each once.

    Query stages, subqueries and cached plans are seen through. What a ``ReusedExchange`` or
    ``ReusedSubquery`` shows again is not there again.
    """
    seen: dict[tuple[str, int], PlanNode] = {}
    reused: dict[tuple[str, int], PlanNode] = {}
    stack: list[tuple[PlanNode, bool]] = [(plan, False)]
    while stack:
        node, again = stack.pop()
        if is_shuffle(node):
            (reused if again else seen).setdefault(exchange_identity(node), node)
        again = again or node.kind in ("ReusedExchange", "ReusedSubquery")
        stack.extend((child, again) for child in reversed(node.children))
    # The original may be missing from a partial plan: then its reuse stands for it.
    return sorted({**reused, **seen}.values(), key=lambda node: node.index)


_PARTITIONS = re.compile(r"(?:partitioning|Partitioning)\((?:.*, )?(\d+)(?:, [^()]*)?\)")


def partitions(node: PlanNode) -> int | None:
    """The exchange's partition count as its string says, before AQE coalesces; None: unknown."""
    if "SinglePartition" in node.text:
        return 1
    found = _PARTITIONS.search(node.text)
    return int(found.group(1)) if found else None


def body(plan: PlanNode) -> PlanNode:
    """The plan as the hook in the JVM sees it: below the first ``AdaptiveSparkPlan`` of the
    pre-order (without the write command around it) where there is one, else the whole plan."""
    for node in plan.walk():
        if node.kind == "AdaptiveSparkPlan" and node.children:
            return node.children[0]
    return plan
