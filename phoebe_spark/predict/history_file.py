"""The bundle's history: a SQLite file, of which a driver reads only the templates that it asks for.

A home may hold the past of a hundred thousand jobs, a driver runs one of them. One row is the
window of one key: a run is eight little-endian doubles, its figures (`FIGURES`, log1p), the logs of
its input size and partition count, and its end in days since the epoch; NaN is "not known".
"""

from __future__ import annotations

import sqlite3
import struct
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any
from urllib.parse import quote

from phoebe_spark.errors import BundleDamaged
from phoebe_spark.predict.history import FIGURES, Past, StageHistory

FILE = "history.sqlite"

_RUN = struct.Struct(f"<{len(FIGURES) + 3}d")
_SCHEMA = """
CREATE TABLE stages (key TEXT PRIMARY KEY, count INTEGER NOT NULL, runs BLOB NOT NULL);
CREATE TABLE executions (template TEXT PRIMARY KEY, task_times_ms BLOB NOT NULL);
"""
_AT_ONCE = 500  # keys of one statement; SQLite takes 999 in its oldest builds


@dataclass(frozen=True, slots=True)
class Window:
    """The last runs of one key, oldest first; ``count``: how many there were in all."""

    key: str
    count: int
    runs: Sequence[Past]


def history_file(
    stages: Iterable[Window], task_times_ms: Iterable[tuple[str, Sequence[float]]]
) -> bytes:
    """The file's content; ``task_times_ms`` by template of the whole plan."""
    # By way of a disk: not every build of SQLite can serialize what it holds in memory.
    with tempfile.TemporaryDirectory(prefix="phoebe-history-") as folder:
        path = Path(folder) / FILE
        with closing(sqlite3.connect(path)) as db:
            db.execute("PRAGMA journal_mode = OFF")
            db.execute("PRAGMA synchronous = OFF")
            db.executescript(_SCHEMA)
            db.executemany("INSERT INTO stages VALUES (?, ?, ?)", map(_row, stages))
            db.executemany(
                "INSERT INTO executions VALUES (?, ?)",
                ((key, struct.pack(f"<{len(times)}d", *times)) for key, times in task_times_ms),
            )
            db.commit()
        return path.read_bytes()


class HistoryFile:
    """The past of every template, read key by key (`phoebe_spark.predict.history.Histories`).

    Raises `BundleDamaged` where the file is none of these.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._one_at_a_time = Lock()
        # Immutable: nobody writes into a promoted bundle, and a read-only disk needs no lock file.
        uri = f"file:{quote(str(path.resolve()))}?mode=ro&immutable=1"
        try:
            # The thread that loads is not always the one that asks: calls are one at a time.
            self._db = sqlite3.connect(uri, uri=True, check_same_thread=False)
            self._rows("SELECT key, count, runs FROM stages LIMIT 0", ())
            self._rows("SELECT template, task_times_ms FROM executions LIMIT 0", ())
        except sqlite3.Error as error:
            raise self._damaged(error) from error

    def stages(self, keys: Iterable[str]) -> dict[str, StageHistory]:
        wanted = list(keys)
        found: dict[str, StageHistory] = {}
        try:
            for start in range(0, len(wanted), _AT_ONCE):
                some = wanted[start : start + _AT_ONCE]
                marks = ",".join("?" * len(some))
                asked = f"SELECT key, count, runs FROM stages WHERE key IN ({marks})"
                for key, count, runs in self._rows(asked, some):
                    found[key] = StageHistory(count, list(_pasts(runs)))
        except (sqlite3.Error, struct.error) as error:
            raise self._damaged(error) from error
        return found

    def task_times_ms(self, template: str) -> list[float]:
        try:
            rows = self._rows("SELECT task_times_ms FROM executions WHERE template = ?", [template])
        except sqlite3.Error as error:
            raise self._damaged(error) from error
        return [ms for (times,) in rows for (ms,) in struct.iter_unpack("<d", times)]

    def _rows(self, asked: str, values: Sequence[str]) -> list[Any]:
        with self._one_at_a_time:
            return self._db.execute(asked, values).fetchall()

    def _damaged(self, error: Exception) -> BundleDamaged:
        return BundleDamaged(f"{self._path} cannot be read: {error}")


def _row(window: Window) -> tuple[str, int, bytes]:
    runs = b"".join(
        _RUN.pack(*(past.figures[f] for f in FIGURES), past.log_size, past.log_partitions, past.at)
        for past in window.runs
    )
    return window.key, window.count, runs


def _pasts(runs: bytes) -> Iterator[Past]:
    for values in _RUN.iter_unpack(runs):
        figures = dict(zip(FIGURES, values, strict=False))
        yield Past(figures, *values[len(FIGURES) :])
