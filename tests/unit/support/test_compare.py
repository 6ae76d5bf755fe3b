"""Results are compared as multisets: floats with tolerance, all else exactly."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.compare import compare_rows

ROWS = st.lists(
    st.tuples(
        st.integers(0, 3),
        st.floats(-1e9, 1e9),
        st.floats(-1e9, 1e9),
        st.sampled_from(["a", "b", None]),
    )
)


@given(ROWS, st.randoms())
def test_order_and_last_digits_do_not_count(rows: list[Any], random: Any) -> None:
    shuffled = [(i, x * (1 + 1e-12), y, s) for i, x, y, s in rows]
    random.shuffle(shuffled)
    assert not compare_rows(rows, shuffled)


@given(ROWS.filter(bool), st.data())
def test_one_changed_value_counts(rows: list[Any], data: Any) -> None:
    position = data.draw(st.integers(0, len(rows) - 1))
    number, x, y, text = rows[position]
    changed = [*rows]
    changed[position] = (number, x, y + max(1.0, abs(y)) * 1e-6, text)
    assert compare_rows(rows, changed)


@pytest.mark.parametrize(
    ("expected", "actual"),
    [
        ([(1,)], []),
        ([(1,), (1,), (2,)], [(1,), (2,), (2,)]),
        ([(Decimal("1.10"),)], [(Decimal("1.11"),)]),
        ([(None,)], [(0,)]),
        ([(1.0,)], [(float("nan"),)]),
        ([([1.0, 2.0],)], [([2.0, 1.0],)]),
        ([(1.0, 2.0), (3.0, 4.0)], [(1.0, 4.0), (3.0, 2.0)]),
    ],
)
def test_differences(expected: list[Any], actual: list[Any]) -> None:
    assert compare_rows(expected, actual).message


@pytest.mark.parametrize(
    "rows", [[(float("nan"),)], [(Decimal("1.10"), [1.5, None])], [({"a": 1.0},)], []]
)
def test_equal_to_itself(rows: list[Any]) -> None:
    assert not compare_rows(rows, list(rows))
