"""Physical plans as Spark's listeners show them: `PlanNode`, its exchanges, templates and shape.

Everything here is computed from a ``SparkPlanInfo`` JSON object alone (node name, one-line string,
children, metadata, metrics), which event logs and the live plugin both carry, so live and logged
runs share templates. Stage graphs are made in `phoebe_spark.plan_graph`, model inputs in
`phoebe_spark.features`.

Three identities of a subtree, from loose to strict:

- `shape`: node names and child counts of a whole plan (docs/protocol.md, "Plan shape");
- `template`: what recurs from day to day; literals, ids, paths, join strategy, codegen and AQE
  artefacts do not count;
- `reuse_key`: like the template with literals and inputs kept; two exchanges of one plan with the
  same key are run once (Spark's stage cache reuses the first).

The semantic fingerprint, on which results depend, is the JVM side's: nothing here may decide what
is restored.
"""

from __future__ import annotations

import hashlib
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

_SAME_OPERATOR = {
    "SortMergeJoin": "Join",
    "BroadcastHashJoin": "Join",
    "ShuffledHashJoin": "Join",
    "BroadcastNestedLoopJoin": "Join",
    "CartesianProduct": "Join",
    "HashAggregate": "Aggregate",
    "SortAggregate": "Aggregate",
    "ObjectHashAggregate": "Aggregate",
}

_PRUNING_SUBQUERIES = frozenset({"SubqueryBroadcast", "SubqueryAdaptiveBroadcast"})
"""Dynamic pruning: AQE keeps it or turns it into ``true`` from run to run."""


@dataclass(frozen=True, slots=True)
class PlanNode:
    """One node of a physical plan.

    ``kind`` is the operator's name without codegen numbers, arguments and paths ("Scan parquet",
    "Exchange"); ``index`` the node's rank in the pre-order of the whole plan as sent (root 0).
    """

    name: str
    text: str
    children: tuple[PlanNode, ...]
    index: int
    kind: str
    raw_metrics: Sequence[Any] = field(default=(), compare=False, repr=False)
    metadata: Mapping[str, str] = field(default_factory=dict, compare=False)

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
        return self.metrics.get(SHUFFLE_WRITE_METRIC)


@dataclass(frozen=True, slots=True)
class Exchange:
    """A shuffle exchange of a plan: a boundary.

    ``boundary_id`` is ``"e<k>"``, k being its rank among the plan's shuffle exchanges in pre-order;
    one that is shown again below a ``ReusedExchange`` is not counted again.
    """

    boundary_id: str
    node: PlanNode
    template: str
    reuse_key: str
    partitions: int | None


def parse_plan(info: Mapping[str, Any]) -> PlanNode:
    """A `PlanNode` from a ``SparkPlanInfo`` JSON object.

    Missing fields are read as empty: a plan written by another Spark version still parses. Raises
    ``TypeError`` when ``info`` or a child is not an object.
    """
    # Iterative: plans of some hundred levels would hit Python's recursion limit.
    order: list[tuple[Mapping[str, Any], list[int]]] = []
    stack: list[tuple[Mapping[str, Any], int]] = [(info, -1)]
    while stack:
        item, parent = stack.pop()
        if not isinstance(item, dict):
            raise TypeError(f"a plan node must be an object, not {type(item).__name__}")
        index = len(order)
        order.append((item, []))
        if parent >= 0:
            order[parent][1].append(index)
        children = item.get("children") or ()
        if not isinstance(children, (list, tuple)):
            raise TypeError("a plan node's children must be a list")
        stack.extend((child, index) for child in reversed(children))
    built: list[PlanNode | None] = [None] * len(order)
    for index in range(len(order) - 1, -1, -1):
        item, below = order[index]
        name = str(item.get("nodeName") or "").strip()
        built[index] = PlanNode(
            name=name,
            text=str(item.get("simpleString") or ""),
            children=tuple(node for i in below if (node := built[i]) is not None),
            index=index,
            kind=_kind(name),
            raw_metrics=metrics if isinstance(metrics := item.get("metrics"), list) else (),
            metadata=_strings(item.get("metadata")),
        )
    root = built[0]
    assert root is not None
    return root


def _strings(raw: object) -> dict[str, str]:
    return {k: str(v) for k, v in raw.items()} if isinstance(raw, dict) and raw else {}


def _metrics(raw: Sequence[Any]) -> dict[str, int]:
    found: dict[str, int] = {}
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


