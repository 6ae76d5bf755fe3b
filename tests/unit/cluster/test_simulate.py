"""The stage simulator."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phoebe_spark.cluster.simulate import (
    Launch,
    SchedulerState,
    StageTime,
    fifo,
    simulate,
    with_times,
)
from phoebe_spark.graph import Stage, StageGraph


def graph(*stages: tuple[tuple[int, ...], int, float]) -> StageGraph:
    return StageGraph(
        tuple(
            Stage(u, parents, task_count=tasks, task_time_ms=time)
            for u, (parents, tasks, time) in enumerate(stages)
        )
    )


def test_two_waves_then_the_reader() -> None:
    times = simulate(graph(((), 3, 300.0), ((0,), 1, 50.0)), slots=2)
    assert times == {0: StageTime(0.0, 200.0), 1: StageTime(200.0, 250.0)}


def test_first_in_first_out_between_ready_stages() -> None:
    times = simulate(graph(((), 2, 200.0), ((), 2, 20.0), ((0, 1), 1, 5.0)), slots=2)
    assert times[1] == StageTime(100.0, 110.0)
    assert times[2] == StageTime(110.0, 115.0)


def test_a_policy_may_turn_the_order_round() -> None:
    def last_in_first_out(state: SchedulerState, now_ms: float) -> tuple[Launch, ...]:
        turned = SchedulerState(tuple(reversed(state.ready)), state.free_slots, state.slots)
        return fifo(turned, now_ms)

    times = simulate(
        graph(((), 2, 200.0), ((), 2, 20.0), ((0, 1), 1, 5.0)), slots=2, decide=last_in_first_out
    )
    assert times[1] == StageTime(0.0, 10.0)
    assert times[0] == StageTime(10.0, 110.0)


def test_delay_before_each_stage() -> None:
    times = simulate(graph(((), 1, 10.0), ((0,), 1, 10.0)), slots=1, stage_delay_ms=3.0)
    assert times == {0: StageTime(3.0, 13.0), 1: StageTime(16.0, 26.0)}


def test_times_to_live_end_with_the_query() -> None:
    g = graph(((), 1, 10.0), ((0,), 1, 10.0))
    assert [s.ttl_ms for s in with_times(g, simulate(g, 1)).stages] == [10.0, 0.0]


@pytest.mark.parametrize("launches", [(), (Launch(0, 9),), (Launch(0, 0),)])
def test_impossible_policies_are_errors(launches: tuple[Launch, ...]) -> None:
    with pytest.raises(ValueError, match=r"not possible|starts nothing"):
        simulate(graph(((), 3, 30.0)), slots=2, decide=lambda _s, _n: launches)


def test_no_slots_is_an_error() -> None:
    with pytest.raises(ValueError, match="slots"):
        simulate(graph(((), 1, 1.0)), slots=0)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(data=st.data(), slots=st.integers(1, 5))
def test_work_is_kept_and_parents_come_first(data: st.DataObject, slots: int) -> None:
    stages = []
    for u in range(data.draw(st.integers(1, 8))):
        parents = data.draw(st.sets(st.integers(0, u - 1), max_size=3)) if u else set()
        tasks = data.draw(st.integers(0, 60))
        stages.append((tuple(sorted(parents)), tasks, float(data.draw(st.integers(0, 500)))))
    g = graph(*stages)
    times = simulate(g, slots)
    assert set(times) == {s.stage_id for s in g.stages}
    finish = max(t.end_ms for t in times.values())
    assert finish * slots >= sum(s.task_time_ms for s in g.stages) - 1e-6
    for s in g.stages:
        assert all(times[p].end_ms <= times[s.stage_id].start_ms for p in s.parents)
        least = s.task_time_ms / slots
        assert times[s.stage_id].end_ms - times[s.stage_id].start_ms >= least - 1e-6
