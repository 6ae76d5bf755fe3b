"""Ties a finished execution's plan to the stages that ran it.

A plan node's metrics are accumulators, and a stage's tasks update those of the nodes it ran. Each
re-plan makes new nodes. So an exchange is tied to its stage in the version that ran, and then
matched with a boundary of the initial plan: first by `reuse_key`, which distinguishes equal
templates by literals and join order, then by template in plan order.

Spark runs one job per AQE stage and lists, as a later job's parents, new stage ids that it then
skips. So which stage reads which comes from three sources: the parent ids, where a skipped one
resolves to the stage that computed the same RDD; the read metrics of exchanges; and the plan, for
broadcasts and subqueries, which pass their results through the driver.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from phoebe_spark.graph import Stage
from phoebe_spark.harvest._state import (
    WRITE_METRICS,
    ExecutionState,
    SeenExchange,
    StageState,
    own_accumulators,
)
from phoebe_spark.plan.stages import PlanGraph, derive
from phoebe_spark.plan.templates import Exchange


@dataclass(frozen=True, slots=True)
class StageTie:
    """The plan's facts about a stage that ran."""

    template: str | None = None
    boundary_id: str | None = None
    operators: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Ties:
    """``stages`` and ``parents`` by stage id. ``boundaries``: the stage that ran each boundary.
    ``boundary_of_acc``: the boundary of each exchange version's accumulator. ``reused``: boundaries
    that read the stage of an equal one."""

    stages: Mapping[int, StageTie]
    parents: Mapping[int, tuple[int, ...]]
    boundaries: Mapping[str, int]
    boundary_of_acc: Mapping[int, str]
    reused: frozenset[str] = frozenset()


NO_TIES = Ties({}, {}, {}, {})


def tie(
    execution: ExecutionState, initial: tuple[Exchange, ...], ran_rdd: Mapping[int, int]
) -> Ties:
    """Tie the stages of ``execution``. ``initial`` are the exchanges of its first plan, ``ran_rdd``
    gives the map stage that last computed an RDD."""
    stages = _latest_attempts(execution)
    accumulators: dict[int, set[int]] = defaultdict(set)
    for (stage_id, _), stage in execution.stages.items():
        accumulators[stage_id] |= stage.accumulators
    writers = _writers(execution, stages, accumulators)
    boundary_of_acc = _match(initial, execution.seen, set(writers.values()))
    # The plan does not show whether an operator's inner shuffle was needed; the stages that ran do.
    inner = any(s.writes_shuffle and stage_id not in writers for stage_id, s in stages.items())
    latest = execution.latest
    plan = derive(latest, assume_single=not inner) if latest is not None else None
    plan_stage = _plan_stages(plan, stages, accumulators, writers) if plan else {}

    tied: dict[int, StageTie] = {}
    boundaries: dict[str, int] = {}
    for stage_id in stages:
        planned = plan_stage.get(stage_id)
        operators = planned.operators if planned else None
        if (acc_id := writers.get(stage_id)) is not None:
            boundary_id = boundary_of_acc.get(acc_id)
            tied[stage_id] = StageTie(execution.seen[acc_id].template, boundary_id, operators)
            if boundary_id is not None:
                boundaries[boundary_id] = stage_id
        elif planned is not None:
            tied[stage_id] = StageTie(planned.template, None, operators)
    # Equal exchanges are run once: the others were read from the same stage.
    by_key = {
        e.reuse_key: boundaries[e.boundary_id] for e in initial if e.boundary_id in boundaries
    }
    reused = set[str]()
    for exchange in initial:
        if exchange.boundary_id not in boundaries and exchange.reuse_key in by_key:
            reused.add(exchange.boundary_id)
            boundaries[exchange.boundary_id] = by_key[exchange.reuse_key]

    parents = _parents(execution, stages, accumulators, writers, ran_rdd, plan, plan_stage)
    return Ties(tied, parents, boundaries, boundary_of_acc, frozenset(reused))


