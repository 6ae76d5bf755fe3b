"""Exhaustive search for the best nested cuts, straight from the definitions.

Shares no code with the solvers. Cut: a down-closed set Z without a final stage; checkpointed: the
stages of Z read from outside Z, all of which must be allowed; value of nested cuts: cut k frees
Z_k minus Z_k-1 for the least time to live in Z_k (temp), or lets what fails after it start at the
least start outside Z_k (restart, failures uniform over the run).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import combinations

from phoebe_spark.graph import Stage, StageGraph


def down_closed(graph: StageGraph) -> list[frozenset[int]]:
    read = {p for s in graph.stages for p in s.parents}
    sets: list[frozenset[int]] = []
    ids = [s.stage_id for s in graph.stages if s.stage_id in read]
    parents = {s.stage_id: set(s.parents) for s in graph.stages}
    for size in range(1, len(ids) + 1):
        for combo in combinations(ids, size):
            z = set(combo)
            if all(parents[u] <= z for u in z):
                sets.append(frozenset(z))
    return sets


def checkpointed(graph: StageGraph, z: frozenset[int]) -> frozenset[int]:
    return frozenset(p for s in graph.stages if s.stage_id not in z for p in s.parents if p in z)


def chains(sets: list[frozenset[int]], longest: int) -> Iterator[tuple[frozenset[int], ...]]:
    yield ()
    level: list[tuple[frozenset[int], ...]] = [(z,) for z in sets]
    for _ in range(longest):
        yield from level
        level = [(*c, z) for c in level for z in sets if c[-1] < z]


def best(
    graph: StageGraph,
    value: Callable[[StageGraph, tuple[frozenset[int], ...]], float],
    allowed: Callable[[Stage], bool],
    budget: float,
    max_cuts: int,
) -> tuple[float, tuple[frozenset[int], ...]]:
    """The best value (0 for no cut) and a chain that has it."""
    stages = {s.stage_id: s for s in graph.stages}
    sets = [
        z for z in down_closed(graph) if all(allowed(stages[u]) for u in checkpointed(graph, z))
    ]
    top: tuple[float, tuple[frozenset[int], ...]] = (0.0, ())
    for chain in chains(sets, max_cuts):
        durable = {u for z in chain for u in checkpointed(graph, z)}
        if sum(stages[u].output_bytes for u in durable) <= budget:
            worth = value(graph, chain)
            if worth > top[0]:
                top = (worth, chain)
    return top


def temp(price_ms: float) -> Callable[[StageGraph, tuple[frozenset[int], ...]], float]:
    def value(graph: StageGraph, chain: tuple[frozenset[int], ...]) -> float:
        stages = {s.stage_id: s for s in graph.stages}
        total, done = 0.0, frozenset[int]()
        for z in chain:
            freed = sum(stages[u].output_bytes for u in z - done)
            total += freed * min(stages[u].ttl_ms for u in z)
            done = z
        durable = {u for z in chain for u in checkpointed(graph, z)}
        return total - price_ms * sum(stages[u].output_bytes for u in durable)

    return value


def restart(
    write_bytes_per_ms: float, overhead_ms: float
) -> Callable[[StageGraph, tuple[frozenset[int], ...]], float]:
    def value(graph: StageGraph, chain: tuple[frozenset[int], ...]) -> float:
        stages = {s.stage_id: s for s in graph.stages}
        duration = max(s.end_ms for s in graph.stages)
        first = min(s.start_ms for s in graph.stages)
        total, saved = 0.0, 0.0
        for z in chain:
            start = min(s.start_ms for s in graph.stages if s.stage_id not in z) - first
            left = min(stages[u].ttl_ms for u in z) / duration
            total += (start - saved) * left
            saved = start
        durable = {u for z in chain for u in checkpointed(graph, z)}
        write = sum(stages[u].output_bytes / write_bytes_per_ms + overhead_ms for u in durable)
        return total - write

    return value
