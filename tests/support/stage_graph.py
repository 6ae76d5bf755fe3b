"""Stages derived from plans against those that ran (`tests.support.ran_stages`).

A derived stage and one that ran are the same when

- both end alike (a shuffle is written, or rows go to the driver), and a shuffle is written by the
  node of the derived stage;
- the plan's metrics that its tasks updated are all of the derived stage's own operators;
- it reads the same shuffles.

With adaptive execution the first plan is not what runs. Then each stage that ran must be the same,
in this sense, as one of some version of the plan that the log holds, and `differences` says what
became of the first plan's stages in the last version.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from phoebe_spark.graph import Stage
from phoebe_spark.plan.nodes import PlanNode, is_broadcast, is_shuffle, is_wrapper
from phoebe_spark.plan.stages import PlanGraph, derive
from phoebe_spark.plan.templates import Digests
from tests.support.ran_stages import Execution, RanStage

_WRITES = frozenset(
    {"data size", "number of partitions", "shuffle bytes written", "shuffle records written",
     "shuffle write time"}
)  # fmt: skip
_ONE_PARTITION = "its input is a scan of one partition, which no plan tells"
_PLAN_ID = re.compile(r"\[plan_id=(\d+)\]")


@dataclass(frozen=True, slots=True)
class Comparison:
    """How the stages of one plan and those that ran fit. ``missing``: derived, but not run;
    ``extra``: run, but not derived (RDDs); ``wrong``: stages whose operators or edges differ."""

    graph: PlanGraph
    matched: Mapping[int, int]  # derived stage -> RDD
    missing: tuple[int, ...]
    extra: tuple[int, ...]
    wrong: Mapping[int, str]

    @property
    def equal(self) -> bool:
        return not (self.missing or self.extra or self.wrong)

    @property
    def equal_so_far(self) -> bool:
        """Of a query that failed: what ran is equal, and the rest did not come to run."""
        return not (self.extra or self.wrong)


def derive_first(execution: Execution) -> PlanGraph:
    """The graph of the first plan, as it is known before the run."""
    return derive(execution.plans[0], filled=execution.known_before)


def compare(
    graph: PlanGraph, execution: Execution, known: frozenset[int] | None = None
) -> Comparison:
    """The stages of ``graph`` against those that ran; ``known``: all accumulators of plan nodes,
    if the plan had versions."""
    accs = {stage.stage_id: _accumulators(graph, stage) for stage in graph.graph.stages}
    if known is None:
        known = frozenset[int]().union(*accs.values())
    scores: list[tuple[tuple[int, ...], int, int]] = []
    for stage in graph.graph.stages:
        for rdd, ran in execution.stages.items():
            score = _fit(graph, stage, execution, ran, accs[stage.stage_id], known)
            if score is not None:
                scores.append((score, stage.stage_id, rdd))
    matched: dict[int, int] = {}
    for _, stage_id, rdd in sorted(scores, reverse=True):
        if stage_id not in matched and rdd not in matched.values():
            matched[stage_id] = rdd
    return Comparison(
        graph,
        matched,
        tuple(s.stage_id for s in graph.graph.stages if s.stage_id not in matched),
        tuple(rdd for rdd in execution.stages if rdd not in matched.values()),
        _wrong(graph, execution, matched, accs, known),
    )


def _accumulators(graph: PlanGraph, stage: Stage) -> frozenset[int]:
    """What the tasks of a derived stage update: metrics of its own operators, and the read metrics
    of the shuffles that it reads."""
    found: set[int] = set()
    role = graph.roles[stage.stage_id]
    nodes = {node.index: node for node in graph.nodes[stage.stage_id]}
    for node in nodes.values():
        if not is_shuffle(node):
            found |= set(node.metrics.values())
        elif role == "write":
            found |= {acc for name, acc in node.metrics.items() if name in _WRITES}
    parts = graph.activities
    for connector in parts.connectors:
        source = parts.activities[connector.source]
        if parts.activities[connector.target].node in nodes and source.role in ("write", "local"):
            metrics = parts.nodes[source.node].metrics
            found |= {acc for name, acc in metrics.items() if name not in _WRITES}
    return frozenset(found)


def _fit(
    graph: PlanGraph,
    stage: Stage,
    execution: Execution,
    ran: RanStage,
    accs: frozenset[int],
    known: frozenset[int],
) -> tuple[int, ...] | None:
    """How well the two fit, None: not at all."""
    role = graph.roles[stage.stage_id]
    if ran.writes_shuffle is not None and ran.writes_shuffle != (role in ("write", "local")):
        return None
    named = 0
    if role == "write" and ran.ends_in is not None:
        node = graph.nodes[stage.stage_id][0]
        found = _PLAN_ID.search(node.text)
        if found and found.group(1) == ran.ends_in[0]:
            named = 1
        elif found and not ran.accumulators & {
            acc for name, acc in node.metrics.items() if name in _WRITES
        }:
            return None
    hits = len(accs & ran.accumulators)
    strays = len((ran.accumulators & known) - accs)
    if not named and not hits and ran.accumulators & known:
        return None
    # What updated no metric is told by its place: the result comes last.
    ends = (role == "run") == (ran.order == max(s.order for s in execution.stages.values()))
    alike = -abs(len(ran.scopes) - len(stage.operators))
    return named, hits - strays, ends, alike, -ran.order


def _wrong(
    graph: PlanGraph,
    execution: Execution,
    matched: Mapping[int, int],
    accs: Mapping[int, frozenset[int]],
    known: frozenset[int],
) -> dict[int, str]:
    stage_of = {rdd: stage_id for stage_id, rdd in matched.items()}
    found: dict[int, str] = {}
    for stage_id, rdd in matched.items():
        ran = execution.ran[rdd]
        planned = _reads(graph, stage_id)
        read = {stage_of.get(parent, -parent) for parent in ran.parents & execution.stages.keys()}
        strays = (ran.accumulators & known) - accs[stage_id]
        if strays:
            found[stage_id] = f"updated metrics {sorted(strays)} of other stages' operators"
        elif planned != read:
            found[stage_id] = f"reads {sorted(read)}, derived {sorted(planned)}"
    return found


def _reads(graph: PlanGraph, stage_id: int) -> set[int]:
    """The stages whose shuffle files a stage reads, its cached rows' lineage included."""
    found: set[int] = set()
    for parent in graph.graph.stages[stage_id].parents:
        role = graph.roles[parent]
        if role in ("write", "local"):
            found.add(parent)
        elif role == "cache":
            found |= _reads(graph, parent)
    return found


