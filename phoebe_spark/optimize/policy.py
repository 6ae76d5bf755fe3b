"""`sweep` suggests cuts, one manager decides: `choose(graph, settings) -> Decision`.

The shape of dask's active memory manager: the search only names cuts and what they are worth; the
vetoes and the safety rules (eligible boundaries only, never over budget, no slow-down beyond
``max_write_share``) live in `choose`, and each boundary leaves it with a typed reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from phoebe_spark.graph import Cut, Stage, StageGraph
from phoebe_spark.optimize import budget as budgeted
from phoebe_spark.optimize.problem import INF, Problem, Weights, build_problem, to_cuts
from phoebe_spark.optimize.settings import OptimizerSettings
from phoebe_spark.optimize.sweep import best_nested_prefixes
from phoebe_spark.reasons import Reason


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A chain of nested sets that the search proposes, and the weights that value it."""

    chain: tuple[int, ...]
    weights: Weights


@dataclass(frozen=True, slots=True)
class Decision:
    """What to checkpoint, and why or why not, per shuffle boundary.

    ``cuts`` are nested, the smallest first; ``chosen`` the stages whose outputs become durable;
    ``reasons`` has one entry per stage that ends in a shuffle (by stage id).
    ``temp_byte_ms`` and ``restart_ms`` are the values of all cuts under the graph's figures, before
    costs; ``write_ms`` is the time that the writes add.
    """

    cuts: tuple[Cut, ...] = ()
    chosen: frozenset[int] = frozenset()
    reasons: dict[int, Reason] = field(default_factory=dict)
    durable_bytes: float = 0.0
    budget_bytes: float = INF
    temp_byte_ms: float = 0.0
    restart_ms: float = 0.0
    write_ms: float = 0.0


def temp_weights(settings: OptimizerSettings) -> Weights:
    """Values in byte-ms."""
    return Weights(temp=1.0, per_byte=settings.durable_price_ms)


def restart_weights(settings: OptimizerSettings) -> Weights:
    """Values in ms: what a failed run saves, less the time that the writes take."""
    return Weights(
        restart=settings.failure_probability,
        per_byte=1.0 / settings.write_bytes_per_ms,
        per_checkpoint=settings.write_overhead_ms,
    )


def objective_weights(problem: Problem, settings: OptimizerSettings) -> Weights:
    """The weights of ``settings.objective``.

    ``both``: one set of cuts serves both ends, so their values are added on one scale instead of
    spending the budget on one after the other: each as a share of what unlimited storage would
    gain. A boundary that helps both then wins over two that each help one.
    """
    temp, restart = temp_weights(settings), restart_weights(settings)
    if settings.objective == "temp":
        return temp
    if settings.objective == "restart":
        return restart
    temp_bound = _unlimited(problem, Weights(temp=temp.temp), settings.max_cuts)
    restart_bound = _unlimited(problem, Weights(restart=restart.restart), settings.max_cuts)
    a = 0.5 / temp_bound if temp_bound > 0 else 0.0
    b = 0.5 / restart_bound if restart_bound > 0 else 0.0
    return Weights(
        temp=a * temp.temp,
        restart=b * restart.restart,
        per_byte=a * temp.per_byte + b * restart.per_byte,
        per_checkpoint=b * restart.per_checkpoint,
    )


def sweep(
    problem: Problem, settings: OptimizerSettings, budget_bytes: float
) -> Iterator[Suggestion]:
    """The sweep, improved under a budget (see `phoebe_spark.optimize.budget`): the most valuable
    first."""
    weights = objective_weights(problem, settings)
    chains = list(budgeted.ranked_chains(problem, weights, budget_bytes, settings.max_cuts))
    free = best_nested_prefixes(problem, weights, settings.max_cuts)
    if free and problem.durable_bytes(free) <= budget_bytes:
        chains.append(free)
        chains.sort(key=lambda chain: -problem.value(chain, weights))
    for chain in chains:
        yield Suggestion(chain, weights)


def choose(graph: StageGraph, settings: OptimizerSettings) -> Decision:
    """The cuts of ``graph`` under its (predicted) figures; see `Decision`.

    The checkpoints of the result never exceed the budget, and never lie on a boundary that is not
    eligible.
    """
    shuffles = [s for s in graph.stages if s.is_shuffle]
    duration = max((s.end_ms for s in graph.stages), default=0.0)
    total = sum(s.output_bytes for s in shuffles)
    limit = settings.budget(total)
    if duration < settings.min_duration_ms:
        short = Reason(
            "short_query",
            {"predicted_ms": round(duration), "min_duration_ms": settings.min_duration_ms},
            f"the query is expected to run {duration / 1e3:.1f} s, less than "
            f"{settings.min_duration_ms / 1e3:.1f} s",
        )
        return Decision(reasons={s.stage_id: short for s in shuffles}, budget_bytes=limit)

    vetoes = {s.stage_id: veto for s in shuffles if (veto := _veto(s, settings, limit)) is not None}
    problem = build_problem(graph, lambda stage: stage.stage_id not in vetoes and stage.is_shuffle)
    refused: Reason | None = None
    chosen: Suggestion | None = None
    for suggestion in sweep(problem, settings, limit):
        no = _veto_chain(problem, suggestion, settings, limit, duration)
        if no is None:
            chosen = suggestion
            break
        refused = refused or no
    reasons = dict(vetoes)
    if chosen is None:
        none = refused or Reason(
            "below_min_value", {}, "no cut that fits the budget is worth its checkpoints"
        )
        reasons.update((s.stage_id, none) for s in shuffles if s.stage_id not in vetoes)
        return Decision(reasons=reasons, budget_bytes=limit)

    cuts = to_cuts(graph, problem, chosen.chain, chosen.weights, settings.objective)
    stages = frozenset(u for cut in cuts for u in cut.checkpointed)
    durable = problem.durable_bytes(chosen.chain)
    for s in shuffles:
        if s.stage_id not in vetoes:
            reasons[s.stage_id] = _explain(s, cuts, durable, limit)
    return Decision(
        cuts=cuts,
        chosen=stages,
        reasons=reasons,
        durable_bytes=durable,
        budget_bytes=limit,
        temp_byte_ms=problem.value(chosen.chain, Weights(temp=1.0)),
        restart_ms=problem.value(chosen.chain, Weights(restart=settings.failure_probability)),
        write_ms=_write_ms(problem, chosen.chain, settings),
    )


