"""Cuts under a durable budget: better than the sweep, much faster than the integer program.

The pool holds every prefix (by end and by start) and, for a choice of thresholds of time to live,
what a greedy fill by value per durable byte reaches; a beam search puts nested sets of the pool
together while the union of their checkpoints fits. A heuristic: the integer program is exact.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator

from phoebe_spark.optimize.problem import INF, Problem, Weights, bits, cost
from phoebe_spark.optimize.sweep import Candidate, prefixes

_POOL = 96
_BEAM = 8
_THRESHOLDS = 12
_FILLERS = 40


def ranked_chains(
    problem: Problem, weights: Weights, budget: float, max_cuts: int
) -> Iterator[tuple[int, ...]]:
    """Chains worth more than nothing, best first (those that the last beam held)."""
    pool = _pool(problem, weights, budget)
    found: dict[tuple[int, ...], float] = {}
    seen: dict[int, tuple[float, float]] = {}
    beam: list[tuple[Candidate, ...]] = [()]
    for _ in range(max_cuts):
        grown: dict[tuple[int, ...], tuple[float, tuple[Candidate, ...]]] = {}
        leaders = [0.0] * _BEAM  # a heap: whatever is not above its least is not held
        for chain in beam:
            for candidate in pool:
                longer = _insert(chain, candidate)
                if longer is None or _at_most(longer) <= leaders[0]:
                    continue
                key = tuple(c.inside for c in longer)
                if key in grown:
                    continue
                value = _value(problem, weights, longer, budget, seen)
                if value > leaders[0]:
                    grown[key] = (value, longer)
                    heapq.heapreplace(leaders, value)
        best = sorted(grown.items(), key=lambda kv: -kv[1][0])[:_BEAM]
        found.update((key, value) for key, (value, _) in best)
        beam = [longer for _, (_, longer) in best]
        if not beam:
            break
    for key, _ in sorted(found.items(), key=lambda kv: (-kv[1], len(kv[0]))):
        yield key


def _at_most(chain: tuple[Candidate, ...]) -> float:
    """A bound of the chain's value: all its checkpoints cost as much as the dearest cut's."""
    value, before = 0.0, 0.0
    for c in chain:
        value += (c.gain - before) * c.ttl_ms
        before = c.gain
    return value - max(c.cost for c in chain)


def _value(
    problem: Problem,
    weights: Weights,
    chain: tuple[Candidate, ...],
    budget: float,
    seen: dict[int, tuple[float, float]],
) -> float:
    """The chain's value, or -inf when its checkpoints do not fit."""
    union, value, before = 0, 0.0, 0.0
    for c in chain:
        union |= c.outputs
        value += (c.gain - before) * c.ttl_ms
        before = c.gain
    if len(chain) == 1:
        return chain[0].value if chain[0].durable_bytes <= budget else -INF
    durable, charged = _charges(problem, weights, union, seen)
    return value - charged if durable <= budget else -INF


def _charges(
    problem: Problem, weights: Weights, outputs: int, seen: dict[int, tuple[float, float]]
) -> tuple[float, float]:
    """Durable bytes and costs of a mask of outputs."""
    if outputs not in seen:
        chosen = [problem.outputs[x] for x in bits(outputs)]
        seen[outputs] = (
            sum(o.durable_bytes for o in chosen),
            sum(cost(o, weights) for o in chosen),
        )
    return seen[outputs]


def _insert(chain: tuple[Candidate, ...], candidate: Candidate) -> tuple[Candidate, ...] | None:
    """``chain`` with ``candidate`` in its place; None when they are not nested."""
    at = 0
    for c in chain:
        if c.inside == candidate.inside:
            return None
        if c.inside & ~candidate.inside == 0:
            at += 1
        elif candidate.inside & ~c.inside:
            return None
    return (*chain[:at], candidate, *chain[at:])


def _pool(problem: Problem, weights: Weights, budget: float) -> list[Candidate]:
    pool: dict[int, Candidate] = {}
    for order in ("end", "start"):
        for c in prefixes(problem, weights, order):
            if c.durable_bytes <= budget:
                pool[c.inside] = c
    if budget < INF or any(cost(o, weights) > 0 for o in problem.outputs):
        for c in _fills(problem, weights, budget):
            pool.setdefault(c.inside, c)
    return sorted(pool.values(), key=lambda c: -c.value)[:_POOL]


