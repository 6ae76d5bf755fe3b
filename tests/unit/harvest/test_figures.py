"""Quantiles: exact for ordinary stages, within 1 % for enormous ones, whatever the order."""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phoebe_spark.harvest import _figures
from phoebe_spark.harvest._figures import EXACT, Figures

SHARES = (0.0, 0.5, 0.9, 1.0)


def made(values: Iterable[int]) -> Figures:
    figures = Figures()
    for value in values:
        figures.add(value)
    return figures


@given(st.lists(st.integers(0, 2**62), max_size=50))
def test_few_values_are_exact(values: list[int]) -> None:
    figures, ordered = made(values), sorted(values)
    expected = [ordered[min(len(ordered) - 1, int(s * len(ordered)))] for s in SHARES if ordered]
    assert list(figures.quantiles(*SHARES)) == (expected or [None] * 4)
    assert (figures.total, figures.count) == (sum(values), len(values))
    assert figures.largest == max(values, default=0)


@given(st.lists(st.integers(0, 2**62), min_size=20, max_size=100), st.randoms())
def test_many_values_are_close_in_any_order(values: list[int], mixer: random.Random) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_figures, "EXACT", 10)
        one = made(values).quantiles(*SHARES)
        mixer.shuffle(values)
        assert made(values).quantiles(*SHARES) == one
    for share, found in zip(SHARES, one, strict=True):
        true = sorted(values)[min(len(values) - 1, int(share * len(values)))]
        assert found is not None
        assert true * 0.99 - 1 <= found <= true


def test_a_million_tasks_take_little_memory() -> None:
    figures = made(range(1_000_000))
    assert len(figures._values) == 0
    assert figures._classes is not None
    assert len(figures._classes) < EXACT / 10
    (median,) = figures.quantiles(0.5)
    assert median is not None
    assert 495_000 <= median <= 500_000
