"""The history of all templates follows the tables: each run once, in whatever order they come."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from phoebe_training.data import read_frames
from phoebe_training.history_store import HistoryStore
from phoebe_training.runs import applications, build_runs

from phoebe_spark.tables.deltalake import Tables
from phoebe_spark.tables.records import ApplicationRecord
from tests.unit.training.test_pipeline import TEMPLATES, day


def follow(home: Path) -> int:
    frames = read_frames(home)
    with HistoryStore(home) as store:
        return store.follow(build_runs(frames), applications(frames))


def test_each_run_is_added_once(tmp_path: Path) -> None:
    tables = Tables(tmp_path)
    for number in range(3):
        tables.append(day(number, 50.0))
    assert follow(tmp_path) == 3 * len(TEMPLATES)
    assert follow(tmp_path) == 0
    tables.append(day(3, 80.0))
    # Written long before the last reading, committed after it: a companion whose tables hung.
    tables.append(day(-40, 80.0))
    assert follow(tmp_path) == 2 * len(TEMPLATES)
    for table in ("executions", "stages"):
        tables.optimize(table)  # new files, no new rows
    assert follow(tmp_path) == 0
    with HistoryStore(tmp_path) as store:
        past = {window.key: window for window in store.stages()}["sales/e0"]
        assert past.count == 5
        assert past.runs == sorted(past.runs, key=lambda run: run.at)


def test_a_loss_that_is_told_later_takes_the_runs_out(tmp_path: Path) -> None:
    tables = Tables(tmp_path)
    rows = list(day(0, 50.0))
    tables.append(rows)
    tables.append(day(1, 50.0))
    assert follow(tmp_path) == 2 * len(TEMPLATES)
    (application,) = (row for row in rows if isinstance(row, ApplicationRecord))
    written_at = application.written_at.replace(year=2027)
    tables.append([replace(application, events_dropped=3, written_at=written_at)])
    assert follow(tmp_path) == 0
    with HistoryStore(tmp_path) as store:
        assert {window.count for window in store.stages()} == {1}
    # And a whole log of it brings them back.
    tables.append([replace(application, written_at=application.written_at.replace(year=2028))])
    assert follow(tmp_path) == len(TEMPLATES)
    with HistoryStore(tmp_path) as store:
        assert {window.count for window in store.stages()} == {2}