def _latest_attempts(execution: ExecutionState) -> dict[int, StageState]:
    latest: dict[int, StageState] = {}
    for _, stage in sorted(execution.stages.items()):
        latest[stage.stage_id] = stage
    return latest


def _writers(
    execution: ExecutionState,
    stages: Mapping[int, StageState],
    accumulators: Mapping[int, set[int]],
) -> dict[int, int]:
    """Stage id to the accumulator of the exchange that it wrote."""
    found: dict[int, int] = {}
    for stage_id in stages:
        hits = accumulators[stage_id] & execution.seen.keys()
        if hits:
            found[stage_id] = max(hits)  # of several, the latest node
    return found


def _match(
    initial: tuple[Exchange, ...], seen: Mapping[int, SeenExchange], ran: set[int]
) -> dict[int, str]:
    """Accumulator of every exchange seen to its boundary of the initial plan."""
    found = {e.node.shuffle_acc_id: e.boundary_id for e in initial}
    matched: dict[int, str] = {acc: b for acc, b in found.items() if acc is not None}
    taken = {matched[acc] for acc in ran if acc in matched}
    later = sorted(
        (s for acc, s in seen.items() if acc not in matched), key=lambda s: (s.position, s.acc_id)
    )
    # Exchanges that ran are matched first; each boundary is run by one of them.
    for key in ("reuse_key", "template"):
        for exchange in later:
            if exchange.acc_id in matched or exchange.acc_id not in ran:
                continue
            for candidate in initial:
                if candidate.boundary_id not in taken and getattr(candidate, key) == getattr(
                    exchange, key
                ):
                    matched[exchange.acc_id] = candidate.boundary_id
                    taken.add(candidate.boundary_id)
                    break
    for key in ("reuse_key", "template"):
        first: dict[str, str] = {}
        for candidate in initial:
            first.setdefault(getattr(candidate, key), candidate.boundary_id)
        for exchange in later:
            boundary_id = first.get(getattr(exchange, key))
            if exchange.acc_id not in ran and boundary_id is not None:
                matched.setdefault(exchange.acc_id, boundary_id)
    return matched


def _plan_stages(
    plan: PlanGraph,
    stages: Mapping[int, StageState],
    accumulators: Mapping[int, set[int]],
    writers: Mapping[int, int],
) -> dict[int, Stage]:
    """Stage id to the stage of the last plan whose nodes it ran."""
    owners: dict[int, list[int]] = defaultdict(list)
    by_exchange: dict[int, int] = {}
    for stage_id, nodes in plan.nodes.items():
        for node in nodes:
            for acc_id in own_accumulators(node):
                owners[acc_id].append(stage_id)
        if plan.roles[stage_id] == "write" and (acc := nodes[0].shuffle_acc_id) is not None:
            by_exchange[acc] = stage_id
    by_id = {stage.stage_id: stage for stage in plan.graph.stages}
    found: dict[int, Stage] = {}
    for stage_id, stage in stages.items():
        if (written := by_exchange.get(writers.get(stage_id, -1))) is not None:
            found[stage_id] = by_id[written]
            continue
        # Some stages have operators in common: the two sides of an inner shuffle, and a sampling
        # job with the stage that it samples. The kind of their tasks distinguishes them.
        votes = Counter(
            owner
            for acc in accumulators[stage_id]
            for owner in owners.get(acc, ())
            if _may_be(plan.roles[owner], stage)
        )
        if votes:
            found[stage_id] = by_id[votes.most_common(1)[0][0]]
    _tie_bare_broadcasts(plan, stages, accumulators, found)
    return found