def is_subquery(node: PlanNode) -> bool:
    """Whether the node starts a subquery: a plan of its own that its reader waits for."""
    return node.kind == "Subquery" or node.kind in _PRUNING_SUBQUERIES


def is_scan(node: PlanNode) -> bool:
    return node.kind.startswith(("Scan ", "BatchScan", "LocalTableScan", "InMemoryTableScan"))


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


def exchanges(plan: PlanNode, digests: Digests | None = None) -> tuple[Exchange, ...]:
    """The plan's shuffle exchanges in pre-order, each once, with boundary ids "e0", "e1"...

    Query stages, subqueries and cached plans are seen through. What a ``ReusedExchange`` or
    ``ReusedSubquery`` shows again is not a boundary of its own.
    """
    digests = digests or Digests()
    return tuple(
        Exchange(
            f"e{rank}", node, digests.template(node), digests.reuse_key(node), partitions(node)
        )
        for rank, node in enumerate(exchange_nodes(plan))
    )


def exchange_nodes(plan: PlanNode) -> list[PlanNode]:
    """The nodes of `exchanges`, in the same order."""
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


def shape(plan: PlanNode) -> str:
    """The plan's shape: 16 hex digits (docs/protocol.md, "Plan shape").

    Taken from `body`, so that the live plan and the logged one agree.
    """
    digest = hashlib.sha256()
    for node in body(plan).walk():
        if node.kind == "AdaptiveSparkPlan":
            continue
        name = node.name
        if name.startswith("Scan "):
            name = " ".join(name.split()[:2])
        digest.update(f"{name}/{len(node.children)};".encode())
    return digest.hexdigest()[:16]


def template(node: PlanNode) -> str:
    """What recurs of the subtree: 16 hex digits.

    The same in the initial plan and in each re-plan, from day to day on other data and with other
    literals, for Spark's exchange and for ours. The partition count does not count. Inner exchanges
    that only satisfy a distribution are dropped with the sorts and broadcasts, because they come
    and go with the join strategy.
    """
    return Digests().template(node)


def reuse_key(node: PlanNode) -> str:
    """Like `template` with literals and inputs kept (32 hex digits)."""
    return Digests().reuse_key(node)


_Memo = dict[int, tuple[str, ...]]


class Digests:
    """`template` and `reuse_key` for the nodes of one plan: shared subtrees are hashed once."""

    __slots__ = ("_loose", "_strict")

    def __init__(self) -> None:
        self._loose: _Memo = {}
        self._strict: _Memo = {}

    def template(self, node: PlanNode) -> str:
        return _digest(node, self._loose, literals=False)[:16]

    def reuse_key(self, node: PlanNode) -> str:
        return _digest(node, self._strict, literals=True)[:32]


def _digest(root: PlanNode, done: _Memo, *, literals: bool) -> str:
    """Bottom-up hash over the subtree, iterative; ``done``: what nodes, by id, stand for."""
    stack: list[tuple[PlanNode, bool]] = [(root, False)]
    while stack:
        node, ready = stack.pop()
        if not ready and node is not root:
            if id(node) in done:
                continue
            if not literals and node.kind in _PRUNING_SUBQUERIES:
                done[id(node)] = ()
                continue
        if not ready:
            stack.append((node, True))
            stack.extend((child, False) for child in node.children)
        elif node is not root:
            done[id(node)] = (
                _below(node, done) if _is_transparent(node) else (_own(node, done, literals),)
            )
    return _own(root, done, literals)


def _below(node: PlanNode, done: _Memo) -> tuple[str, ...]:
    return tuple(part for child in node.children for part in done[id(child)])


def _own(node: PlanNode, done: _Memo, literals: bool) -> str:
    own = _strict_text(node) if literals else "\x1f".join(_signature(node))
    head = _SAME_OPERATOR.get(node.kind, node.kind)
    content = "\x1e".join((head, own, *_below(node, done)))
    return hashlib.sha256(content.encode(errors="replace")).hexdigest()


def _is_transparent(node: PlanNode) -> bool:
    if is_wrapper(node) or is_broadcast(node):
        return True
    if is_shuffle(node):
        return "REPARTITION" not in node.text and "REBALANCE" not in node.text
    # Local sorts only: a global sort is the query's own.
    return node.kind == "Sort" and ", true, " not in node.text


