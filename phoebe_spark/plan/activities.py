"""A physical plan as activities and connectors: where Spark will cut it into stages.

An operator is one activity, or two where it has a blocking point inside (the first rows of
``TakeOrderedAndProject`` are chosen per partition, then merged). A connector says how rows get from
one activity to the next; what only pipelined connectors link runs in one stage. The vocabulary is
that of dataflow engines (Hyracks, ICDE 2011); what Spark does at each operator is from the sources
of Spark 4.2.0 that the comments name.

Some operators run their inputs as a job of its own, before or beside the one that reads them: the
sampling of a range partitioning (`RangePartitioner.sketch`), the search for matches of a
nested-loop join's broadcast rows (`BroadcastNestedLoopJoinExec.defaultJoin`) and, under adaptive
execution, the filling of a cache (`TableCacheQueryStageExec`). Stages are made of this in
`phoebe_spark.plan.stages`.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Literal

from phoebe_spark.plan.counts import LIMITS, partition_counts
from phoebe_spark.plan.live import Live, Place, hands_over
from phoebe_spark.plan.nodes import PlanNode, is_shuffle, partitions
from phoebe_spark.plan.templates import Digests

ConnectorKind = Literal["one_to_one", "hash", "range", "round_robin", "merge", "replicate"]
"""How rows are handed over: each partition to one, M:N by hash, M:N by range, M:N in turn, all to
one, or everything to everybody (a broadcast, or a value that the driver passes on)."""

Role = Literal["run", "write", "collect", "local", "sample", "match", "cache"]
"""What an activity is of its operator: all of it, or the side of a blocking point that a stage ends
with: an exchange's write, collect to the driver, the write of an operator's own shuffle, and the
second runs of its inputs."""


@dataclass(frozen=True, slots=True)
class Activity:
    """``node`` is the plan node's rank in the pre-order, ``operator`` its kind."""

    activity_id: int
    node: int
    operator: str
    role: Role = "run"


@dataclass(frozen=True, slots=True)
class Connector:
    """From activity ``source`` to activity ``target``; ``pipelined``: both run in one task."""

    source: int
    target: int
    kind: ConnectorKind
    pipelined: bool


@dataclass(frozen=True, slots=True)
class Activities:
    """A plan's activities and connectors.

    ``alias``: index of an exchange, broadcast or subquery that is read again, to that of the node
    that runs it; ``partitions``: by node index, where the plan tells.
    """

    activities: tuple[Activity, ...]
    connectors: tuple[Connector, ...]
    nodes: Mapping[int, PlanNode]
    alias: Mapping[int, int]
    partitions: Mapping[int, int | None]


def split(
    plan: PlanNode,
    digests: Digests | None = None,
    *,
    inner: bool = True,
    assume_single: bool = False,
    filled: Set[int] = frozenset(),
) -> Activities:
    """Split ``plan``; ``inner`` False leaves out what happens inside of an operator: the shuffle of
    ``TakeOrderedAndProject`` and its kind, and the second runs. ``assume_single``: partition counts
    that the plan does not tell are 1, else they are taken for more. ``filled``: metrics of plans
    that ran before in this application; a cached plan with such a metric is in the cache."""
    return _Splitter(plan, digests or Digests(), inner, assume_single, filled).result()


_EXISTENCE_LEFT = re.compile(r"BuildLeft, (?:LeftSemi|LeftAnti|ExistenceJoin)")
_UNMATCHED = re.compile(r"BuildLeft, LeftOuter|BuildRight, RightOuter|Build\w+, FullOuter")