def _tie_bare_broadcasts(
    plan: PlanGraph,
    stages: Mapping[int, StageState],
    accumulators: Mapping[int, set[int]],
    found: dict[int, Stage],
) -> None:
    """Ties broadcasts right above an exchange, which have no metrics, by the exchange they read."""
    writes: dict[int, int] = {}
    for exchange in plan.exchanges:
        written = plan.stage_of_boundary.get(exchange.boundary_id)
        if written is None:
            continue  # AQE found that it has no rows
        for name, acc_id in exchange.node.metrics.items():
            if name not in WRITE_METRICS:
                writes[acc_id] = written
    tied = {planned.stage_id for planned in found.values()}
    bare = [
        planned
        for planned in plan.graph.stages
        if planned.boundary is not None
        and planned.boundary.carrier == "broadcast"
        and planned.stage_id not in tied
        and len(planned.operators) == 1
    ]
    for stage_id in sorted(stages.keys() - found.keys()):
        read = {writes[acc] for acc in accumulators[stage_id] if acc in writes}
        for planned in bare:
            if read and read == set(planned.parents):
                found[stage_id] = planned
                bare.remove(planned)
                break


def _may_be(role: str, stage: StageState) -> bool:
    if stage.writes_shuffle is None:
        return True
    return stage.writes_shuffle == (role in ("write", "local"))


def _parents(
    execution: ExecutionState,
    stages: Mapping[int, StageState],
    accumulators: Mapping[int, set[int]],
    writers: Mapping[int, int],
    ran_rdd: Mapping[int, int],
    plan: PlanGraph | None,
    plan_stage: Mapping[int, Stage],
) -> dict[int, tuple[int, ...]]:
    writer_of = {acc_id: stage_id for stage_id, acc_id in sorted(writers.items())}
    readers_of = {
        reader: writer_of[acc_id]
        for acc_id, seen in execution.seen.items()
        if acc_id in writer_of
        for reader in seen.readers
    }
    handed_over = _handed_over(plan, plan_stage)
    found: dict[int, tuple[int, ...]] = {}
    for stage_id, stage in stages.items():
        parents = {
            resolve(parent, stages, execution.skipped, ran_rdd) for parent in stage.parent_ids
        }
        parents |= {readers_of[acc] for acc in accumulators[stage_id] & readers_of.keys()}
        if stage_id in plan_stage:
            parents |= handed_over.get(plan_stage[stage_id].stage_id, set())
        # A stage that started later cannot have been read. So the graph stays acyclic.
        found[stage_id] = tuple(
            sorted(
                parent
                for parent in parents
                if parent is not None
                and parent in stages
                and parent != stage_id
                and stages[parent].order < stage.order
            )
        )
    return found


def resolve(
    stage_id: int,
    ran: Mapping[int, object],
    skipped: Mapping[int, int],
    ran_rdd: Mapping[int, int],
) -> int | None:
    """The stage that really ran for ``stage_id``: itself, or the one that computed its RDD."""
    if stage_id in ran:
        return stage_id
    rdd_id = skipped.get(stage_id)
    return ran_rdd.get(rdd_id) if rdd_id is not None else None


def _handed_over(plan: PlanGraph | None, plan_stage: Mapping[int, Stage]) -> dict[int, set[int]]:
    """For each plan stage, the stages of the broadcasts and subqueries that it waits for."""
    if plan is None:
        return {}
    ran_by: dict[int, set[int]] = defaultdict(set)
    for stage_id, planned in plan_stage.items():
        ran_by[planned.stage_id].add(stage_id)
    by_id = {stage.stage_id: stage for stage in plan.graph.stages}

    found: dict[int, set[int]] = {}
    through: dict[int, set[int]] = {}  # what stands for a plan stage: itself, or its parents' jobs
    for planned in plan.graph.stages:  # parents come first
        waited = {
            stage_id
            for parent in planned.parents
            if (boundary := by_id[parent].boundary) is not None and boundary.carrier == "broadcast"
            for stage_id in through[parent]
        }
        found[planned.stage_id] = waited
        through[planned.stage_id] = ran_by.get(planned.stage_id) or {
            stage_id for parent in planned.parents for stage_id in through[parent]
        }
    return found
