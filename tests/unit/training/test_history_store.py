"""The history of all templates: the same as in memory, whatever the order; forgetful; and what a
bundle holds of it, which is read by the key."""

from __future__ import annotations

import math
import random
import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest
from phoebe_training.__main__ import main
from phoebe_training.history_store import HistoryStore
from phoebe_training.runs import Applications, Run

from phoebe_spark.errors import BundleDamaged, ForeignFileError
from phoebe_spark.predict.history import FIGURES, KEEP, History, Past, look_up, template_key
from phoebe_spark.predict.history_file import HistoryFile, Window, history_file
from tests.unit.predict.queries import baseline_predictor, query, unknown

DAY_ONE = datetime(2026, 3, 1, tzinfo=UTC)


def _day(
    store: HistoryStore, n: int, *, app: str | None = None, size: float = 10.0, known: bool = True
) -> bool:
    run = _run(n, app or f"app-{n}", 3, size, timedelta(days=n), 1000.0 + n, known=known)
    return store.add(run)


def _run(
    seed: int,
    app: str,
    execution_id: int,
    size: float,
    later: timedelta,
    duration_ms: float,
    *,
    known: bool = True,
) -> Run:
    at = DAY_ONE + later
    made = query("sales", size, random.Random(seed), known=known)
    ran = frozenset(stage.stage_id for stage in made.graph.stages)
    return Run(made, ran, "shape", duration_ms, (app, ""), execution_id, at, at)


def _held(store: HistoryStore) -> object:
    """All that a bundle would hold."""
    stages = {w.key: (w.count, [(p.figures, p.log_size) for p in w.runs]) for w in store.stages()}
    return stages, dict(store.task_times_ms()), store.shapes()


def _file(store: HistoryStore, folder: Path) -> HistoryFile:
    path = folder / "bundled # 1?.sqlite"
    path.write_bytes(history_file(store.stages(), store.task_times_ms()))
    path.chmod(0o444)
    return HistoryFile(path)


def test_the_same_as_in_memory_whatever_the_order(tmp_path: Path) -> None:
    days = list(range(KEEP + 4))
    memory = History()
    for n in days:
        memory.add(query("sales", 10.0, random.Random(n)))
    random.Random(1).shuffle(days)
    with HistoryStore(tmp_path) as store, store.adding():
        assert all(_day(store, n) for n in days)
        assert not any(_day(store, n) for n in days), "added once"
    with HistoryStore(tmp_path) as store:
        assert store.shapes() == {"shape": 1000.0 + KEEP - 0.5}
        bundled = _file(store, tmp_path)
    for template in ("sales", "unheard"):
        made = unknown(query(template, 10.0))
        from_memory, from_file = look_up(memory, made), look_up(bundled, made)
        level = {"sales": 2, "unheard": 0}[template]
        assert {at for _, at in from_file.values()} == {level}
        for stage_id, (past, at) in from_memory.items():
            found, also_at = from_file[stage_id]
            assert also_at == at
            if past is not None:
                assert found is not None
                assert found.count == past.count == KEEP + 4
                assert [p.figures for p in found.runs] == [p.figures for p in past.runs]
        assert bundled.task_times_ms(template) == memory.task_times_ms(template)
        predicted = [baseline_predictor(h).predict(made).graph for h in (memory, bundled)]
        assert predicted[0] == predicted[1]
    # What is known of a stage in one query speaks for it in another.
    elsewhere = type(made)(query("sales", 10.0).graph, {}, "unheard", 2)
    assert {at for _, at in look_up(bundled, elsewhere).values()} == {1}
    assert len(bundled.stages(template_key(s) for s in elsewhere.graph.stages)) == 5


def test_an_application_that_lost_events_is_forgotten(tmp_path: Path) -> None:
    with HistoryStore(tmp_path) as store:
        _day(store, 0, size=10.0)
        before = _held(store)
        _day(store, 1, app="lossy", size=10_000.0)
        assert _held(store) != before
        store.forget([("lossy", "")])
        assert _held(store) == before
        assert not _day(store, 1, app="lossy"), "and stays so"


