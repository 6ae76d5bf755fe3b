"""A stage simulator: when each stage starts and ends on a number of slots.

One priority queue of task ends. A stage is ready when all of its parents have ended, as under
adaptive query execution, where each query stage is a job of its own. Which ready tasks get the free
slots is a scheduling policy's business: a pure function ``decide(state, now_ms) -> actions``.
First in, first out is what Spark does by default.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, replace

from phoebe_spark.graph import StageGraph

_BATCHES_PER_SLOT = 8


@dataclass(frozen=True, slots=True)
class ReadyStage:
    """A stage whose parents have ended and which still has tasks to start."""

    stage_id: int
    ready_ms: float
    pending_tasks: int
    running_tasks: int


@dataclass(frozen=True, slots=True)
class SchedulerState:
    """What a policy sees: ready stages in the order in which they became ready."""

    ready: tuple[ReadyStage, ...]
    free_slots: int
    slots: int


@dataclass(frozen=True, slots=True)
class Launch:
    """Start ``tasks`` tasks of a ready stage now."""

    stage_id: int
    tasks: int


SchedulingPolicy = Callable[[SchedulerState, float], tuple[Launch, ...]]


@dataclass(frozen=True, slots=True)
class StageTime:
    """First task start and last task end, in ms since the start of the query."""

    start_ms: float
    end_ms: float


def fifo(state: SchedulerState, now_ms: float) -> tuple[Launch, ...]:  # noqa: ARG001
    """Free slots go to the stage that has been ready longest (Spark's FIFO)."""
    launches: list[Launch] = []
    free = state.free_slots
    for stage in state.ready:
        if free == 0:
            break
        tasks = min(free, stage.pending_tasks)
        launches.append(Launch(stage.stage_id, tasks))
        free -= tasks
    return tuple(launches)


def simulate(
    graph: StageGraph,
    slots: int,
    decide: SchedulingPolicy = fifo,
    stage_delay_ms: float = 0.0,
) -> dict[int, StageTime]:
    """Start and end of each stage of ``graph``, from task counts and task times.

    All tasks of a stage are taken to be equally long; a stage of very many tasks runs in batches of
    consecutive ones, at least eight per slot. ``stage_delay_ms`` passes between the end of a
    stage's last parent and the moment it is ready (planning). Raises ``ValueError`` for ``slots <
    1``, or when the policy starts nothing while slots are free and nothing runs, starts tasks that
    are not pending, or more than there are slots.
    """
    if slots < 1:
        raise ValueError(f"slots must be at least 1, is {slots}")
    waiting: dict[int, int] = {}
    readers: dict[int, list[int]] = {}
    batches: dict[int, int] = {}
    batch_ms: dict[int, float] = {}
    unfinished: dict[int, int] = {}
    queue: list[tuple[float, int, int, bool]] = []  # when, sequence, stage, whether a task ends
    sequence = 0
    for stage in graph.stages:
        u = stage.stage_id
        waiting[u] = len(set(stage.parents))
        for p in set(stage.parents):
            readers.setdefault(p, []).append(u)
        batches[u] = max(1, min(stage.task_count, _BATCHES_PER_SLOT * slots))
        batch_ms[u] = max(0.0, stage.task_time_ms) / batches[u]
        unfinished[u] = batches[u]
        if not stage.parents:
            heapq.heappush(queue, (stage_delay_ms, sequence, u, False))
            sequence += 1
    ready: dict[int, ReadyStage] = {}
    starts: dict[int, float] = {}
    ends: dict[int, float] = {}
    free = slots
    while queue:
        now = queue[0][0]
        while queue and queue[0][0] == now:
            _, _, u, is_end = heapq.heappop(queue)
            if not is_end:
                ready[u] = ReadyStage(u, now, batches[u], 0)
                continue
            free += 1
            unfinished[u] -= 1
            if u in ready:
                ready[u] = replace(ready[u], running_tasks=ready[u].running_tasks - 1)
            if unfinished[u] == 0:
                ends[u] = now
                for v in readers.get(u, ()):
                    waiting[v] -= 1
                    if waiting[v] == 0:
                        heapq.heappush(queue, (now + stage_delay_ms, sequence, v, False))
                        sequence += 1
        if not ready or free == 0:
            continue
        for launch in decide(SchedulerState(tuple(ready.values()), free, slots), now):
            chosen = ready[launch.stage_id]
            if not 0 < launch.tasks <= min(free, chosen.pending_tasks):
                raise ValueError(f"{launch} is not possible with {free} free slots and {chosen}")
            starts.setdefault(launch.stage_id, now)
            for _ in range(launch.tasks):
                end = now + batch_ms[launch.stage_id]
                heapq.heappush(queue, (end, sequence, launch.stage_id, True))
                sequence += 1
            free -= launch.tasks
            left = chosen.pending_tasks - launch.tasks
            if left:
                ready[launch.stage_id] = replace(
                    chosen, pending_tasks=left, running_tasks=chosen.running_tasks + launch.tasks
                )
            else:
                del ready[launch.stage_id]
        if not queue:
            raise ValueError("the policy starts nothing although nothing runs")
    return {u: StageTime(starts[u], ends[u]) for u in ends}


def with_times(graph: StageGraph, times: dict[int, StageTime]) -> StageGraph:
    """``graph`` with starts, ends and times to live from ``times``.

    The times to live end with the last stage's end.
    """
    finish = max((t.end_ms for t in times.values()), default=0.0)
    return StageGraph(
        tuple(
            replace(
                s,
                start_ms=times[s.stage_id].start_ms,
                end_ms=times[s.stage_id].end_ms,
                ttl_ms=finish - times[s.stage_id].end_ms,
            )
            for s in graph.stages
        )
    )