_PRUNING = re.compile(r"dynamicpruning\w*\((?:[^()]|\([^()]*\))*\)")
_DROPPED = re.compile(
    r"\[plan_id=\d+\]|\[id=#?\d+\]|ReusedSubquery |, Build(?:Left|Right)|\bBuild(?:Left|Right),? ?"
    r"|, output=\[.*|, (?:true|false), (?:true|false)$|, isSkew=\w+"
)
_IDS = re.compile(r"#\d+L?|\[plan_id=\d+\]|\[id=#?\d+\]|plan_id=\d+|ReusedSubquery ")
_UNSTABLE_METADATA = frozenset({"Batched", "SelectedBucketsCount", "PushedFilters"})


def _strict_text(node: PlanNode) -> str:
    """The node's string with literals and inputs, without ids and join strategy."""
    if is_scan(node) and node.metadata:
        return _without_ids(
            "\x1d".join(
                f"{key}={value}"
                for key, value in sorted(node.metadata.items())
                if key not in _UNSTABLE_METADATA
            )
        )
    text = node.text
    if text.startswith(node.kind):
        text = text[len(node.kind) :]
    return _without_strategy(text)


@lru_cache(maxsize=8192)
def _without_ids(text: str) -> str:
    return _IDS.sub("", _PRUNING.sub("", text))


@lru_cache(maxsize=8192)
def _without_strategy(text: str) -> str:
    return _IDS.sub("", _DROPPED.sub("", _PRUNING.sub("", text))).replace("key=", "keys=")


_TOKEN = re.compile(
    r"(?P<attribute>[A-Za-z_][\w.]*)#\d+L?"
    r"|(?P<function>[A-Za-z_]\w*)(?=\()"
    r"|(?P<word>[A-Za-z_]\w*)"
    r"|(?P<comparison><=>|<=|>=|<|>|=)"
)
_KEYWORDS = frozenset(
    {
        "AND", "OR", "NOT", "IN", "LIKE", "RLIKE", "CASE", "WHEN", "THEN", "ELSE", "ASC", "DESC",
        "FIRST", "LAST", "Inner", "Cross", "LeftOuter", "RightOuter", "FullOuter", "LeftSemi",
        "LeftAnti", "Partial", "Final", "SinglePartition",
    }
)  # fmt: skip


@lru_cache(maxsize=8192)
def _tokens(text: str) -> tuple[str, ...]:
    """The recurring words of an operator's string, sorted: columns, functions, keywords.

    Spark prints string literals without quotes, so a bare word that is neither a column (followed
    by ``#id``), nor a function (followed by a parenthesis), nor a keyword is taken for a literal
    and dropped. Sorted, because the order of conjuncts is the optimizer's.
    """
    text = _DROPPED.sub("", _PRUNING.sub("", text))
    found: list[str] = []
    for match in _TOKEN.finditer(text):
        kind, value = match.lastgroup, match.group(match.lastgroup or 0)
        if kind == "word":
            value = "IN" if value == "INSET" else value
            if value not in _KEYWORDS:
                continue
        found.append(value)
    return tuple(sorted(found))


_READ_SCHEMA = re.compile(r"(\w+):")
_SCAN_FILTERS = ("DataFilters", "PartitionFilters")
_PARTITIONING = re.compile(
    r"(hashpartitioning|rangepartitioning|RoundRobinPartitioning|SinglePartition|"
    r"[A-Za-z]*partitioning)(.*)"
)


def _signature(node: PlanNode) -> tuple[str, ...]:
    """The recurring words of one node; scans and exchanges have fields of their own."""
    if is_shuffle(node):
        found = _PARTITIONING.search(node.text)
        if found is None:
            return _tokens(node.text)
        # Only the partitioning: origin, ids and whatever our own node adds do not count.
        return (found.group(1), *_tokens(_balanced(found.group(2))))
    if is_scan(node) and "ReadSchema" in node.metadata:
        table = node.name.split()[2:]  # "Scan parquet spark_catalog.default.t": a catalog table
        columns = sorted(_READ_SCHEMA.findall(node.metadata["ReadSchema"]))
        filters = _tokens(" ".join(node.metadata.get(key, "") for key in _SCAN_FILTERS))
        return (*table, *columns, "|", *filters)
    return _tokens(node.text.partition(" " if node.kind == node.text else node.kind)[2])


def _balanced(text: str) -> str:
    """The first parenthesised group of ``text``, or nothing."""
    depth = 0
    for position, char in enumerate(text):
        depth += (char == "(") - (char == ")")
        if depth == 0:
            return text[: position + 1] if position else ""
    return text