def test_what_a_forgotten_application_pushed_out_comes_back(tmp_path: Path) -> None:
    """It ran one query again and again, and filled the window; its own runs are all taken out."""
    with HistoryStore(tmp_path) as store:
        for n in range(KEEP + 2):
            _day(store, n)
        before = _held(store)
        for n in range(2 * KEEP):
            store.add(_run(n, "lossy", n, 10_000.0, timedelta(days=90, hours=n), 9e9))
        assert _held(store) != before
        store.forget([("lossy", "")])
        assert _held(store) == before
        assert {(w.count, len(w.runs)) for w in store.stages()} == {(KEEP + 2, KEEP)}


def test_a_forgotten_application_of_which_a_whole_log_comes_is_let_in_again(tmp_path: Path) -> None:
    with HistoryStore(tmp_path) as store:
        _day(store, 0, app="late")
        before = _held(store)
        store.forget([("late", "")])
        store.readmit([("other", "")])
        assert not _day(store, 0, app="late")
        store.readmit([("late", "")])
        assert _day(store, 0, app="late")
        store.readmit([("late", "")])
        assert not _day(store, 0, app="late"), "once"
        assert _held(store) == before


def test_a_file_that_keeps_runs_under_other_names_is_made_again(tmp_path: Path) -> None:
    with HistoryStore(tmp_path) as store:
        assert _day(store, 0)
    with HistoryStore(tmp_path) as store:
        assert not _day(store, 0)
    with sqlite3.connect(tmp_path / "history.sqlite") as db:
        db.execute("PRAGMA user_version = 0")
    db.close()
    with HistoryStore(tmp_path) as store:
        assert list(store.stages()) == []
        assert _day(store, 0)


@pytest.mark.parametrize("content", [b"no history" * 1000, b"SQLite format 3\0" + b"x" * 100])
def test_a_file_that_is_no_database_is_put_aside_and_made_again(
    tmp_path: Path, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "history.sqlite").write_bytes(content)
    with HistoryStore(tmp_path) as store:
        assert _day(store, 0)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("phoebe: ")
    assert "history.sqlite: file is not a database" in line
    assert (tmp_path / "history.sqlite.damaged").read_bytes() == content
    with HistoryStore(tmp_path) as store:
        assert not _day(store, 0)


def test_what_was_put_aside_before_stays_and_the_log_goes_along(tmp_path: Path) -> None:
    kept = {".damaged": b"first", ".damaged.1-wal": b"somebody's"}
    for end, content in kept.items():
        (tmp_path / f"history.sqlite{end}").write_bytes(content)
    (tmp_path / "history.sqlite").write_bytes(b"no history")
    (tmp_path / "history.sqlite-wal").write_bytes(b"its log")
    with HistoryStore(tmp_path):
        pass
    kept |= {".damaged.2": b"no history", ".damaged.2-wal": b"its log"}
    found = {p.name[14:]: p.read_bytes() for p in tmp_path.iterdir() if ".damaged" in p.name}
    assert found == kept


