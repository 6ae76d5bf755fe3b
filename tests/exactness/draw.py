"""Draws batches of cases. Seeded; Hypothesis is the source of chance.

Weights are the same for every run, whatever it looks for.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tests.exactness.cases import Batch, Case
from tests.exactness.families import FAMILIES
from tests.exactness.generate import case
from tests.exactness.queries import Pick

T = TypeVar("T")

CASES_PER_BATCH = 24
_OF_A_FAMILY = 55
"""Percent."""


class _Drawn:
    """``Pick`` on top of Hypothesis."""

    def __init__(self, draw: Any) -> None:
        self._draw = draw

    def one(self, of: Sequence[T]) -> T:
        return of[self.integer(0, len(of) - 1)]

    def integer(self, low: int, high: int) -> int:
        return int(self._draw(st.integers(low, high)))

    def chance(self, percent: int) -> bool:
        # The simplest draw is 0: it stands for what is plain.
        return self.integer(0, 99) >= 100 - percent


def any_case(pick: Pick, delta: bool) -> Case:
    return pick.one(FAMILIES)(pick, delta) if pick.chance(_OF_A_FAMILY) else case(pick, delta)


def _many(one: Callable[[Pick], T], seed_: int, count: int) -> list[T]:
    """``count`` draws of one kind."""
    found: list[T] = []

    @st.composite
    def drawn(draw: Any) -> T:
        return one(_Drawn(draw))

    @seed(seed_)
    @settings(
        max_examples=count + 1,
        phases=[Phase.generate],
        database=None,
        deadline=None,
        derandomize=False,
        suppress_health_check=list(HealthCheck),
    )
    @given(drawn())
    def collect(it: T) -> None:
        found.append(it)

    while len(found) <= count:
        collect()
    # Hypothesis begins with the simplest of all.
    return found[1 : count + 1]


def _empty_batch(pick: Pick) -> Batch:
    conf = {}
    if pick.chance(15):
        conf["spark.shuffle.compress"] = "false"
    if pick.chance(15):
        conf["spark.shuffle.sort.bypassMergeThreshold"] = "1"
    if pick.chance(10):
        conf["spark.io.compression.codec"] = pick.one(["zstd", "snappy"])
    return Batch(
        [],
        cores=[pick.one([2, 1, 2, 4]), pick.one([2, 2, 1, 3, 4])],
        delta=pick.chance(8),
        conf=conf,
    )


def batches(seed_: int, count: int, cases_each: int = CASES_PER_BATCH) -> list[Batch]:
    """``count`` batches; the same for the same arguments."""
    empty = _many(_empty_batch, seed_, count)
    found = []
    for n, batch in enumerate(empty):
        cases = _many(lambda pick, d=batch.delta: any_case(pick, d), seed_ * 1000 + n, cases_each)
        found.append(dataclasses.replace(batch, cases=cases))
    return found