def _fills(problem: Problem, weights: Weights, budget: float) -> Iterator[Candidate]:
    """Greedy fills: boundary by boundary, the most value per durable byte first."""
    grow = _Growth(problem, weights)
    marks = sorted(set(problem.ttl_ms), reverse=True)
    step = max(1, len(marks) // _THRESHOLDS)
    empty = Candidate(0, 0.0, INF, 0.0, 0.0, 0)
    ends = [o.item for o in problem.outputs]
    alone = {i: grow.extend(empty, i) for i in set(ends)}
    density = sorted(alone, key=lambda i: -alone[i].gain / (alone[i].durable_bytes + 1.0))
    for mark in {*marks[::step], *marks[-1:]}:
        allowed = [i for i in density if problem.ttl_ms[i] >= mark][:_FILLERS]
        at = empty
        while True:
            allowed = [i for i in allowed if not at.inside >> i & 1]
            nexts = []
            for i in allowed:
                c = grow.extend(at, i)
                if c.durable_bytes <= budget:
                    worth = (c.gain - at.gain) * mark - (c.cost - at.cost)
                    nexts.append((worth / max(1.0, c.durable_bytes - at.durable_bytes), -i, c))
            if not nexts:
                break
            worth, _, at = max(nexts)
            if worth <= 0:
                break
            yield at


class _Growth:
    """Adds an item, with all that it implies, to a set; looks only at what changes."""

    def __init__(self, problem: Problem, weights: Weights) -> None:
        self._problem = problem
        self._per_byte = weights.temp
        self._per_start = weights.restart / problem.duration_ms if problem.duration_ms > 0 else 0.0
        self._outputs = [
            (o.item, o.readers, o.durable_bytes, cost(o, weights)) for o in problem.outputs
        ]
        self._closure: list[int] = []
        for i in range(problem.n):
            mask = 1 << i
            for p in bits(problem.parents[i]):
                mask |= self._closure[p]
            self._closure.append(mask)
        self._by_start = sorted(range(problem.n), key=problem.start_ms.__getitem__)
        self._first_start = problem.least_start_outside(0)
        self._made: dict[tuple[int, int], Candidate] = {}
        self._kept: list[Candidate] = []
        self._known_saved: dict[int, float] = {}
        self._touched: list[int] = [0] * problem.n  # outputs of an item, or read by it
        for x, output in enumerate(problem.outputs):
            for i in (output.item, *bits(output.readers)):
                if i < problem.n:
                    self._touched[i] |= 1 << x

    def extend(self, at: Candidate, item: int) -> Candidate:
        """``at`` with ``item``; fills of different thresholds begin alike, and share steps."""
        key = (id(at), item)
        found = self._made.get(key)
        if found is None:
            found = self._made[key] = self._extended(at, item)
            self._kept.append(at)  # ids are those of living objects only
        return found

    def _extended(self, at: Candidate, item: int) -> Candidate:
        # The innermost loop of advice: thousands of calls for a plan of 100 boundaries.
        problem = self._problem
        inside = at.inside | self._closure[item]
        gain, touched = at.gain, 0
        if self._per_start:
            gain -= self._per_start * self._saved(at.inside)
            gain += self._per_start * self._saved(inside)
        new = inside & ~at.inside
        while new:
            low = new & -new
            new ^= low
            i = low.bit_length() - 1
            gain += self._per_byte * problem.bytes[i]
            touched |= self._touched[i]
        outputs, durable, charged = at.outputs, at.durable_bytes, at.cost
        while touched:
            low = touched & -touched
            touched ^= low
            x = low.bit_length() - 1
            owner, readers, size, price = self._outputs[x]
            now = inside >> owner & 1 and readers & ~inside
            if bool(now) != bool(outputs & low):
                outputs ^= low
                if now:
                    durable += size
                    charged += price
                else:
                    durable -= size
                    charged -= price
        ttl = min(at.ttl_ms, problem.ttl_ms[item])
        return Candidate(inside, gain, ttl, durable, charged, outputs)

    def _saved(self, inside: int) -> float:
        found = self._known_saved.get(inside)
        if found is None:
            found = self._known_saved[inside] = self._start_outside(inside) - self._first_start
        return found

    def _start_outside(self, inside: int) -> float:
        start = self._problem.outside_start_ms
        for i in self._by_start:
            if not inside >> i & 1:
                start = min(start, self._problem.start_ms[i])
                break
        return start