# --- adaptive execution: what differs from the first plan, and why ------------------------------


@dataclass(frozen=True, slots=True)
class Difference:
    """One difference between the first plan's stages and those that ran. ``why`` None: nothing that
    the log holds explains it."""

    what: str  # "missing" | "extra" | "changed"
    stage: str
    why: str | None


def differences(execution: Execution) -> list[Difference]:
    """How the stages that ran differ from those derived from the first plan; [] if not at all."""
    return _Differences(execution).find()


class _Differences:
    def __init__(self, execution: Execution) -> None:
        self.execution = execution
        self.digests = [Digests() for _ in execution.plans]
        known = frozenset(
            acc
            for plan in execution.plans
            for n in plan.walk()
            if not is_wrapper(n)
            for acc in n.metrics.values()
        )
        self.first = derive_first(execution)
        # What is read in fewer partitions may be a single one: an ORDER BY with LIMIT over it
        # needs no shuffle. Both ways are tried.
        self.versions = [
            [self._compare(p, single, known) for single in (False, True)] for p in execution.plans
        ]
        self.held = self._held()

    def _compare(self, plan: PlanNode, single: bool, known: frozenset[int]) -> Comparison:
        filled = self.execution.known_before
        return compare(derive(plan, assume_single=single, filled=filled), self.execution, known)

    def _held(self) -> dict[int, tuple[int, Comparison, int]]:
        """RDD to the first version that has the very stage that ran."""
        found: dict[int, tuple[int, Comparison, int]] = {}
        for number, ways in enumerate(self.versions):
            for way in ways:
                for stage_id, rdd in way.matched.items():
                    if stage_id not in way.wrong:
                        found.setdefault(rdd, (number, way, stage_id))
        return found

    def find(self) -> list[Difference]:
        matched = self._match()
        back = {rdd: stage_id for stage_id, rdd in matched.items()}
        found = [
            Difference("missing", self._name(self.first, stage), self._why_missing(stage, matched))
            for stage in self.first.graph.stages
            if stage.stage_id not in matched
        ]
        for rdd, ran in self.execution.stages.items():
            if rdd not in self.held:
                name = f"stages {sorted(ran.stage_ids)} ending in {ran.ends_in}"
                found.append(Difference("extra", name, None))
                continue
            number, way, stage_id = self.held[rdd]
            planned = way.graph.graph.stages[stage_id]
            if rdd not in back:
                why = self._why_extra(number, way.graph, planned)
                found.append(Difference("extra", self._name(way.graph, planned), why))
                continue
            mine = self.first.graph.stages[back[rdd]]
            reads = {matched.get(parent) for parent in _reads(self.first, mine.stage_id)}
            if reads != ran.parents & self.execution.stages.keys() or _work(mine) != _work(planned):
                why = f"re-planned in update {number}" if number else None
                found.append(Difference("changed", self._name(self.first, mine), why))
        return found

    def _match(self) -> dict[int, int]:
        """First plan's stage to the RDD that ran for it: the same role and root, literals and all,
        else the same template."""
        matched: dict[int, int] = {}
        for strict in (True, False):
            mine = {
                s.stage_id: self._label(0, self.first, s, strict) for s in self.first.graph.stages
            }
            for rdd, (number, way, stage_id) in sorted(self.held.items()):
                planned = way.graph.graph.stages[stage_id]
                label = self._label(number, way.graph, planned, strict)
                free = (s for s, own in mine.items() if own == label and s not in matched)
                if rdd not in matched.values() and (stage := next(free, None)) is not None:
                    matched[stage] = rdd
        return matched

    def _label(self, number: int, graph: PlanGraph, stage: Stage, strict: bool) -> tuple[str, str]:
        role, node = graph.roles[stage.stage_id], graph.nodes[stage.stage_id][0]
        if role == "run":
            return role, ""
        digests = self.digests[number]
        return role, node.kind + (digests.reuse_key(node) if strict else digests.template(node))

    def _name(self, graph: PlanGraph, stage: Stage) -> str:
        return f"{graph.roles[stage.stage_id]} of {'/'.join(stage.operators[:4])}"

    def _why_missing(self, stage: Stage, matched: Mapping[int, int]) -> str | None:
        """What became of a stage that did not run, told by the last version of the plan: it must
        have fewer stages of the kind than the first one."""
        if self.execution.failed:
            return "the query failed"
        role, node = self.first.roles[stage.stage_id], self.first.nodes[stage.stage_id][0]
        first, last = self.digests[0], self.digests[-1]
        label = first.template(node)
        plan = self.execution.plans[-1]
        alike = [n for n in _running(plan) if n.kind == node.kind and last.template(n) == label]
        if role == "local" and any(_read_anew(n) for n in alike):
            return "read in one partition: coalesced, or local to one map task"
        if role == "local" and self._single(stage, matched):
            return _ONE_PARTITION
        if any(n.kind == node.kind and last.template(n) == label for n in _reused(plan)):
            return "reused"
        graph = self.versions[-1][0].graph
        label_now = self._label(0, self.first, stage, strict=False)
        now = sum(self._label(-1, graph, s, strict=False) == label_now for s in graph.graph.stages)
        ran = sum(
            self._label(0, self.first, s, strict=False) == label_now
            for s in self.first.graph.stages
            if s.stage_id in matched
        )
        if now > ran:
            return None
        below = {first.template(child) for child in node.children}
        if any(last.template(n) in below for n in _running(plan)):
            return "its reader switched to a broadcast" if is_shuffle(node) else "read otherwise"
        return "pruned"

    def _single(self, stage: Stage, matched: Mapping[int, int]) -> bool:
        """Whether its reader ran all of its operators itself: they had a single partition."""
        reader = next(s for s in self.first.graph.stages if stage.stage_id in s.parents)
        rdd = matched.get(reader.stage_id)
        return rdd is not None and set(stage.operators) <= set(
            self.held[rdd][1].graph.graph.stages[self.held[rdd][2]].operators
        )

    def _why_extra(self, number: int, graph: PlanGraph, stage: Stage) -> str | None:
        if number == 0:
            return None
        if is_broadcast(graph.nodes[stage.stage_id][0]):
            return f"switched to broadcast in update {number}"
        return f"re-planned in update {number}"


