"""`choose`: vetoes, budget, reasons."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phoebe_spark.graph import Boundary, Stage, StageGraph
from phoebe_spark.optimize import OptimizerSettings, choose
from tests.unit.optimize.graphs import chain_graph, stage_graphs

MB = 1e6
EASY = OptimizerSettings(
    min_duration_ms=0, min_ttl_ms=0, min_freed_byte_ms=0, min_restart_ms=0, max_write_share=1e9
)


@pytest.mark.parametrize("objective", ["temp", "restart", "both"])
@settings(max_examples=30, deadline=None, derandomize=True)
@given(graph=stage_graphs(max_stages=6), limit=st.integers(0, 150))
def test_never_over_budget_never_ineligible_always_a_reason(
    objective: str, graph: StageGraph, limit: int
) -> None:
    decision = choose(
        graph,
        replace(EASY, objective=objective, budget_bytes=limit, budget_fraction=None),
    )
    stages = {s.stage_id: s for s in graph.stages}
    assert sum(stages[u].output_bytes for u in decision.chosen) <= limit + 1e-6
    shuffles = {s.stage_id for s in graph.stages if s.boundary is not None}
    assert set(decision.reasons) == shuffles
    for u, reason in decision.reasons.items():
        assert reason.message
        assert (u in decision.chosen) == (reason.code == "chosen")
        if u in decision.chosen:
            assert stages[u].boundary is not None
            assert stages[u].boundary.eligible
        elif not stages[u].boundary.eligible:  # type: ignore[union-attr]
            assert reason.code == "ineligible"


def test_a_big_early_output_upstream_of_a_small_one_is_freed_through_the_small_one() -> None:
    decision = choose(chain_graph(800 * MB, 20 * MB, 15 * MB, step_ms=20_000), OptimizerSettings())
    assert decision.chosen == {1, 2} or decision.chosen == {1}
    assert decision.reasons[0].code == "over_budget"
    assert decision.durable_bytes <= 0.2 * 835 * MB
    assert decision.temp_byte_ms > 0
    assert decision.restart_ms > 0


@pytest.mark.parametrize(
    ("graph", "change", "code"),
    [
        (chain_graph(100 * MB, step_ms=20_000), {}, "short_query"),
        (
            chain_graph(100 * MB, 100 * MB, step_ms=30_000),
            {"min_ttl_ms": 70_000.0, "budget_fraction": None},
            "ttl_too_short",
        ),
        (chain_graph(100 * MB, step_ms=60_000), {"budget_bytes": 1e6}, "over_budget"),
        (
            chain_graph(100 * MB, step_ms=60_000),
            {"write_bytes_per_ms": 1.0, "budget_fraction": None, "objective": "temp"},
            "not_worth_its_write",
        ),
        (
            chain_graph(10.0, step_ms=60_000),
            {"budget_fraction": None, "objective": "temp"},
            "below_min_value",
        ),
    ],
)
def test_each_veto_has_its_code(graph: StageGraph, change: dict[str, object], code: str) -> None:
    decision = choose(graph, replace(OptimizerSettings(), **change))  # type: ignore[arg-type]
    assert decision.chosen == frozenset()
    assert {r.code for r in decision.reasons.values()} == {code}


def test_an_ineligible_boundary_is_only_passed_with_all_its_readers() -> None:
    graph = chain_graph(500 * MB, 50 * MB, step_ms=40_000)
    refused = replace(graph.stages[1], boundary=Boundary("e1", "t1", eligible=False))
    graph = StageGraph((graph.stages[0], refused, graph.stages[2]))
    decision = choose(graph, replace(OptimizerSettings(), budget_fraction=1.0))
    assert decision.chosen == {0}
    assert decision.reasons[1].code == "ineligible"


def test_graphs_without_boundaries() -> None:
    assert choose(StageGraph(()), OptimizerSettings()).reasons == {}
    assert (
        choose(StageGraph((Stage(0, (), end_ms=1e6),)), OptimizerSettings()).chosen == frozenset()
    )


@pytest.mark.parametrize(
    "change", [{"max_cuts": 0}, {"write_bytes_per_ms": 0.0}, {"failure_probability": 2.0}]
)
def test_settings_are_checked(change: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        replace(OptimizerSettings(), **change)  # type: ignore[arg-type]