def _unlimited(problem: Problem, weights: Weights, max_cuts: int) -> float:
    return problem.value(best_nested_prefixes(problem, weights, max_cuts), weights)


def _veto(stage: Stage, settings: OptimizerSettings, limit: float) -> Reason | None:
    """Why this boundary cannot be checkpointed whatever the cut; the first veto that fires."""
    boundary = stage.boundary
    assert boundary is not None
    rules: tuple[Callable[[], Reason | None], ...] = (
        lambda: (
            None
            if boundary.eligible
            else Reason("ineligible", {}, "the boundary's subtree may not be checkpointed")
        ),
        lambda: (
            Reason(
                "ttl_too_short",
                {"ttl_ms": round(stage.ttl_ms), "min_ttl_ms": settings.min_ttl_ms},
                f"its output is needed for {stage.ttl_ms / 1e3:.1f} s only, less than "
                f"{settings.min_ttl_ms / 1e3:.1f} s",
            )
            if stage.ttl_ms < settings.min_ttl_ms
            else None
        ),
        lambda: (
            Reason(
                "over_budget",
                {"bytes": round(stage.output_bytes), "budget_bytes": round(limit)},
                f"its {_mib(stage.output_bytes)} alone exceed the durable budget of {_mib(limit)}",
            )
            if stage.output_bytes > limit and boundary.carrier != "checkpoint"
            else None
        ),
    )
    return next((reason for rule in rules if (reason := rule()) is not None), None)


def _veto_chain(
    problem: Problem,
    suggestion: Suggestion,
    settings: OptimizerSettings,
    limit: float,
    duration: float,
) -> Reason | None:
    """Why these cuts as a whole are not worth it, or None."""
    durable = problem.durable_bytes(suggestion.chain)
    if durable > limit:
        return Reason(
            "over_budget",
            {"bytes": round(durable), "budget_bytes": round(limit)},
            f"the best cut's {_mib(durable)} exceed the durable budget of {_mib(limit)}",
        )
    write = _write_ms(problem, suggestion.chain, settings)
    if write > settings.max_write_share * duration:
        return Reason(
            "not_worth_its_write",
            {"write_ms": round(write), "predicted_ms": round(duration)},
            f"writing {_mib(durable)} takes {write / 1e3:.1f} s of a query of "
            f"{duration / 1e3:.1f} s",
        )
    temp = problem.value(suggestion.chain, Weights(temp=1.0))
    restart = problem.value(suggestion.chain, Weights(restart=settings.failure_probability))
    enough = {
        "temp": temp >= settings.min_freed_byte_ms,
        "restart": restart >= settings.min_restart_ms,
        "both": temp >= settings.min_freed_byte_ms or restart >= settings.min_restart_ms,
    }
    if not enough[settings.objective]:
        return Reason(
            "below_min_value",
            {"freed_byte_ms": round(temp), "restart_ms": round(restart)},
            f"the best cut frees {temp / 2**20 / 1e3:.1f} MiB·s and saves "
            f"{restart / 1e3:.1f} s of a restart, too little",
        )
    return None


def _explain(stage: Stage, cuts: tuple[Cut, ...], durable: float, limit: float) -> Reason:
    for k, cut in enumerate(cuts, start=1):
        if stage.stage_id in cut.checkpointed:
            args = {
                "cut": k,
                "bytes": round(stage.output_bytes),
                "frees_bytes": round(cut.details["freed_bytes"]),
                "ttl_ms": round(cut.details["ttl_ms"]),
                "restart_from_ms": round(cut.details["restart_from_ms"]),
            }
            return Reason(
                "chosen",
                args,
                f"cut {k}: frees {_mib(cut.details['freed_bytes'])} for "
                f"{cut.details['ttl_ms'] / 1e3:.1f} s, a restart begins at "
                f"{cut.details['restart_from_ms'] / 1e3:.1f} s",
            )
    left = limit - durable
    if stage.output_bytes > left:
        return Reason(
            "over_budget",
            {"bytes": round(stage.output_bytes), "left_bytes": round(left)},
            f"its {_mib(stage.output_bytes)} do not fit the {_mib(left)} that better "
            "boundaries left",
        )
    inside = any(stage.stage_id in cut.inside for cut in cuts)
    where = "upstream of a chosen cut" if inside else "downstream of the chosen cuts"
    return Reason("not_on_best_cut", {"inside": inside}, f"lies {where}")


def _write_ms(problem: Problem, chain: tuple[int, ...], settings: OptimizerSettings) -> float:
    outputs = {o.stage_id: o for z in chain for o in problem.checkpointed(z)}
    return sum(
        o.durable_bytes / settings.write_bytes_per_ms + settings.write_overhead_ms
        for o in outputs.values()
    )


def _mib(size: float) -> str:
    return f"{size / 2**20:.1f} MiB"
