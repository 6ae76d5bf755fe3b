"""Draws batches of cases from a seed. Weights are the same for every run, whatever it looks for."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from typing import TypeVar

from tests.exactness.cases import HELD_BYTES, Batch, Case
from tests.exactness.families import FAMILIES
from tests.exactness.generate import case
from tests.exactness.queries import Pick

T = TypeVar("T")

CASES_PER_BATCH = 24
_OF_A_FAMILY = 70
"""Percent."""


class _Drawn:
    """``Pick`` of evenly spread, independent draws: what is alike finds the same faults twice."""

    def __init__(self, seed: str) -> None:
        self._random = random.Random(seed)

    def one(self, of: Sequence[T]) -> T:
        return of[self.integer(0, len(of) - 1)]

    def integer(self, low: int, high: int) -> int:
        return self._random.randint(low, high)

    def chance(self, percent: int) -> bool:
        return self._random.randrange(100) < percent


def any_case(pick: Pick, delta: bool) -> Case:
    return pick.one(FAMILIES)(pick, delta) if pick.chance(_OF_A_FAMILY) else case(pick, delta)


def _empty_batch(pick: Pick) -> Batch:
    conf = {}
    if pick.chance(15):
        conf["spark.shuffle.compress"] = "false"
    if pick.chance(15):
        conf["spark.shuffle.sort.bypassMergeThreshold"] = "1"
    if pick.chance(60):
        # What the driver holds of a store's bytes cannot be damaged.
        conf[HELD_BYTES] = "0"
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
    found = []
    for n in range(count):
        batch = _empty_batch(_Drawn(f"{seed_} {n}"))
        picks = [_Drawn(f"{seed_} {n} {m}") for m in range(cases_each)]
        cases = [any_case(pick, batch.delta) for pick in picks]
        found.append(dataclasses.replace(batch, cases=cases))
    return found
