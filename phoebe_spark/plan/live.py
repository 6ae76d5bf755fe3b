"""Which nodes of a plan run, and what each reads: reuse, wrappers and pruning seen through.

What is shown twice and run once is one node here; `Live.alias` says which.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass

from phoebe_spark.plan.nodes import PlanNode, is_broadcast, is_shuffle, is_wrapper
from phoebe_spark.plan.templates import Digests

_SEEN_THROUGH = frozenset({"SubqueryBroadcast"})  # only passes a broadcast's rows on


def hands_over(node: PlanNode) -> bool:
    """Whether rows leave the stage at this node: shuffle, broadcast or subquery."""
    return is_shuffle(node) or is_broadcast(node) or node.kind == "Subquery"


@dataclass(slots=True)
class Place:
    """A live node: what it reads (through wrappers), who reads it, and how it is run."""

    node: PlanNode
    parent: int | None
    adaptive: bool
    collected: bool  # its rows go to the driver: root of the plan or of a subquery
    reads: list[int]
    coalesced: bool = False  # read through an AQE read: in any number of partitions


class Live:
    """The live nodes of ``plan``.

    ``places``: by node index, in pre-order; ``alias``: index of an exchange, broadcast or subquery
    that is read again, to that of the node that runs it; ``waiting``: pruning filters that have no
    plan yet, each with the node that reads it.
    """

    def __init__(self, plan: PlanNode, digests: Digests, filled: Set[int]) -> None:
        self.places: dict[int, Place] = {}
        self.alias: dict[int, int] = {}
        self.waiting: list[tuple[PlanNode, int]] = []
        self._digests = digests
        self._filled = filled
        self._written: dict[object, int] = {}
        self._visit(plan)

    def broadcast_of(self, node: PlanNode) -> int | None:
        """The broadcast that was built of ``node``'s rows."""
        return self._written.get(("built", self._key(node)))

    def _visit(self, plan: PlanNode) -> None:
        """Depth-first, without recursion: plans may be deeper than Python's stack."""
        stack: list[tuple[PlanNode, int | None, bool, bool, bool]] = [
            (plan, None, _foresees_reuse(plan), True, False)
        ]
        started = 0  # the query stage that was met last
        while stack:
            node, parent, adaptive, top, coalesced = stack.pop()
            adaptive = adaptive or node.kind == "AdaptiveSparkPlan"
            coalesced = coalesced or node.kind == "AQEShuffleRead"
            if node.kind == "SubqueryAdaptiveBroadcast" and parent is not None:
                self.waiting.append((node, parent))
                continue
            if node.kind.endswith("QueryStage"):
                started = node.index
            if is_wrapper(node) or node.kind in _SEEN_THROUGH:
                for child in reversed(node.children):
                    stack.append((child, parent, adaptive, top, coalesced))
                continue
            # What AQE has started is shown as reused where it is: equal ones may run twice.
            foreseen = adaptive and not (started and started == node.index - 1)
            known = self._known(node, foreseen) if hands_over(node) else None
            if known is not None and not self._is_below(known, parent):
                self.merge(node)
                if parent is not None:
                    self.places[parent].reads.append(known)
                    self.places[parent].coalesced |= coalesced
                continue
            self.places[node.index] = Place(node, parent, adaptive, top, [])
            if parent is not None:
                self.places[parent].reads.append(node.index)
                self.places[parent].coalesced |= coalesced
            if node.kind == "EmptyRelation":
                continue  # what AQE found to be empty: its inputs are there to be looked at
            if node.kind == "InMemoryTableScan" and self._is_filled(node):
                continue
            below = node.kind == "Subquery"
            for child in reversed(node.children):
                stack.append((child, node.index, adaptive, below, False))

    def _is_below(self, index: int, parent: int | None) -> bool:
        """Whether ``parent``'s input is a part of ``index``'s own: nothing reads itself."""
        while parent is not None and parent != index:
            parent = self.places[parent].parent
        return parent is not None

    def _is_filled(self, scan: PlanNode) -> bool:
        cached = (node for child in scan.children for node in child.walk())
        return any(not self._filled.isdisjoint(node.metrics.values()) for node in cached)

    def _known(self, node: PlanNode, adaptive: bool) -> int | None:
        """The node that runs what ``node`` shows, if one was met; else ``node`` is remembered.

        Without adaptive execution what is read twice is shown as reused. With it Spark finds equal
        subtrees while it runs, in one cache for the plan and its subqueries.
        """
        identity = min(node.metrics.values(), default=-1 - node.index)
        key = self._key(node)
        if identity in self._written:
            return self._written[identity]
        if adaptive and key in self._written:
            return self._written[key]
        self._written[identity] = node.index
        self._written.setdefault(key, node.index)
        if is_broadcast(node):
            for child in node.children:
                self._written.setdefault(("built", self._key(child)), node.index)
        return None

    def _key(self, node: PlanNode) -> str:
        while is_wrapper(node) and len(node.children) == 1:
            node = node.children[0]
        return f"{node.kind}:{self._digests.reuse_key(node)}"

    def merge(self, root: PlanNode) -> None:
        """A subtree that is already there: all that hands over in it was met before."""
        for node in root.walk():
            if hands_over(node):
                identity = min(node.metrics.values(), default=-1 - node.index)
                known = self._written.get(identity, self._written.get(self._key(node)))
                if known is not None and known != node.index:
                    self.alias[node.index] = known


def _foresees_reuse(plan: PlanNode) -> bool:
    """Whether the plan, or its part outside of ``AdaptiveSparkPlan``, is one that AQE starts from:
    those have no generated code yet. The planner hook shows it without its head."""
    stack = [plan]
    while stack:
        node = stack.pop()
        if node.kind == "WholeStageCodegen":
            return False
        if node.kind != "AdaptiveSparkPlan":
            stack.extend(node.children)
    return True