def _work(stage: Stage) -> Counter[str]:
    return Counter(stage.operators)


def _read_anew(node: PlanNode) -> bool:
    """Whether the node's stage reads a shuffle in other partitions than it was written in."""
    stack = list(node.children)
    while stack:
        child = stack.pop()
        if child.kind == "AQEShuffleRead":
            return True
        if not is_shuffle(child) and not is_broadcast(child):
            stack.extend(child.children)
    return False


def _reused(plan: PlanNode) -> list[PlanNode]:
    """What the plan shows as run elsewhere."""
    kinds = ("ReusedExchange", "ReusedSubquery")
    return [child for node in plan.walk() if node.kind in kinds for child in node.children]


def _running(plan: PlanNode) -> list[PlanNode]:
    """The nodes of a plan that run: not what is shown below a reuse, or was found to be empty."""
    found: list[PlanNode] = []
    stack = [plan]
    while stack:
        node = stack.pop()
        found.append(node)
        if node.kind not in ("ReusedExchange", "ReusedSubquery", "EmptyRelation"):
            stack.extend(node.children)
    return found


# --- whole logs ---------------------------------------------------------------------------------


@dataclass(slots=True)
class Tally:
    """Executions of one or more logs. With adaptive execution off, those that finished are to be
    ``equal``; with it on, ``equal`` or ``explained``. ``failed`` count as equal as far as they got.
    """

    executions: int = 0
    stages: int = 0
    equal: int = 0
    explained: int = 0
    unexplained: list[str] = field(default_factory=list)
    why: Counter[str] = field(default_factory=Counter)

    def add(self, executions: Iterable[Execution]) -> Tally:
        """Compare each; what does not run a plan (a view that is created) has no stage to compare,
        and its absence is what is compared."""
        for execution in executions:
            self.executions += 1
            self.stages += len(execution.stages)
            if execution.adaptive:
                self._adaptive(execution)
                continue
            found = compare(derive_first(execution), execution)
            if found.equal or (execution.failed and found.equal_so_far):
                self.equal += 1
            else:
                self.unexplained.append(f"{execution.description}: {found.missing} {found.extra}")
        return self

    def _adaptive(self, execution: Execution) -> None:
        found = differences(execution)
        self.equal += not found
        self.explained += bool(found) and all(d.why for d in found)
        for difference in found:
            self.why[(difference.why or "unexplained").partition(" in update")[0]] += 1
        self.unexplained += [
            f"{execution.description}: {d.what} {d.stage}" for d in found if d.why is None
        ]
