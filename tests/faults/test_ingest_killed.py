"""``phoebe ingest`` is killed anywhere and run again: the tables end as if it never had been."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from phoebe_spark.ingest.run import ingest
from phoebe_spark.tables.deltalake import Tables
from phoebe_spark.tables.rows import RECORDS
from tests.support.places import ROOT

LOGS = ROOT / "tests" / "data" / "eventlogs"
NAMES = ("01-tpch-sf0.1-p8.zstd", "11-tpch-sf1-p32.zstd", "spark-3.5.7.gz", "README.md")
KILLS = 4


def contents(home: Path) -> dict[str, list[dict[str, Any]]]:
    """The current rows of all tables but for when they were written."""
    found = {}
    for table, record in RECORDS.items():
        rows = Tables(home).read(table).to_pylist()
        for row in rows:
            del row["written_at"]
        found[table] = sorted(rows, key=lambda row: [str(row[name]) for name in record.KEY])
    return found


def written(home: Path) -> int:
    """Files of all tables and of their logs, also those that no commit names."""
    return sum(len(names) for _, _, names in os.walk(home))


def started(logs: Path, home: Path, *options: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", "from phoebe_spark.cli import main; main()", "ingest", str(logs),
         "--home", str(home), "--json", *options],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip


@pytest.mark.parametrize("options", [(), ("--parallel", "2")])
def test_killed_anywhere_and_run_again(tmp_path: Path, options: tuple[str, ...]) -> None:
    whole, home, logs = tmp_path / "whole", tmp_path / "home", tmp_path / "logs"
    logs.mkdir()
    for name in NAMES:
        shutil.copy(LOGS / name, logs)
    assert started(logs, whole, *options).wait() == 1, "the README is no log"
    files, chance = written(whole), random.Random(len(options))
    for turn in range(KILLS):
        # By what is written, not by the clock: how long a run takes differs from run to run.
        until = files * (turn + chance.random()) / (KILLS + 1)
        process = started(logs, home, *options)
        while written(home) < until and process.poll() is None:
            time.sleep(0.002)
        time.sleep(chance.uniform(0.0, 0.02))
        assert process.poll() is None, "it wrote less than a run that nobody kills"
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    summary = ingest([logs], home)
    assert summary.applications + summary.skipped == summary.files - len(summary.errors)
    assert contents(home) == contents(whole)
    assert ingest([logs], home).rows == 0
