"""The prefix sweep: cuts along the order of end or start times, in O(n log n).

With free durable storage some prefix by end time is the best set for every objective, since among
the sets whose stages all live at least so long the largest gains most; for several nested cuts the
best chain of prefixes is found by dynamic programming over the upper hull of lines (values fall on
lines whose slopes and query points are both sorted). Prefixes by start time reach the same least
start outside with fewer durable bytes, which counts when storage has a price or a budget.
With a budget no sweep is optimal; `phoebe_spark.optimize.budget` improves on it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from phoebe_spark.optimize.problem import INF, Problem, Weights, bits, cost

Order = Literal["end", "start"]


class Candidate(NamedTuple):
    """A down-closed set with its figures; ``outputs`` is a mask over ``Problem.outputs``.

    A named tuple, because thousands are made while a query waits, and tuples are made fastest.
    """

    inside: int
    gain: float
    ttl_ms: float
    durable_bytes: float
    cost: float
    outputs: int

    @property
    def value(self) -> float:
        return self.gain * self.ttl_ms - self.cost


def prefixes(problem: Problem, weights: Weights, order: Order = "end") -> Iterator[Candidate]:
    """All prefixes of the items, by descending time to live or ascending start; O(n log n)."""
    key = problem.start_ms if order == "start" else tuple(-t for t in problem.ttl_ms)
    ranked = sorted(range(problem.n), key=lambda i: (key[i], i))
    rank = {item: r for r, item in enumerate(ranked)}
    enter: list[list[int]] = [[] for _ in ranked]
    leave: list[list[int]] = [[] for _ in ranked]
    for x, output in enumerate(problem.outputs):
        last = max(rank.get(i, problem.n) for i in bits(output.readers))
        enter[rank[output.item]].append(x)
        if last < problem.n:
            leave[last].append(x)
    outside_start = [problem.outside_start_ms] * (problem.n + 1)
    for r in reversed(range(problem.n)):
        outside_start[r] = min(outside_start[r + 1], problem.start_ms[ranked[r]])
    per_start = weights.restart / problem.duration_ms if problem.duration_ms > 0 else 0.0
    inside = outputs = 0
    freed = durable = charged = 0.0
    ttl = INF
    for r, item in enumerate(ranked):
        inside |= 1 << item
        freed += problem.bytes[item]
        ttl = min(ttl, problem.ttl_ms[item])
        for group, sign in ((enter[r], 1), (leave[r], -1)):
            for x in group:
                outputs ^= 1 << x
                durable += sign * problem.outputs[x].durable_bytes
                charged += sign * cost(problem.outputs[x], weights)
        gain = weights.temp * freed + per_start * (outside_start[r + 1] - outside_start[0])
        yield Candidate(inside, gain, ttl, max(0.0, durable), max(0.0, charged), outputs)


def best_nested_prefixes(problem: Problem, weights: Weights, max_cuts: int) -> tuple[int, ...]:
    """The best chain of at most ``max_cuts`` prefixes by end time, storage unlimited.

    Optimal when costs are 0. With costs, each cut is charged for all that it makes durable, even
    if an earlier one has made it durable already.
    """
    steps = [Candidate(0, 0.0, 0.0, 0.0, 0.0, 0), *prefixes(problem, weights)]
    best = [0.0] * len(steps)  # of chains that end at this step, here with no cut at all
    origins: list[list[int]] = []
    finished: tuple[float, int, int] = (0.0, 0, 0)
    for level in range(1, max_cuts + 1):
        start = [0.0] + [-INF] * (len(steps) - 1) if level == 1 else best
        best, origin = _extend(steps, start)
        origins.append(origin)
        end = max(range(len(steps)), key=best.__getitem__)
        if best[end] > finished[0] * (1 + 1e-12):
            finished = (best[end], level, end)
    chain: list[int] = []
    _, level, end = finished
    while level > 0 and end > 0:
        chain.append(steps[end].inside)
        end = origins[level - 1][end]
        level -= 1
    return tuple(reversed(chain))


def _extend(steps: Sequence[Candidate], start: Sequence[float]) -> tuple[list[float], list[int]]:
    """One more cut: ``best[j] = max_i<j start[i] + (gain_j - gain_i) * ttl_j - cost_j``."""
    best, origin = [-INF] * len(steps), [0] * len(steps)
    hull: list[int] = []
    at = 0

    def line(i: int, ttl: float) -> float:
        return start[i] - steps[i].gain * ttl

    for j, step in enumerate(steps):
        if j:
            while at + 1 < len(hull) and line(hull[at + 1], step.ttl_ms) >= line(
                hull[at], step.ttl_ms
            ):
                at += 1
            if hull:
                best[j] = line(hull[at], step.ttl_ms) + step.gain * step.ttl_ms - step.cost
                origin[j] = hull[at]
        if start[j] == -INF:
            continue
        while len(hull) - at >= 2 and _hidden(hull[-2], hull[-1], j, steps, start):
            hull.pop()
        if len(hull) - at >= 1 and steps[hull[-1]].gain == step.gain:
            if start[hull[-1]] >= start[j]:
                continue
            hull.pop()
        hull.append(j)
        at = min(at, len(hull) - 1)
    return best, origin


def _hidden(a: int, b: int, c: int, steps: Sequence[Candidate], start: Sequence[float]) -> bool:
    """Whether line b lies nowhere above both a and c (gains ascending)."""
    ga, gb, gc = steps[a].gain, steps[b].gain, steps[c].gain
    return (start[c] - start[a]) * (gb - ga) >= (start[b] - start[a]) * (gc - ga)
