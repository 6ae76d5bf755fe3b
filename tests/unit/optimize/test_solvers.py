"""Sweep, budget search and integer program against exhaustive search."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phoebe_spark.graph import StageGraph
from phoebe_spark.optimize import Weights, budget, build_problem, integer, sweep
from phoebe_spark.optimize.problem import INF, Problem, bits, to_cuts
from tests.unit.optimize import oracle
from tests.unit.optimize.graphs import chain_graph, stage_graphs

TEMP = Weights(temp=1.0)
RESTART = Weights(restart=1.0)
VALUES = {"temp": oracle.temp(0.0), "restart": oracle.restart(INF, 0.0)}
WEIGHTS = {"temp": TEMP, "restart": RESTART}


def best_prefix(
    problem: Problem, weights: Weights, limit: float = INF, order: sweep.Order = "end"
) -> float:
    """The value of the best single prefix that fits, 0 when no cut is worth more than none."""
    every = sweep.prefixes(problem, weights, order)
    return max((c.value for c in every if c.durable_bytes <= limit), default=0.0)


def best_chain(problem: Problem, weights: Weights, limit: float, max_cuts: int) -> tuple[int, ...]:
    return next(budget.ranked_chains(problem, weights, limit, max_cuts), ())


def eligible(stage: object) -> bool:
    boundary = getattr(stage, "boundary", None)
    return boundary is not None and boundary.eligible


@pytest.mark.parametrize("objective", ["temp", "restart"])
@pytest.mark.parametrize("consistent", [True, False])
@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data())
def test_one_prefix_by_end_is_best_when_storage_is_free(
    objective: str, consistent: bool, data: st.DataObject
) -> None:
    graph = data.draw(stage_graphs(consistent=consistent))
    problem = build_problem(graph)
    found = best_prefix(problem, WEIGHTS[objective])
    best, _ = oracle.best(graph, VALUES[objective], eligible, INF, 1)
    assert max(0.0, found) == pytest.approx(best)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(graph=stage_graphs())
def test_one_prefix_by_start_is_best_for_restart_when_storage_is_free(graph: StageGraph) -> None:
    found = best_prefix(build_problem(graph), RESTART, order="start")
    best, _ = oracle.best(graph, VALUES["restart"], eligible, INF, 1)
    assert max(0.0, found) == pytest.approx(best)


@pytest.mark.parametrize("order", ["end", "start"])
@settings(max_examples=60, deadline=None, derandomize=True)
@given(graph=stage_graphs())
def test_a_prefix_is_charged_for_what_is_read_from_outside_of_it(
    order: sweep.Order, graph: StageGraph
) -> None:
    problem = build_problem(graph)
    for candidate in sweep.prefixes(problem, TEMP, order):
        assert candidate.durable_bytes == problem.durable_bytes((candidate.inside,))


@pytest.mark.parametrize("objective", ["temp", "restart"])
@pytest.mark.parametrize("cuts", [2, 3])
@settings(max_examples=40, deadline=None, derandomize=True)
@given(data=st.data())
def test_nested_prefixes_are_best_when_storage_is_free(
    objective: str, cuts: int, data: st.DataObject
) -> None:
    graph = data.draw(stage_graphs(max_stages=6, consistent=data.draw(st.booleans())))
    problem = build_problem(graph)
    chain = sweep.best_nested_prefixes(problem, WEIGHTS[objective], cuts)
    assert len(chain) <= cuts
    best, _ = oracle.best(graph, VALUES[objective], eligible, INF, cuts)
    assert problem.value(chain, WEIGHTS[objective]) == pytest.approx(best)


@pytest.mark.parametrize("objective", ["temp", "restart"])
@settings(max_examples=25, deadline=None, derandomize=True)
@given(data=st.data())
def test_the_integer_program_is_exact_under_a_budget(objective: str, data: st.DataObject) -> None:
    graph = data.draw(stage_graphs(max_stages=6))
    cuts = data.draw(st.integers(1, 2))
    limit = float(data.draw(st.integers(0, 120)))
    weights = (
        Weights(temp=1.0, per_byte=1.5)
        if objective == "temp"
        else Weights(restart=1.0, per_byte=0.01, per_checkpoint=0.5)
    )
    value = oracle.temp(1.5) if objective == "temp" else oracle.restart(100.0, 0.5)
    problem = build_problem(graph)
    chain = integer.solve(problem, weights, limit, cuts)
    best, _ = oracle.best(graph, value, eligible, limit, cuts)
    assert problem.durable_bytes(chain) <= limit + 1e-6
    assert problem.value(chain, weights) == pytest.approx(best, rel=1e-6, abs=1e-6)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(graph=stage_graphs(max_stages=6), limit=st.integers(0, 120), cuts=st.integers(1, 3))
def test_budget_search_fits_and_is_never_better_than_the_best(
    graph: StageGraph, limit: int, cuts: int
) -> None:
    problem = build_problem(graph)
    chain = best_chain(problem, TEMP, float(limit), cuts)
    best, _ = oracle.best(graph, VALUES["temp"], eligible, float(limit), cuts)
    assert problem.durable_bytes(chain) <= limit
    value = problem.value(chain, TEMP)
    assert value <= best + 1e-9
    single = best_prefix(problem, TEMP, float(limit))
    assert value >= max(0.0, single) - 1e-9


def test_cuts_that_fit_one_by_one_are_not_ranked_if_they_do_not_fit_together() -> None:
    problem = build_problem(chain_graph(30.0, 25.0, 20.0))
    for limit, most in ((30.0, 1), (55.0, 2)):
        ranked = list(budget.ranked_chains(problem, TEMP, limit, 2))
        assert max(map(len, ranked)) == most
        assert all(problem.durable_bytes(chain) <= limit for chain in ranked)


def test_budget_search_is_close_to_the_best_on_average() -> None:
    """Seeded graphs, 20 % of all output: the regret that the module's docstring may claim."""
    import random

    rng = random.Random(7)
    regrets = []
    for _ in range(60):
        graph = _random_graph(rng, 9)
        limit = 0.2 * sum(s.output_bytes for s in graph.stages)
        problem = build_problem(graph)
        best, _ = oracle.best(graph, VALUES["temp"], eligible, limit, 1)
        found = problem.value(best_chain(problem, TEMP, limit, 1), TEMP)
        regrets.append(0.0 if best == 0 else 1 - found / best)
    assert sum(regrets) / len(regrets) < 0.02


