"""Keeps the history of all templates up to date from the tables: `update`.

Only what was written since the last time is read, told by the tables' versions (not by clocks: rows
of several drivers do not come in the order of theirs). What was added before is not added again.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from phoebe_training.data import Frames, read_new
from phoebe_training.history_store import HistoryStore
from phoebe_training.runs import Run, build_runs


def update(home: str | Path) -> int:
    """Read what is new in the tables of ``home`` into its history; how many runs were added."""
    with HistoryStore(home) as store:
        frames, versions = read_new(home, store.versions)
        with store.adding():
            lossy = _lossy(frames)
            store.readmit(_applications(frames) - lossy)
            added = add(store, build_runs(frames))
            store.forget(lossy)
            store.read_until(versions)
    return added


def add(store: HistoryStore, runs: Iterable[Run]) -> int:
    """Add the runs that the store does not have; how many those were."""
    return sum(
        store.add(run.query, run.shape, run.duration_ms, run.app, run.execution_id, run.ended_at)
        for run in runs
    )


def _applications(frames: Frames) -> set[tuple[str, str]]:
    rows = frames.applications[["app_id", "app_attempt"]]
    return set(rows.itertuples(index=False, name=None))


def _lossy(frames: Frames) -> set[tuple[str, str]]:
    rows = frames.applications
    lost = rows[rows["events_dropped"].fillna(0) > 0]
    return set(lost[["app_id", "app_attempt"]].itertuples(index=False, name=None))