class _Splitter:
    def __init__(
        self,
        plan: PlanNode,
        digests: Digests,
        inner: bool,
        assume_single: bool,
        filled: Set[int],
    ) -> None:
        self.live = Live(plan, digests, filled)
        self.places = self.live.places
        self.counts = partition_counts(self.places)
        self.unknown = 1 if assume_single else None
        self.inner = inner
        self.activities: list[Activity] = []
        self.into: defaultdict[int, list[Connector]] = defaultdict(list)
        self.first: dict[int, int] = {}  # node -> the activity that takes its input
        self.last: dict[int, int] = {}  # node -> the activity that gives its output

    def result(self) -> Activities:
        for index, place in self.places.items():
            self._make(index, place)
        for index, place in self.places.items():
            for read in place.reads:
                self._connect(read, index)
        for node, reader in self.live.waiting:
            self.live.merge(node)
            for child in node.children:
                if (broadcast := self.live.broadcast_of(child)) is not None:
                    self._connect(broadcast, reader)
        if self.inner:
            for index in reversed(self.places):
                self._run_again(self.places[index])
        return Activities(
            tuple(self.activities),
            tuple(connector for found in self.into.values() for connector in found),
            {index: place.node for index, place in self.places.items()},
            self.live.alias,
            self.counts,
        )

    # --- activities and connectors --------------------------------------------------------------

    def _make(self, index: int, place: Place) -> None:
        node = place.node
        if is_shuffle(node):
            self._only(node, "write")
        elif hands_over(node):
            self._only(node, "collect")
        elif self._splits(place):
            self.first[index] = self._add(node, "local")
            self.last[index] = self._add(node, "run")
            self._link(self.first[index], self.last[index], "merge")
        else:
            self._only(node, "run")

    def _splits(self, place: Place) -> bool:
        """Whether rows are merged into one partition inside of the operator (limit.scala)."""
        if not self.inner or place.node.kind not in LIMITS or not place.reads:
            return False
        if self._by_driver(place):
            return False
        below = self.counts.get(place.reads[0])
        below = self.unknown if below is None or place.coalesced else below
        return below not in (0, 1)

    def _by_driver(self, place: Place) -> bool:
        """Whether the driver merges: the operator's rows are what is collected. A scalar subquery
        (the others prune partitions, or became joins) takes two rows, which does not go the
        operator's own way (`SubqueryExec.maxNumRows`)."""
        if not place.collected:
            return False
        if place.parent is None:
            return True
        pruning = "dynamicpruning" in self.places[place.parent].node.text
        return pruning or place.node.kind != "TakeOrderedAndProject"

    def _only(self, node: PlanNode, role: Role) -> None:
        self.first[node.index] = self.last[node.index] = self._add(node, role)

    def _add(self, node: PlanNode, role: Role) -> int:
        self.activities.append(Activity(len(self.activities), node.index, node.kind, role))
        return len(self.activities) - 1

    def _connect(self, read: int, reader: int) -> None:
        node = self.places[read].node
        kind: ConnectorKind = "one_to_one"
        if is_shuffle(node):
            kind = _shuffle_kind(node)
        elif hands_over(node):
            kind = "replicate"
        pipelined = kind == "one_to_one"
        self._link(self.last[read], self.first[reader], kind, pipelined=pipelined)

    # --- second runs ----------------------------------------------------------------------------

    def _run_again(self, place: Place) -> None:
        node = place.node
        output = self.last[node.index]
        if is_shuffle(node) and "rangepartitioning" in node.text and partitions(node) != 1:
            self._link(self._copy_inputs(output, self._add(node, "sample")), output, "replicate")
        elif node.kind == "BroadcastNestedLoopJoin" and _UNMATCHED.search(node.text):
            self._link(self._copy_inputs(output, self._add(node, "local")), output, "merge")
        elif node.kind == "BroadcastNestedLoopJoin" and _EXISTENCE_LEFT.search(node.text):
            # The join itself only reads which rows of its left side found a match.
            self._link(self._take_inputs(output, self._add(node, "match")), output, "replicate")
        elif node.kind == "InMemoryTableScan" and place.adaptive and place.reads:
            fill = self._take_inputs(output, self._add(node, "cache"))
            self._link(fill, output, "one_to_one", pipelined=False)

    def _link(
        self, source: int, target: int, kind: ConnectorKind, *, pipelined: bool = False
    ) -> None:
        self.into[target].append(Connector(source, target, kind, pipelined))

    def _take_inputs(self, activity: int, other: int) -> int:
        """What goes into ``activity`` goes into ``other`` instead."""
        for connector in self.into.pop(activity, []):
            self._link(connector.source, other, connector.kind, pipelined=connector.pipelined)
        return other

    def _copy_inputs(self, activity: int, copy: int) -> int:
        """All that is pipelined into ``activity`` once more, now into ``copy``."""
        todo = [(activity, copy)]
        while todo:
            original, twin = todo.pop()
            for connector in list(self.into[original]):
                source = connector.source
                if connector.pipelined:
                    old = self.activities[source]
                    source = self._add(self.places[old.node].node, old.role)
                    todo.append((connector.source, source))
                self._link(source, twin, connector.kind, pipelined=connector.pipelined)
        return copy


def _shuffle_kind(node: PlanNode) -> ConnectorKind:
    if "SinglePartition" in node.text:
        return "merge"
    if "rangepartitioning" in node.text:
        return "range"
    if "RoundRobin" in node.text:
        return "round_robin"
    return "hash"
