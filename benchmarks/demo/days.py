"""The demo's input: one folder of tables per day, days of different sizes, and the job's queries.

A day's files are hard links to generated data, so each day has inputs of its own (as in life) at
no cost in disk or time.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from tests.support import tpc

REPORTS: tuple[str, ...] = ("tpch/q5", "tpch/q7", "tpch/q9", "tpch/q18", "tpch/q21")
"""TPC-H queries with most shuffle bytes over at least five shuffle stages."""


@dataclass(frozen=True, slots=True)
class Day:
    """A day's input at a TPC-H scale factor."""

    name: str
    scale_factor: float
    folder: Path


def make_day(root: Path, name: str, scale_factor: float) -> Day:
    """Generates (once) the data of ``scale_factor`` and links it as the day's own folder."""
    folder = root / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for table, source in tpc.tables(tpc.data("tpch", scale_factor)).items():
        os.link(source, folder / f"{table}.parquet")
    return Day(name, scale_factor, folder)


def write_reports(folder: Path) -> Path:
    """The job's queries as numbered ``.sql`` files; returns ``folder``."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for number, name in enumerate(REPORTS, start=1):
        (folder / f"{number:02d}_{name.rpartition('/')[2]}.sql").write_text(tpc.query(name))
    return folder
