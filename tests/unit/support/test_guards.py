"""Each nightly test names one of every run that guards the same."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import orjson
import pytest

from tests.support import guards
from tests.support.guards import Collected
from tests.support.places import ROOT

_COLLECTS = """
import sys, orjson, pytest
from tests.support.guards import Collector
collector = Collector()
code = pytest.main(["--collect-only", "-qq", "-p", "no:cacheprovider", *sys.argv[2:]], [collector])
with open(sys.argv[1], "wb") as file:
    file.write(orjson.dumps([(one.name, one.guarded_by) for one in collector.found]))
sys.exit(code)
"""


def test_what_guards_a_nightly_test_is_there_and_runs_always(tmp_path: Path) -> None:
    """As pytest collects them, parameters and all; in a process of its own."""
    told = tmp_path / "collected.json"
    files = sorted(guards.files(ROOT / "tests"))
    done = subprocess.run(
        [sys.executable, "-c", _COLLECTS, told, *files],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    collected = [Collected(*one) for one in orjson.loads(told.read_bytes())]
    assert sum(one.guarded_by is not None for one in collected) >= 15
    assert guards.unguarded(ROOT, collected) == {}


A = "tests/unit/test_a.py"


@pytest.mark.parametrize(
    ("guard", "why"),
    [
        (f"{A}::test_short", ""),
        (f"{A}::test_sizes[1]", ""),
        ("ASuite::memory is bounded", ""),
        ("", "names no test"),
        (A, "names no test"),
        (f"{A}::test_gone", f"{A}::test_gone is not there"),
        ("ASuite::another", "ASuite::another is not there"),
        ("BSuite::memory is bounded", "BSuite::memory is bounded is not there"),
        (f"{A}::test_sizes", f"{A}::test_sizes is nightly itself"),
        (f"{A}::test_long", f"{A}::test_long is nightly itself"),
    ],
)
def test_a_guard_that_guards_nothing_is_named(tmp_path: Path, guard: str, why: str) -> None:
    suite = tmp_path / "listeners" / "src" / "test" / "scala" / "ASuite.scala"
    suite.parent.mkdir(parents=True)
    suite.write_text('test("memory is bounded") { }\n')
    every = [
        Collected(f"{A}::test_long", guard),
        Collected(f"{A}::test_short", None),
        Collected(f"{A}::test_sizes[1]", None),
        Collected(f"{A}::test_sizes[1000]", f"{A}::test_sizes[1]"),
    ]
    found = guards.unguarded(tmp_path, every)
    assert found == ({f"{A}::test_long": why} if why else {})
