"""Memory of `phoebe ingest` does not grow with the log."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.places import ROOT
from tests.support.repeated_log import write

SOURCE = ROOT / "tests" / "data" / "eventlogs" / "01-tpch-sf0.1-p8.zstd"
SCRIPT = """
import sys
from phoebe_spark.ingest.run import ingest
summary = ingest([sys.argv[1]], sys.argv[2])
assert (summary.applications, summary.incomplete, summary.errors) == (1, 0, ()), summary
status = open("/proc/self/status").read()
print(int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e6)
"""


def peak_mb(log: Path, home: Path) -> float:
    """The largest resident set of a process that ingests ``log``, megabytes."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(log), str(home)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return float(done.stdout)


@pytest.mark.nightly(
    guarded_by="tests/unit/companion/test_memory.py::test_one_stage_of_very_many_tasks[100000]"
)
@pytest.mark.parametrize("size", [500_000_000, 5_000_000_000])
def test_memory_is_flat(tmp_path: Path, size: int) -> None:
    short, long = tmp_path / "short.zstd", tmp_path / "long.zstd"
    write(SOURCE, short, size=size // 10, tasks=10)
    write(SOURCE, long, size=size, tasks=10)
    first = peak_mb(short, tmp_path / "a")
    assert peak_mb(long, tmp_path / "b") < 1.2 * first
    assert first < 300
