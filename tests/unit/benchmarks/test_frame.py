"""What every bench prints: common fields, valid JSON, and a reason for each missing figure."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest

from benchmarks import __main__ as runner
from benchmarks import frame
from benchmarks.frame import Options, Result, median_ratio, report


@pytest.fixture(autouse=True)
def _own_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frame, "BUILD", tmp_path)


def test_report_has_the_common_fields_and_explains_what_is_missing(tmp_path: Path) -> None:
    result = Result(
        {"a": 1 / 3, "b": None, "c": None, "d": float("nan")}, 5, {"b": "not built"}, ["part x"]
    )
    row = report(Options("some", tmp_path), result)
    assert {"name", "commit", "seconds", "machine", "repeats", "why_null", "skipped"} <= set(row)
    assert row["a"] == pytest.approx(1 / 3, rel=1e-5)
    assert row["why_null"] == {"b": "not built", "c": "not measured in this run"}
    assert row["d"] is None
    assert json.loads((tmp_path / "bench" / "some.json").read_text()) == row


def test_median_of_pairs() -> None:
    assert median_ratio([(2.0, 1.0), (9.0, 3.0), (1.0, 1.0)]) == 2.0
    assert median_ratio([(1.0, 0.0)]) is None


def test_every_name_is_a_bench() -> None:
    for name in runner.NAMES:
        assert callable(importlib.import_module(f"benchmarks.{name}").run)
