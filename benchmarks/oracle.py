"""The best cuts under true values, for judging the product's choices; shares no code with them.

Input are the stages of one SQL execution as they were measured. The objectives, the budget and the
number of cuts are those of the project: temp storage freed (byte-seconds) and restart time
saved (seconds). Solved as one integer program over (item, level) variables: a level is a time to
live at which a cut may lie; an item is what is gained once all it needs is inside the cut of a
level. For temp storage an item is a stage (its bytes); for restart it is a step of the least start
outside (its seconds), which needs every stage that starts before it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import pulp  # type: ignore[import-untyped]

Objective = Literal["temp", "restart"]


@dataclass(frozen=True, slots=True)
class TrueStage:
    """A measured stage. Seconds from the start of the execution; ``carries`` says what its readers
    get it through: shuffle files, or something that holds none (broadcast, subquery, result)."""

    stage_id: int
    parents: tuple[int, ...]
    output_bytes: float
    start_s: float
    end_s: float
    ttl_s: float
    eligible: bool
    carries: Literal["shuffle", "other"] = "shuffle"


@dataclass(frozen=True, slots=True)
class Best:
    """The oracle's answer: ``cuts`` nested, smallest first; value in the objective's unit."""

    value: float
    cuts: tuple[frozenset[int], ...] = ()
    checkpointed: frozenset[int] = frozenset()


class OracleError(RuntimeError):
    """The integer program was not solved to proven optimality in its time."""


@dataclass(frozen=True, slots=True)
class _Item:
    weight: float
    needs: frozenset[int]


def through(stages: Sequence[TrueStage]) -> dict[int, TrueStage]:
    """Only stages that write shuffles and the result: what others passed on, their readers read.

    A reader of a broadcast starts, for a restart, by the broadcast's own time earlier.
    """
    by_id = {s.stage_id: s for s in stages}
    read = {p for s in stages for p in s.parents}
    gone = {s.stage_id for s in stages if s.carries == "other" and s.stage_id in read}

    def behind(stage_id: int) -> tuple[frozenset[int], float]:
        """Stages read through ``stage_id``, and the time that the chain of dissolved ones took."""
        stage = by_id[stage_id]
        if stage_id not in gone:
            return frozenset({stage_id}), 0.0
        found = [behind(p) for p in stage.parents]
        lead = max((t for _, t in found), default=0.0) + max(0.0, stage.end_s - stage.start_s)
        return frozenset().union(*(s for s, _ in found)), lead

    kept = {}
    for stage in stages:
        if stage.stage_id in gone:
            continue
        found = [behind(p) for p in stage.parents]
        parents = frozenset().union(*(s for s, _ in found))
        lead = max((t for _, t in found), default=0.0)
        kept[stage.stage_id] = TrueStage(
            stage.stage_id,
            tuple(sorted(parents)),
            stage.output_bytes,
            max(0.0, stage.start_s - lead),
            stage.end_s,
            stage.ttl_s,
            stage.eligible,
            stage.carries,
        )
    return kept


def value(
    stages: Sequence[TrueStage],
    cuts: Sequence[frozenset[int]],
    objective: Objective,
    last: float = 1.0,
) -> float:
    """What nested ``cuts`` (sets of stage ids, smallest first) are worth under true values.

    Temp: bytes newly freed by each cut times the least time to live inside it. Restart: the least
    start outside, times the probability that a failure comes after the cut; failures are uniform
    over the run's ``last`` share, 1 being all of it.
    """
    kept = through(stages)
    duration = max(s.end_s for s in stages)
    span = last * duration
    total, before = 0.0, _gain(kept, frozenset(), objective)
    for cut in cuts:
        inside = frozenset(u for u in cut if u in kept)
        gain = _gain(kept, inside, objective)
        ttl = min((kept[u].ttl_s for u in inside), default=0.0)
        total += (gain - before) * (ttl if objective == "temp" else min(1.0, ttl / span))
        before = gain
    return total


def _gain(kept: Mapping[int, TrueStage], inside: frozenset[int], objective: Objective) -> float:
    if objective == "temp":
        return sum(kept[u].output_bytes for u in inside)
    return least_start_outside(kept, inside)


def least_start_outside(kept: Mapping[int, TrueStage], inside: frozenset[int]) -> float:
    """When the first of the stages outside a cut began: what lies before need not be redone."""
    return min((s.start_s for u, s in kept.items() if u not in inside), default=0.0)


def _items(kept: Mapping[int, TrueStage], objective: Objective, duration: float) -> list[_Item]:
    if objective == "temp":
        return [_Item(s.output_bytes, frozenset({u})) for u, s in kept.items() if s.output_bytes]
    starts = sorted({s.start_s for s in kept.values()})
    return [
        _Item((b - a) / duration, frozenset(u for u, s in kept.items() if s.start_s < b))
        for a, b in pairwise(starts)
    ]


def best(
    stages: Sequence[TrueStage],
    objective: Objective,
    budget_bytes: float,
    max_cuts: int = 3,
    time_limit_s: float = 60,
    last: float = 1.0,
) -> Best:
    """The best nested cuts, ``last`` as of :func:`value`; raises ``OracleError`` when the solver
    ends without a proof."""
    duration = max(s.end_s for s in stages)
    kept = through(stages)
    if objective == "restart":  # a failure comes after any cut made before the first can come
        kept = {u: replace(s, ttl_s=min(s.ttl_s, last * duration)) for u, s in kept.items()}
    readers: dict[int, set[int]] = {u: set() for u in kept}
    for u, s in kept.items():
        for p in s.parents:
            readers[p].add(u)
    insiders = [u for u in kept if readers[u]]  # the result is never inside
    levels = sorted({kept[u].ttl_s for u in insiders if kept[u].ttl_s > 0}, reverse=True)
    items = [i for i in _items(kept, objective, duration) if i.needs <= set(insiders)]
    if not levels or not items:
        return Best(0.0)

    model = pulp.LpProblem("oracle", pulp.LpMaximize)
    used = [pulp.LpVariable(f"used_{k}", cat="Binary") for k in range(len(levels))]
    # inside[u][k]: u is inside the cut at level k, or at an earlier level (a longer time to live)
    inside = {
        u: [pulp.LpVariable(f"in_{u}_{k}", cat="Binary") for k in range(len(levels))]
        for u in insiders
    }
    durable = {u: pulp.LpVariable(f"durable_{u}", 0, 1) for u in insiders}
    terms = []
    for n, item in enumerate(items):
        got = [pulp.LpVariable(f"item_{n}_{k}", 0, 1) for k in range(len(levels))]
        for k, level in enumerate(levels):
            earlier = got[k - 1] if k else 0
            model += got[k] >= earlier
            for u in item.needs:
                model += got[k] <= inside[u][k]
            terms.append(item.weight * level * (got[k] - earlier))
    for u in insiders:
        for k, level in enumerate(levels):
            earlier = inside[u][k - 1] if k else 0
            model += inside[u][k] >= earlier
            model += inside[u][k] - earlier <= used[k]
            if kept[u].ttl_s < level:
                model += inside[u][k] == 0
            for p in kept[u].parents:
                model += inside[u][k] <= inside[p][k]
            for v in readers[u]:
                model += durable[u] >= inside[u][k] - (inside[v][k] if v in inside else 0)
        if not kept[u].eligible:
            model += durable[u] == 0
    model += pulp.lpSum(used) <= max_cuts
    model += pulp.lpSum(kept[u].output_bytes * durable[u] for u in insiders) <= budget_bytes
    scale = max(i.weight * levels[0] for i in items)
    model.setObjective(pulp.lpSum(terms) * (1.0 / scale))
    solved = model.solve(pulp.PULP_CBC_CMD(msg=False, timeLimit=time_limit_s, threads=1))
    if solved != pulp.LpStatusOptimal or model.sol_status != pulp.LpSolutionOptimal:
        raise OracleError(f"{len(insiders)} stages: {pulp.LpStatus[solved]} after {time_limit_s} s")
    chain: list[frozenset[int]] = []
    for k in range(len(levels)):
        cut = frozenset(u for u in insiders if inside[u][k].value() > 0.5)
        if cut and (not chain or cut != chain[-1]):
            chain.append(cut)
    checkpointed = frozenset(u for cut in chain for u in cut if readers[u] - cut)
    return Best(value(stages, chain, objective, last), tuple(chain), checkpointed)
