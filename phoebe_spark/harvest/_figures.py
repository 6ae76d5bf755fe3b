"""Quantiles of a figure over a stage's tasks, in bounded memory.

Exact up to `EXACT` tasks; beyond, values are counted in classes less than 1 % wide. The result
depends only on the values, never on their order, so a live run and its event log agree.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections import Counter
from dataclasses import dataclass, field
from itertools import accumulate

EXACT = 20_000
_CLASS_BITS = 7  # 128 classes for each power of two


@dataclass(slots=True)
class Figures:
    """Non-negative integers, one per task."""

    total: int = 0
    largest: int = 0
    count: int = 0
    _values: array[int] = field(default_factory=lambda: array("q"))
    _classes: Counter[int] | None = None

    def add(self, value: int) -> None:
        self.total += value
        self.count += 1
        if value > self.largest:
            self.largest = value
        if self._classes is not None:
            self._classes[_class(value)] += 1
            return
        self._values.append(value)
        if self.count > EXACT:
            self._classes = Counter(map(_class, self._values))
            self._values = array("q")

    def quantiles(self, *shares: float) -> tuple[int | None, ...]:
        """The nearest rank for each share from 0 to 1; None where there are no tasks."""
        if not self.count:
            return (None,) * len(shares)
        ranks = [min(self.count - 1, int(share * self.count)) for share in shares]
        if self._classes is None:
            ordered = sorted(self._values)
            return tuple(ordered[rank] for rank in ranks)
        classes = sorted(self._classes)
        upto = list(accumulate(self._classes[c] for c in classes))
        return tuple(_value(classes[bisect_right(upto, rank)]) for rank in ranks)


def _class(value: int) -> int:
    """Values below 256 have a class each; above, the first eight binary digits and the length."""
    cut = max(0, value.bit_length() - _CLASS_BITS - 1)
    return (cut << (_CLASS_BITS + 1)) | (value >> cut)


def _value(number: int) -> int:
    """The smallest value of a class."""
    cut, head = number >> (_CLASS_BITS + 1), number & ((1 << (_CLASS_BITS + 1)) - 1)
    return head << cut
