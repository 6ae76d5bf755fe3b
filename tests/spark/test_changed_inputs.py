"""Inputs that change between a checkpoint and its restore, by an application of its own each."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.places import ROOT, spark_environment


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """What the second run says, with the plugin and without."""
    work = tmp_path_factory.mktemp("inputs") / "work"
    _run(work, 1, "apply")
    return _run(work, 2, "apply"), _run(work, 2, "off")


def _run(work: Path, number: int, mode: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.inputs_app", str(work), str(number), mode],
        cwd=ROOT,
        env=spark_environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


CASES = (
    "csv", "json", "xml", "unchanged", "same_time", "rewritten", "rewritten_same_time", "added",
    "removed", "of_another_session",
)  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_rows_are_those_of_a_plain_run(runs: tuple[Any, Any], case: str) -> None:
    restored, plain = runs
    assert restored["rows"][case] == plain["rows"][case]


def test_what_did_not_change_is_restored(runs: tuple[Any, Any]) -> None:
    """Two queries over each malformed file, and the one over the file that nobody touched."""
    restored, plain = runs
    assert set(plain["rows"]) == set(CASES)
    assert (restored["restored"], plain["restored"]) == (7, 0)
