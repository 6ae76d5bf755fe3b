"""When two runs count as the same."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.exactness import judge
from tests.exactness.cases import Case, Change, Mishap, Run
from tests.exactness.worker import rows_of

_CASE = Case([], Run({"k": "scan", "name": "t"}), Run({"k": "scan", "name": "t"}))


def _rows(*rows: list[Any]) -> dict[str, Any]:
    return {"rows": [rows_of(rows)], "counts": {}}


@pytest.mark.parametrize(
    ("expected", "actual", "same"),
    [
        ([[1, "a"], [2, None]], [[2, None], [1, "a"]], True),
        ([[1], [1]], [[1]], False),
        ([[0.1]], [[0.1 + 1e-15]], True),
        ([[0.1]], [[0.1001]], False),
        ([[0.0]], [[-0.0]], False),
        ([[float("nan")]], [[float("nan")]], True),
        ([[float("nan")]], [[1.0]], False),
        ([[1]], [["1"]], False),
        ([[[1, None]]], [[[1, None]]], True),
        ([[{"a": 1, "b": 2}]], [[{"b": 2, "a": 1}]], True),
    ],
)
def test_rows(expected: list[list[Any]], actual: list[list[Any]], same: bool) -> None:
    assert (judge.difference(_rows(*expected), _rows(*actual)) is None) == same


def test_failures_count_where_the_other_run_has_none() -> None:
    error = {"error": "Py4JJavaError: boom", "counts": {}}
    assert judge.difference(error, dict(error)) is None
    assert judge.difference(_rows([1]), error) == ("failed", error["error"])
    said = judge.difference(error, _rows([1]))
    assert said is not None
    assert said[0] == "wrong"


def test_every_run_with_the_plugin_is_judged() -> None:
    outcomes = {run: _rows([1]) for run in ("plain", "write", "restore", "second", "second_plain")}
    assert judge.findings(_CASE, outcomes) == []
    outcomes["second"] = _rows([2])
    outcomes["write"] = {**_rows([1]), "counts": {"failed.commit": 1}}
    assert [(f.kind, f.run) for f in judge.findings(_CASE, outcomes)] == [
        ("internal", "write"),
        ("wrong", "second"),
    ]


def test_a_write_that_races_with_a_change_is_not_judged() -> None:
    racing = Case([], _CASE.first, _CASE.second, Change("touch", moment="running_write"))
    outcomes = {"plain": _rows([1]), "write": _rows([2])}
    assert judge.findings(racing, outcomes) == []
    assert judge.findings(_CASE, outcomes)


def test_what_is_documented_is_told_apart_where_the_driver_holds_nothing() -> None:
    damaged = replace(_CASE, mishap=Mishap("lost", running=True))
    error = {"error": "Py4JJavaError: DamagedCheckpointException: gone", "counts": {}}
    outcomes = {"second": error, "second_plain": _rows([1])}

    def kinds(case: Case, is_held: bool) -> list[str]:
        return [finding.kind for finding in judge.findings(case, outcomes, is_held)]

    assert kinds(damaged, is_held=False) == ["typed"]
    assert kinds(damaged, is_held=True) == ["failed"]
    assert kinds(_CASE, is_held=False) == ["failed"]


def test_restored_is_what_either_application_restored() -> None:
    one = {"restore": {"counts": {"checkpoints.restored": 1}}, "second": {"counts": {}}}
    assert judge.restored(one)
    assert not judge.restored({"write": {"counts": {"checkpoints.committed": 1}}})