def _random_graph(rng: object, n: int) -> StageGraph:
    import random
    from dataclasses import replace

    from phoebe_spark.graph import Boundary, Stage

    assert isinstance(rng, random.Random)
    stages: list[Stage] = []
    for u in range(n):
        free = [s.stage_id for s in stages if not any(s.stage_id in t.parents for t in stages)]
        parents = tuple(free) if u == n - 1 else tuple(free[: rng.randint(0, 2)])
        start = max((stages[p].end_ms for p in parents), default=0.0) + rng.uniform(0, 3)
        stages.append(
            Stage(
                u,
                parents,
                boundary=Boundary(f"e{u}", "t") if u < n - 1 else None,
                output_bytes=rng.lognormvariate(3, 2) if u < n - 1 else 0.0,
                start_ms=start,
                end_ms=start + rng.lognormvariate(2, 1),
            )
        )
    finish = max(s.end_ms for s in stages)
    return StageGraph(tuple(replace(s, ttl_ms=finish - s.end_ms) for s in stages))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(graph=stage_graphs(), limit=st.integers(0, 200))
def test_cuts_are_down_closed_nested_and_checkpoint_only_what_may_be(
    graph: StageGraph, limit: int
) -> None:
    problem = build_problem(graph)
    chain = best_chain(problem, TEMP, float(limit), 3)
    cuts = to_cuts(graph, problem, chain, TEMP, "temp")
    stages = {s.stage_id: s for s in graph.stages}
    before: frozenset[int] = frozenset()
    for cut in cuts:
        assert before < cut.inside
        before = cut.inside
        assert all(set(stages[u].parents) <= cut.inside for u in cut.inside)
        assert cut.checkpointed == oracle.checkpointed(graph, cut.inside)
        assert all(eligible(stages[u]) for u in cut.checkpointed)
    assert sum(c.value for c in cuts) == pytest.approx(problem.value(chain, TEMP))


def test_a_broadcast_side_is_repeated_not_checkpointed() -> None:
    """fact(0) -> join(2) -> result(3), broadcast(1) read by both the join and the result."""
    from dataclasses import replace

    from phoebe_spark.graph import Boundary, Stage

    stages = [
        Stage(0, (), boundary=Boundary("e0", "a"), output_bytes=100, start_ms=0, end_ms=50),
        Stage(1, (), boundary=Boundary("b", "b", carrier="broadcast"), start_ms=0, end_ms=5),
        Stage(2, (0, 1), boundary=Boundary("e1", "c"), output_bytes=10, start_ms=50, end_ms=80),
        Stage(3, (2, 1), start_ms=80, end_ms=100),
    ]
    graph = StageGraph(tuple(replace(s, ttl_ms=100 - s.end_ms) for s in stages))
    problem = build_problem(graph)
    assert problem.dissolved == {1}
    chain = sweep.best_nested_prefixes(problem, TEMP, 1)
    (cut,) = to_cuts(graph, problem, chain, TEMP, "temp")
    assert cut.checkpointed == {0}  # 100 bytes for 50 ms beat 110 bytes for 20 ms
    (both,) = [z for z in (0b11,) if z]
    (cut,) = to_cuts(graph, problem, (both,), RESTART, "restart")
    assert cut.checkpointed == {2}
    assert cut.inside == {0, 1, 2}
    assert cut.details["restart_from_ms"] == 75.0  # the result starts at 80, its broadcast takes 5


def test_restart_counts_the_share_of_the_run_that_is_left() -> None:
    graph = chain_graph(1.0, 1.0, 1.0)
    problem = build_problem(graph)
    assert [problem.value((z,), RESTART) for z in (0b1, 0b11, 0b111)] == [
        1000 * 3000 / 4000,
        2000 * 2000 / 4000,
        3000 * 1000 / 4000,
    ]
    assert list(bits(0b1011)) == [0, 1, 3]
