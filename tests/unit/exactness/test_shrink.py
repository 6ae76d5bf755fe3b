"""A case that fails becomes small, in few looks."""

from __future__ import annotations

from tests.exactness import sql
from tests.exactness.cases import Batch, Case, size
from tests.exactness.draw import batches
from tests.exactness.shrink import shrunk, smaller

_CASES = [case for batch in batches(11, 15) for case in batch.cases]


def _fails(case: Case) -> bool:
    """As if every query with a join over a table of two rows failed under another time zone."""
    text = sql.query(case.second.query)
    rows = max(len(f.rows) for t in case.tables for f in t.files)
    return "JOIN" in text and rows > 1 and "spark.sql.session.timeZone" in case.second.settings


def test_a_failing_case_shrinks_to_what_makes_it_fail() -> None:
    failing = [c for c in _CASES if _fails(c)]
    assert failing
    looks = []
    for case in sorted(failing, key=size)[:2]:

        def fails(batch: Batch) -> list[bool]:
            looks.append(len(batch.cases))
            return [_fails(c) for c in batch.cases]

        least = shrunk(Batch([case]), fails, seconds=600).cases[0]
        assert _fails(least)
        assert size(least) < size(case)
        assert list(least.second.settings) == ["spark.sql.session.timeZone"]
        assert least.change.kind == "none"
        assert sql.size(least.second.query) < sql.size(case.second.query)
    assert max(looks) <= 12


def test_every_smaller_case_is_plain_data() -> None:
    for case in _CASES[:10]:
        for other in smaller(case):
            again = Batch.from_json(Batch([other]).to_json())
            assert again.to_json() == Batch([other]).to_json()
