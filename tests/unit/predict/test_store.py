"""The history of all templates: the same as in memory, whatever the order; fast; forgetful."""

from __future__ import annotations

import math
import random
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest

from phoebe_spark.predict.history import KEEP, History, Past, StageHistory, past_to_json
from phoebe_spark.predict.query import stage_key
from phoebe_spark.predict.store import HistoryStore
from tests.unit.predict.queries import query

DAY_ONE = datetime(2026, 3, 1, tzinfo=UTC)


def _day(store: HistoryStore, n: int, *, app: str | None = None, size: float = 10.0) -> bool:
    made = query("sales", size, random.Random(n))
    at = DAY_ONE + timedelta(days=n)
    return store.add(made, "shape", 1000.0 + n, (app or f"app-{n}", ""), 3, at)


def _without_times(history: History) -> Any:
    data = history.to_json()
    for stage in data["stages"].values():
        for run in stage["runs"]:
            del run["at"]
    return data


def test_the_same_as_in_memory_whatever_the_order(tmp_path: Path) -> None:
    days = list(range(KEEP + 4))
    memory = History()
    for n in days:
        memory.add(query("sales", 10.0, random.Random(n)), "shape", 1000.0 + n)
    random.Random(1).shuffle(days)
    with HistoryStore(tmp_path) as store, store.adding():
        assert all(_day(store, n) for n in days)
        assert not any(_day(store, n) for n in days), "added once"
    with HistoryStore(tmp_path) as store:
        assert _without_times(store.history()) == _without_times(memory)
        made = query("sales", 10.0)
        stage = made.graph.stages[0]
        past, level = store.lookup(made, stage)
        assert level == 2
        assert past is not None
        assert past.count == KEEP + 4
        assert past.median("output") == memory.stages[stage_key(made, stage)].median("output")
        assert store.lookup(query("unheard", 1.0), stage) == (
            store.stage(f"*/{stage.template}"),
            1,
        )


def test_count_last_median_spread_and_trend() -> None:
    """Task time doubles each day; the output stays, but for one day."""
    runs = [
        Past({"task_time": math.log1p(100.0 * 2**n), "output": math.log1p(o)}, 1.0, 1.0, 20.0 + n)
        for n, o in enumerate((50.0, 50.0, 5e9, 50.0, 60.0))
    ]
    history = StageHistory(12, runs)
    times = history.stats("task_time")
    assert (times.count, times.last) == (12, pytest.approx(1600.0))
    assert times.median == pytest.approx(400.0)
    assert times.trend == pytest.approx(math.log(2), rel=0.01)
    assert times.spread == pytest.approx(1.4826 * math.log(2), rel=0.01)
    output = history.stats("output")
    assert output.median == pytest.approx(50.0)
    assert output.spread == pytest.approx(0.0), "one strange day is no spread"
    assert output.trend == pytest.approx(0.0, abs=0.2)


def test_an_application_that_lost_events_is_forgotten(tmp_path: Path) -> None:
    with HistoryStore(tmp_path) as store:
        _day(store, 0, size=10.0)
        before = _without_times(store.history())
        _day(store, 1, app="lossy", size=10_000.0)
        assert _without_times(store.history()) != before
        store.forget([("lossy", "")])
        assert _without_times(store.history()) == before
        assert not _day(store, 1, app="lossy"), "and stays so"


def test_what_a_forgotten_application_pushed_out_comes_back(tmp_path: Path) -> None:
    """It ran one query again and again, and filled the window; its own runs are all taken out."""
    with HistoryStore(tmp_path) as store:
        for n in range(KEEP + 2):
            _day(store, n)
        before = _without_times(store.history())
        for n in range(2 * KEEP):
            made = query("sales", 10_000.0, random.Random(n))
            store.add(made, "shape", 9e9, ("lossy", ""), n, DAY_ONE + timedelta(days=90, hours=n))
        assert _without_times(store.history()) != before
        store.forget([("lossy", "")])
        assert _without_times(store.history()) == before
        made = query("sales", 10.0)
        past, _ = store.lookup(made, made.graph.stages[0])
        assert past is not None
        assert (past.count, len(past.runs)) == (KEEP + 2, KEEP)


def test_a_forgotten_application_of_which_a_whole_log_comes_is_let_in_again(tmp_path: Path) -> None:
    with HistoryStore(tmp_path) as store:
        _day(store, 0, app="late")
        before = _without_times(store.history())
        store.forget([("late", "")])
        store.readmit([("other", "")])
        assert not _day(store, 0, app="late")
        store.readmit([("late", "")])
        assert _day(store, 0, app="late")
        store.readmit([("late", "")])
        assert not _day(store, 0, app="late"), "once"
        assert _without_times(store.history()) == before


def test_a_transaction_is_all_or_nothing(tmp_path: Path) -> None:
    with HistoryStore(tmp_path) as store:
        with pytest.raises(ZeroDivisionError), store.adding():
            assert _day(store, 0) / 0
        assert store.history().stages == {}
        assert _day(store, 0)


def test_a_look_up_among_a_hundred_thousand_templates(tmp_path: Path) -> None:
    """Under 2 ms at p99, from the disk; printed with ``-s``."""
    figures = dict.fromkeys(("task_time", "output", "start", "end", "tasks"), 5.0)
    value = orjson.dumps(past_to_json(Past(figures, 1.0, 2.0, 3.0)))
    count = 100_000
    with HistoryStore(tmp_path) as store, store.adding():
        store._db.executemany(
            "INSERT INTO runs VALUES ('stage', ?, ?, 'a', '', ?, 0, ?)",
            ((f"t{n:06d}/e0", float(day), n, value) for n in range(count) for day in range(3)),
        )
        store._db.executemany(
            "INSERT INTO counts VALUES ('stage', ?, 3)", ((f"t{n:06d}/e0",) for n in range(count))
        )
    rng = random.Random(7)
    with HistoryStore(tmp_path) as store:
        took = []
        for _ in range(3000):
            key = f"t{rng.randrange(count):06d}/e0"
            began = time.perf_counter()
            found = store.stage(key)
            stats = found.stats("task_time") if found else None
            took.append((time.perf_counter() - began) * 1000)
            assert stats is not None
            assert stats.count == 3
    p99 = sorted(took)[int(0.99 * len(took))]
    print(f"look-up among {count} templates: p50 {sorted(took)[1500]:.3f} ms, p99 {p99:.3f} ms")
    assert p99 < 2.0
