"""What recurs of a plan from run to run: its shape, its templates, its boundaries.

Computed from `phoebe_spark.plan.nodes.PlanNode` alone, so that live and logged runs agree. Three
identities of a subtree, from loose to strict:

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
from dataclasses import dataclass
from functools import lru_cache

from phoebe_spark.plan.nodes import (
    PRUNING_SUBQUERIES,
    PlanNode,
    body,
    exchange_nodes,
    is_broadcast,
    is_scan,
    is_shuffle,
    is_wrapper,
    partitions,
)

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


def exchanges(plan: PlanNode, digests: Digests | None = None) -> tuple[Exchange, ...]:
    """The plan's shuffle exchanges in pre-order, each once, with boundary ids "e0", "e1"...

    Query stages, subqueries and cached plans are seen through. What a ``ReusedExchange`` or
    ``ReusedSubquery`` shows again is not a boundary of its own.
    """
    digests = digests or Digests.of(plan)
    return tuple(
        Exchange(
            f"e{rank}", node, digests.template(node), digests.reuse_key(node), partitions(node)
        )
        for rank, node in enumerate(exchange_nodes(plan))
    )


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

    __slots__ = ("_loose", "_reuse_keys", "_strict", "_templates")

    def __init__(self) -> None:
        self._loose: _Memo = {}
        self._strict: _Memo = {}
        self._templates: dict[int, str] = {}
        self._reuse_keys: dict[int, str] = {}

    @staticmethod
    def of(plan: PlanNode) -> Digests:
        """Those of ``plan``, which may have been made for another question about it just before."""
        global _recent
        for known, digests in _recent:
            if known is plan:
                return digests
        made = Digests()
        _recent = ((plan, made), *_recent[:3])
        return made

    def template(self, node: PlanNode) -> str:
        found = self._templates.get(id(node))
        if found is None:
            found = _digest(node, self._loose, literals=False)[:16]
            self._templates[id(node)] = found
        return found

    def reuse_key(self, node: PlanNode) -> str:
        found = self._reuse_keys.get(id(node))
        if found is None:
            found = _digest(node, self._strict, literals=True)[:32]
            self._reuse_keys[id(node)] = found
        return found


_recent: tuple[tuple[PlanNode, Digests], ...] = ()


def _digest(root: PlanNode, done: _Memo, *, literals: bool) -> str:
    """Bottom-up hash over the subtree, iterative; ``done``: what nodes, by id, stand for."""
    stack: list[tuple[PlanNode, bool]] = [(root, False)]
    while stack:
        node, ready = stack.pop()
        if not ready and node is not root:
            if id(node) in done:
                continue
            if not literals and node.kind in PRUNING_SUBQUERIES:
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


@lru_cache(maxsize=1024)
def _without_ids(text: str) -> str:
    return _IDS.sub("", _PRUNING.sub("", text))


@lru_cache(maxsize=1024)
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


@lru_cache(maxsize=1024)
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
