"""The stage graph of a plan, derived before the run.

Spark cuts a plan into stages where rows change hands: at shuffle exchanges, at broadcasts and at
subqueries (each is run by a job of its own, and its reader waits for it). What AQE decides later
(join strategy, coalescing, empty relations) is not foreseen; what it is certain to do is: two
exchanges with the same `reuse_key` are run once and read twice.

Not foreseen, because the plan has no node for it: the single-partition shuffle inside
``TakeOrderedAndProject`` and the sampling job of a range partitioning.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from phoebe_spark.graph import Boundary, Carrier, Stage, StageGraph
from phoebe_spark.plan import (
    PlanNode,
    body,
    exchange_identity,
    is_broadcast,
    is_shuffle,
    is_subquery,
    is_wrapper,
)
from phoebe_spark.templates import Digests, Exchange, exchanges


@dataclass(frozen=True, slots=True)
class PlanGraph:
    """A plan's stages, and how to find them again.

    ``stage_of_node`` maps the pre-order index of every exchange, reused ones included, to the
    stage that writes it; ``stage_of_boundary`` the same by boundary id (two boundaries that are run
    once share a stage); ``nodes`` lists each stage's own plan nodes, wrappers left out.
    """

    graph: StageGraph
    exchanges: tuple[Exchange, ...]
    stage_of_node: Mapping[int, int]
    stage_of_boundary: Mapping[str, int]
    nodes: Mapping[int, tuple[PlanNode, ...]]


def derive(plan: PlanNode, boundaries: Iterable[Mapping[str, Any]] = ()) -> PlanGraph:
    """Split ``plan`` into stages, parents first, the result stage last.

    ``boundaries`` are those of an ``advise`` request (docs/protocol.md): matched by ``node``, the
    pre-order rank of the exchange, they fill in fingerprint, eligibility, partitions and Catalyst's
    estimates. Without one a boundary counts as eligible, with no fingerprint. Broadcasts and
    subqueries are stages with a boundary of carrier ``broadcast`` that is never eligible.
    """
    return _Splitter(plan, {b["node"]: b for b in boundaries if "node" in b}).result()


class _Splitter:
    """One walk over one plan; stages are numbered when their subtree is done, so parents first."""

    def __init__(self, plan: PlanNode, facts: Mapping[int, Mapping[str, Any]]) -> None:
        self.plan = plan
        self.facts = facts
        self.digests = Digests()
        self.exchanges = exchanges(plan, self.digests)
        self.by_identity = {exchange_identity(e.node): e for e in self.exchanges}
        self.stages: list[Stage] = []
        self.nodes: dict[int, tuple[PlanNode, ...]] = {}
        self.stage_of_node: dict[int, int] = {}
        self.stage_of_boundary: dict[str, int] = {}
        self.written: dict[str, int] = {}  # reuse key of a stage's root -> stage
        self.broadcasts = 0

    def result(self) -> PlanGraph:
        self._run(self.plan)
        return PlanGraph(
            StageGraph(tuple(self.stages)),
            self.exchanges,
            self.stage_of_node,
            self.stage_of_boundary,
            self.nodes,
        )

    def _run(self, root: PlanNode) -> None:
        """Depth-first, without recursion: plans may be deeper than Python's stack."""
        frames = [_Frame(root)]
        while frames:
            frame = frames[-1]
            if not frame.todo:
                self._finish(frame)
                frames.pop()
                if frames:
                    frames[-1].parents.append(self.stage_of_node[frame.root.index])
                continue
            node = frame.todo.pop()
            if node is not frame.root and _starts_stage(node):
                key = self._key(node)
                if key in self.written:
                    frame.parents.append(self.written[key])
                    self._merge(node)
                else:
                    frames.append(_Frame(node))
                continue
            if not is_wrapper(node):
                frame.nodes.append(node)
            frame.todo.extend(reversed(node.children))

    def _key(self, node: PlanNode) -> str:
        return f"{node.kind}:{self.digests.reuse_key(node)}"

    def _remember(self, node: PlanNode, stage_id: int) -> None:
        self.stage_of_node[node.index] = stage_id
        if is_shuffle(node) and (exchange := self.by_identity.get(exchange_identity(node))):
            self.stage_of_boundary[exchange.boundary_id] = stage_id
            self.stage_of_node[exchange.node.index] = stage_id

    def _merge(self, root: PlanNode) -> None:
        """A subtree that is already there: every stage in it is one that was met before."""
        for node in root.walk():
            if _starts_stage(node) and (stage_id := self.written.get(self._key(node))) is not None:
                self._remember(node, stage_id)

    def _finish(self, frame: _Frame) -> None:
        stage_id = len(self.stages)
        root = frame.root
        boundary = None if root is self.plan and not is_shuffle(root) else self._boundary(root)
        self.stages.append(
            Stage(
                stage_id=stage_id,
                parents=tuple(dict.fromkeys(frame.parents)),
                template=boundary.template if boundary else self.digests.template(body(root)),
                boundary=boundary,
                task_count=1,
                operators=tuple(node.kind for node in frame.nodes),
            )
        )
        self.nodes[stage_id] = tuple(frame.nodes)
        self._remember(root, stage_id)
        if root is not self.plan:
            self.written[self._key(root)] = stage_id

    def _boundary(self, node: PlanNode) -> Boundary:
        if not is_shuffle(node):
            self.broadcasts += 1
            carrier: Carrier = "broadcast"
            return Boundary(
                f"b{self.broadcasts - 1}",
                self.digests.template(node),
                eligible=False,
                carrier=carrier,
            )
        exchange = self.by_identity[exchange_identity(node)]
        # A reused exchange may be met first; the request speaks of the original.
        fact = self.facts.get(node.index) or self.facts.get(exchange.node.index) or {}
        return Boundary(
            boundary_id=exchange.boundary_id,
            template=exchange.template,
            fingerprint=fact.get("fingerprint"),
            eligible=bool(fact.get("eligible", True)),
            partitions=_int(fact.get("partitions")) or exchange.partitions,
            catalyst_bytes=_int(fact.get("catalyst_bytes")),
            catalyst_rows=_int(fact.get("catalyst_rows")),
        )


class _Frame:
    """A stage under construction."""

    __slots__ = ("nodes", "parents", "root", "todo")

    def __init__(self, root: PlanNode) -> None:
        self.root = root
        self.todo = [root]
        self.nodes: list[PlanNode] = []
        self.parents: list[int] = []


def _starts_stage(node: PlanNode) -> bool:
    return is_shuffle(node) or is_broadcast(node) or is_subquery(node)


def _int(value: object) -> int | None:
    return int(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
