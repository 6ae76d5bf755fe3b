"""How the bench ``fingerprint`` counts, on made-up applications."""

from __future__ import annotations

import json
from typing import Any

from benchmarks.fingerprint import _read, _result
from benchmarks.fingerprint_mutations import _changes


def exchange(identity: str, hash_: str | None, code: str | None = None) -> dict[str, Any]:
    return {"identity": identity, "hash": hash_, "code": code}


def application(*passes: tuple[bool, list[dict[str, Any]]]) -> Any:
    """One that ran the query ``q``: passes as (whole, exchanges)."""
    said = [{"agrees": True, "whole": whole, "exchanges": found} for whole, found in passes]
    return dict(_read([json.dumps({"query": "q", "failed": False, "passes": said})]))


def test_each_way_not_to_be_stable_counts() -> None:
    first = [
        exchange("good", "1"),
        exchange("moves", "2"),
        exchange("elsewhere", "3"),
        exchange("refused", None, "udf"),
        exchange("random", None, "nondeterministic"),
    ]
    later = [exchange("good", "1"), exchange("moves", "9"), exchange("new", "8")]
    there = [exchange("good'", "1"), exchange("moves'", "2"), exchange("elsewhere'", "7")]
    result = _result(application((True, first), (False, later)), application((True, there)), {})
    figures = result.figures
    assert figures["exchanges"] == 5
    assert figures["refused"] == 2 / 5
    assert figures["refused_by_nature"] == 1 / 5
    assert figures["stable"] == 2 / 5
    where = {u["exchange"]: u["where"] for u in figures["unstable"]}
    assert where == {"moves": "re-plan", "elsewhere": "application"}


def test_an_exchange_that_moves_in_the_other_application_counts_once_more() -> None:
    one = application((True, [exchange("a", "1")]))
    other = application((True, [exchange("b", "1")]), (False, [exchange("b", "2")]))
    figures = _result(one, other, {}).figures
    assert figures["stable"] == 0
    assert figures["unstable"][0]["where"] == "re-plan of the other application"


def test_an_exchange_reused_for_another_one_is_stable() -> None:
    """Reuse gives an exchange the columns of another one with the same rows."""
    first = [exchange("a", "1"), exchange("b", "1")]
    one = application((True, first), (False, [exchange("a", "1"), exchange("a", "1")]))
    assert _result(one, one, {}).figures["stable"] == 1


def test_changes_leave_quoted_words_and_names_alone() -> None:
    text = "select sum(a1) from t where b >= 12 and c = 'x and 3' and d < '1999-01-31'"
    changes = dict(_changes(text))
    assert changes["number"] == text.replace("12", "13")
    assert changes["and for or"].count("'x and 3'") == 1
    assert "'2000-01-31'" in changes["string"]
    assert all(changed != text for _, changed in _changes(text))
