"""The oracle's integer program against plain enumeration of all nested cuts on small graphs."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

import pytest

from benchmarks.oracle import Objective, TrueStage, best, through, value


def _graph(seed: int, n: int) -> list[TrueStage]:
    rng = random.Random(seed)
    ends: list[float] = []
    found: list[TrueStage] = []
    for u in range(n):
        parents = tuple(p for p in range(u) if rng.random() < 0.4)
        if u == n - 1:  # the result reads whatever nobody else does
            read = {p for s in found for p in s.parents}
            parents = tuple(sorted({*parents, *(p for p in range(u) if p not in read)}))
        start = max((ends[p] for p in parents), default=0.0) + rng.random() * 2
        ends.append(start + rng.random() * 10)
        broadcast = u < n - 1 and rng.random() < 0.2
        found.append(
            TrueStage(
                u,
                parents,
                0.0 if broadcast or u == n - 1 else rng.choice([0, 1, 5, 20]) * 1e6,
                start,
                ends[u],
                0.0,
                eligible=rng.random() < 0.8,
                carries="other" if broadcast or u == n - 1 else "shuffle",
            )
        )
    last = max(ends)
    return [
        TrueStage(
            s.stage_id, s.parents, s.output_bytes, s.start_s, s.end_s, last - s.end_s, s.eligible,
            s.carries,
        )
        for s in found
    ]  # fmt: skip


def _enumerated(
    stages: Sequence[TrueStage], objective: Objective, budget: float, max_cuts: int, last: float
) -> float:
    kept = through(stages)
    readers = {u: {v for v, s in kept.items() if u in s.parents} for u in kept}
    inner = [u for u in kept if readers[u]]
    closed = [
        frozenset(z)
        for size in range(1, len(inner) + 1)
        for z in itertools.combinations(inner, size)
        if all(set(kept[u].parents) <= set(z) for u in z)
    ]
    most = 0.0
    for count in range(1, max_cuts + 1):
        for chain in itertools.combinations(sorted(closed, key=len), count):
            if not all(a < b for a, b in itertools.pairwise(chain)):
                continue
            durable = {u for z in chain for u in z if readers[u] - z}
            if any(not kept[u].eligible for u in durable):
                continue
            if sum(kept[u].output_bytes for u in durable) <= budget:
                most = max(most, value(stages, chain, objective, last))
    return most


@pytest.mark.parametrize(("objective", "last"), [("temp", 1.0), ("restart", 1.0), ("restart", 0.3)])
@pytest.mark.parametrize("seed", range(12))
def test_program_is_as_good_as_enumeration(seed: int, objective: Objective, last: float) -> None:
    stages = _graph(seed, 7)
    total = sum(s.output_bytes for s in stages)
    for share, cuts in ((0.2, 1), (0.5, 2), (1.0, 3)):
        found = best(stages, objective, share * total, cuts, last=last)
        expected = _enumerated(stages, objective, share * total, cuts, last)
        assert found.value == pytest.approx(expected, rel=1e-6, abs=1e-6)
        assert len(found.cuts) <= cuts


def test_failures_that_come_late_are_worth_a_late_cut() -> None:
    stages = [
        TrueStage(i, (i - 1,) if i else (), 1.0, 2.0 * i, 2.0 * i + 2, 8.0 - 2 * i, eligible=True)
        for i in range(5)
    ]
    assert best(stages, "restart", 9.0, 1).cuts == (frozenset({0, 1}),)  # 4 s, in 6 of 10 cases
    late = best(stages, "restart", 9.0, 1, last=0.2)
    assert late.cuts == (frozenset({0, 1, 2, 3}),)
    assert late.value == pytest.approx(8.0)  # no failure comes before it


def test_nothing_to_cut() -> None:
    only = [TrueStage(0, (), 0.0, 0.0, 1.0, 0.0, eligible=False, carries="other")]
    assert best(only, "temp", 1e9).checkpointed == frozenset()
