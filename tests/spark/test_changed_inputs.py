"""Inputs that change between a checkpoint and its restore: applications one after another."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.support.places import ROOT, spark_environment

RUNS = ("1:apply", "2:apply", "2:off")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """What the second run says, with the plugin and without."""
    work = tmp_path_factory.mktemp("inputs") / "work"
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.inputs_app", str(work), *RUNS],
        cwd=ROOT,
        env=spark_environment(),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    said = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    _, with_, without = said
    return with_, without


CASES = (
    "csv", "json", "xml", "unchanged", "same_time", "rewritten", "rewritten_same_time", "added",
    "removed", "of_another_session", "asked_twice", "asked_twice_kept",
)  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_rows_are_those_of_a_plain_run(runs: tuple[Any, Any], case: str) -> None:
    restored, plain = runs
    assert restored["rows"][case] == plain["rows"][case]


def test_what_did_not_change_is_restored(runs: tuple[Any, Any]) -> None:
    """Two queries over each malformed file, and the ones over files that are as they were."""
    restored, plain = runs
    assert set(plain["rows"]) == set(CASES)
    assert (restored["restored"], plain["restored"]) == (9, 0)