@pytest.mark.parametrize("version", [0, 1])
@pytest.mark.parametrize("owner", [0, 7])
@pytest.mark.parametrize("table", ["runs (name TEXT)", "mine (name TEXT)"])
def test_another_programs_database_is_left_as_it_is(
    tmp_path: Path, version: int, owner: int, table: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "history.sqlite"
    with closing(sqlite3.connect(path)) as db:
        db.execute(f"CREATE TABLE {table}")
        db.execute(f"PRAGMA user_version = {version}")
        db.execute(f"PRAGMA application_id = {owner}")
    before = path.read_bytes()
    with pytest.raises(ForeignFileError, match=r"history\.sqlite is a file that phoebe_spark has"):
        HistoryStore(tmp_path)
    assert main(["--home", str(tmp_path)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("move it away, or name another home")
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [(path.name, before)]


def test_a_history_from_before_the_signature_is_taken_over(tmp_path: Path) -> None:
    with HistoryStore(tmp_path) as store:
        assert _day(store, 0)
    with closing(sqlite3.connect(tmp_path / "history.sqlite")) as db:
        db.execute("PRAGMA application_id = 0")
    with HistoryStore(tmp_path) as store:
        assert not _day(store, 0), "what it held is there"
    with closing(sqlite3.connect(tmp_path / "history.sqlite")) as db:
        assert db.execute("PRAGMA application_id").fetchone() != (0,)


def test_opening_waits_for_no_writer_and_an_error_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with HistoryStore(tmp_path) as writer, writer.adding():
        assert _day(writer, 0)
        connect = partial(sqlite3.connect, timeout=0.0, isolation_level=None)
        monkeypatch.setattr(sqlite3, "connect", lambda path, **_: connect(path))
        with HistoryStore(tmp_path) as other:
            assert list(other.stages()) == []
            with pytest.raises(sqlite3.OperationalError, match=r"history\.sqlite: .*locked"):
                other.follow([], Applications(frozenset(), frozenset()))


def test_a_job_that_cannot_write_the_history_says_so_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "history.sqlite").mkdir()
    assert main(["--home", str(tmp_path)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("history.sqlite: unable to open database file")


def test_what_is_not_known_of_a_run_comes_back_as_not_known(tmp_path: Path) -> None:
    with HistoryStore(tmp_path) as store:
        assert _day(store, 0, known=False)
        kept = [past for window in store.stages() for past in window.runs]
        bundled = _file(store, tmp_path)
    made = unknown(query("sales", 10.0))
    found = [past for past, _ in look_up(bundled, made).values() if past is not None]
    assert len(found) == 5
    for past in [*kept, *(run for stage in found for run in stage.runs)]:
        assert math.isnan(past.log_size)
        assert set(past.figures) == set(FIGURES)
        assert not any(map(math.isnan, [*past.figures.values(), past.at]))


def test_two_threads_ask_one_file(tmp_path: Path) -> None:
    with HistoryStore(tmp_path) as store:
        for n in range(KEEP):
            assert _day(store, n)
        bundled = _file(store, tmp_path)
        keys = [window.key for window in store.stages()]
    whole = bundled.stages(keys)
    with ThreadPoolExecutor(4) as threads:
        for found in threads.map(lambda _: bundled.stages(keys), range(40)):
            assert {k: s.count for k, s in found.items()} == {k: s.count for k, s in whole.items()}


def test_a_transaction_is_all_or_nothing(tmp_path: Path) -> None:
    with HistoryStore(tmp_path) as store:
        with pytest.raises(ZeroDivisionError), store.adding():
            assert _day(store, 0) / 0
        assert list(store.stages()) == []
        assert _day(store, 0)


def test_a_driver_reads_what_it_asks_for(tmp_path: Path) -> None:
    """Of a hundred thousand keys; the time of a look-up is printed with ``-s``."""
    run = Past(dict.fromkeys(FIGURES, 5.0), 1.0, 2.0, 3.0)
    count = 100_000

    def windows() -> Iterator[Window]:
        return (Window(f"t{n:06d}/e0", n, [run] * 3) for n in range(count))

    path = tmp_path / "history.sqlite"
    path.write_bytes(history_file(windows(), []))
    assert path.stat().st_size > 24e6
    before = _resident_bytes()
    history = HistoryFile(path)
    rng = random.Random(7)
    took = []
    for _ in range(300):
        asked = {f"t{(n := rng.randrange(count)):06d}/e0": n for _ in range(20)}
        began = time.perf_counter()
        found = history.stages(asked)
        took.append((time.perf_counter() - began) * 1000)
        assert {key: stage.count for key, stage in found.items()} == asked
        assert all(stage.runs == [run] * 3 for stage in found.values())
    print(f"20 of {count} keys: p50 {sorted(took)[150]:.3f} ms, p99 {sorted(took)[297]:.3f} ms")
    assert _resident_bytes() - before < 10e6
    plan = sqlite3.connect(path).execute("EXPLAIN QUERY PLAN SELECT * FROM stages WHERE key IN (1)")
    assert "SEARCH" in str(plan.fetchall())
    assert len(history.stages(f"t{n:06d}/e0" for n in range(5_000))) == 5_000


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.parametrize("content", [b"", b"no history" * 1000, b"SQLite format 3\0" + b"x" * 100])
def test_what_is_no_history_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "history.sqlite"
    path.write_bytes(content)
    with pytest.raises(BundleDamaged, match=r"history\.sqlite"):
        HistoryFile(path)
    with pytest.raises(BundleDamaged):
        HistoryFile(tmp_path / "gone.sqlite")
