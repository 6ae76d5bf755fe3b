"""What an ended test says of a breakage, and what becomes of one that does not end."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.breakages.applied import HUNG, a_test_failed, run_to_end
from tests.support.waiting import until

_HANGS = "trap '' INT; sleep 600 & echo $!; wait"


@pytest.mark.parametrize(
    ("said", "failed"),
    [
        ("1 failed, 3 passed in 2.10s", True),
        ("==== 12 failed, 1 error in 2.10s ====", True),
        ("*** 1 TEST FAILED ***", True),
        ("*** 2 TESTS FAILED ***", True),
        ("3 passed, 1 error in 2.10s", False),
        ("*** 1 SUITE ABORTED ***", False),
        ("Tests: succeeded 4, failed 0, canceled 0", False),
        ("*** 0 TESTS FAILED ***", False),
        ("", False),
    ],
)
def test_a_failed_test_is_told_from_what_never_ran(said: str, failed: bool) -> None:
    assert a_test_failed(said) is failed


def test_an_end_is_told_with_its_output(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "print('said'); raise SystemExit(3)"]
    assert run_to_end(command, tmp_path, dict(os.environ)) == (3, "said\n")


def test_what_hangs_is_killed_with_all_that_it_started(tmp_path: Path) -> None:
    code, said = run_to_end(["sh", "-c", _HANGS], tmp_path, dict(os.environ), timeout_s=2)
    assert code == HUNG
    child = int(said)
    until(lambda: not _runs(child), "what it started ends")


def _runs(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
