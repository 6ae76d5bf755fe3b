"""Cases are drawn from a seed, are plain data, and reach every corner that the docs name."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from tests.exactness import sql
from tests.exactness.cases import Batch
from tests.exactness.draw import batches
from tests.exactness.generate import nudged

_DRAWN = batches(7, 20)
_CASES = [case for batch in _DRAWN for case in batch.cases]


def test_one_seed_draws_one_set_of_cases() -> None:
    assert [b.to_json() for b in batches(7, 2)] == [b.to_json() for b in batches(7, 2)]
    assert batches(8, 2)[1].to_json() != batches(7, 2)[1].to_json()


def test_a_batch_is_plain_data() -> None:
    for batch in _DRAWN:
        again = Batch.from_json(batch.to_json())
        assert again.to_json() == batch.to_json()
        assert [sql.query(c.first.query) for c in again.cases] == [
            sql.query(c.first.query) for c in batch.cases
        ]


def test_formats_changes_moments_and_ways_to_read_all_appear() -> None:
    assert {t.format for c in _CASES for t in c.tables} >= {"parquet", "csv", "json", "orc", "xml"}
    assert {t.made_by for c in _CASES for t in c.tables} == {"path", "global", "catalog"}
    assert {c.change.kind for c in _CASES} >= {"none", "rewrite", "touch", "append", "swap"}
    assert {c.change.moment for c in _CASES} >= {"between", "listed", "listed_write"}
    assert {c.first.action for c in _CASES} >= {"collect", "twice", "rdd", "rdd_after", "write"}
    assert any(f.bad for c in _CASES for t in c.tables for f in t.files)
    assert any(c.first.query != c.second.query for c in _CASES)
    assert any(c.first.settings != c.second.settings for c in _CASES)


def test_a_query_is_a_tree_whose_parts_can_be_replaced() -> None:
    for case in _CASES:
        query = case.first.query
        for path, node in sql.relations(query):
            assert sql.replaced(query, path, node) == query
        assert json.loads(json.dumps(query)) == query


@given(st.one_of(st.integers(-(2**31), 2**31), st.sampled_from(["a", "Ab", "z", ""])))
def test_a_nudged_value_takes_as_many_characters(value: int | str) -> None:
    assert len(str(nudged(value))) == len(str(value))
    if isinstance(value, int):
        assert nudged(value) != value
