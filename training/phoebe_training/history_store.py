"""The history of all templates, on disk: `HistoryStore`, in ``<home>/history.sqlite``.

What `phoebe_spark.predict.history` says of a template rests on its last runs, a window of eight.
This keeps the windows of every template there ever was: a run is added once, whoever brings it and
in whatever order, and a run whose application turns out to have lost events is taken out again.
What such runs had pushed out of a window comes back: older runs are kept in reserve, and no
application takes more than one window. Drivers do not read this file, but what a bundle holds of it
(`phoebe_spark.predict.history_file`).
"""

from __future__ import annotations

import math
import sqlite3
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from statistics import median
from typing import Any, Literal

import orjson

from phoebe_spark.predict.history import FIGURES, KEEP, Past, figures_of, keys
from phoebe_spark.predict.history_file import Window
from phoebe_spark.predict.query import log_partitions, log_size
from phoebe_training.runs import Applications, Run
from phoebe_training.signature import foreign, is_signed, may_be_signed, objects, sign

FILE = "history.sqlite"

_WindowKind = Literal["stage", "execution", "shape"]

_VERSION = 1
"""Of what a run is kept under: since 1 it is the stages of its first plan. A file of another
version is made again, of the runs that the tables hold."""

_NO_DATABASE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_MAGIC = b"SQLite format 3\0"

# SQLite's own files beside a database: what is in them belongs to it.
_LOGS = ("-wal", "-shm", "-journal")

_TABLES = ("seen", "counts", "runs", "evicted", "forgotten")
_SCHEMA = """
CREATE TABLE IF NOT EXISTS seen (
  app TEXT, attempt TEXT, execution INTEGER, PRIMARY KEY (app, attempt, execution)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS counts (
  kind TEXT, key TEXT, count INTEGER NOT NULL, PRIMARY KEY (kind, key)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS runs (
  kind TEXT, key TEXT, at REAL, app TEXT, attempt TEXT, execution INTEGER, part INTEGER,
  value BLOB NOT NULL, PRIMARY KEY (kind, key, at, app, attempt, execution, part)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS evicted (
  kind TEXT, key TEXT, app TEXT, attempt TEXT, count INTEGER NOT NULL,
  PRIMARY KEY (kind, key, app, attempt)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS forgotten (
  app TEXT, attempt TEXT, PRIMARY KEY (app, attempt)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS runs_of_app ON runs (app, attempt);
"""

_COUNT = """INSERT INTO counts VALUES (?, ?, ?)
ON CONFLICT (kind, key) DO UPDATE SET count = count + excluded.count"""

_RESERVE = 3 * KEEP
"""Runs of one key that are kept in all: a window, and what may have to come back into it."""

_TOO_MANY = """SELECT at, app, attempt, execution, part FROM (
  SELECT at, app, attempt, execution, part FROM runs
  WHERE kind = ?1 AND key = ?2 AND app = ?3 AND attempt = ?4
  ORDER BY at DESC, execution DESC, part DESC LIMIT -1 OFFSET ?5
) UNION SELECT at, app, attempt, execution, part FROM (
  SELECT at, app, attempt, execution, part FROM runs WHERE kind = ?1 AND key = ?2
  ORDER BY at DESC, app DESC, attempt DESC, execution DESC, part DESC LIMIT -1 OFFSET ?6
)"""

_EVICTED = """INSERT INTO evicted VALUES (?, ?, ?, ?, 1)
ON CONFLICT (kind, key, app, attempt) DO UPDATE SET count = count + 1"""

# Of whom no run is left, none can be taken out any more.
_GONE = """DELETE FROM evicted WHERE kind = ?1 AND key = ?2 AND NOT EXISTS (
  SELECT 1 FROM runs WHERE runs.kind = ?1 AND runs.key = ?2
  AND runs.app = evicted.app AND runs.attempt = evicted.attempt
)"""


class HistoryStore:
    """The store of one home, which must be a local directory.

    >>> with HistoryStore(home) as store:
    ...     store.follow(runs, applications(frames))
    ...     content = history_file(store.stages(), store.task_times_ms())

    Several processes may write at once: what follows is one transaction. A file that is no database
    is put aside, under a free name that begins with ``history.sqlite.damaged``, and made again, of
    the runs that the tables hold. Raises `ForeignFileError` where the file is somebody else's
    database, and ``sqlite3.Error`` when it cannot be read or written.
    """

    def __init__(self, home: str | Path) -> None:
        self.path = Path(home) / FILE
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._open()
        except sqlite3.DatabaseError as error:
            if getattr(error, "sqlite_errorcode", None) not in _NO_DATABASE:
                raise self._named(error) from error
            self._put_aside(error)
            self._open()

    def _put_aside(self, error: sqlite3.DatabaseError) -> None:
        aside = _free(self.path.with_name(f"{FILE}.damaged"))
        print(
            f"phoebe: {self.path}: {error}; now {aside.name}, made again from the tables",
            file=sys.stderr,
        )
        self.path.replace(aside)
        for log in _LOGS:
            with suppress(FileNotFoundError):
                self.path.with_name(FILE + log).replace(aside.with_name(aside.name + log))

    def _open(self) -> None:
        _check_magic(self.path)
        self._db = sqlite3.connect(self.path, timeout=30.0, isolation_level=None)
        try:
            current = self._is_current()
            if not current and not self._is_ours():  # before the first change
                raise foreign(self.path)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")
            if not current:  # who only opens waits for no writer
                self._make()
        except BaseException:
            self._db.close()
            raise

    def _version(self) -> int:
        (found,) = self._db.execute("PRAGMA user_version").fetchone()
        return int(found)

    def _is_current(self) -> bool:
        return is_signed(self._db) and self._version() == _VERSION

    def _is_ours(self) -> bool:
        """A file without the signature is ours where it has our very tables, or nothing yet."""
        if is_signed(self._db):
            return True
        found = objects(self._db)
        return may_be_signed(self._db) and (not found or found == _made_objects())

    def _make(self) -> None:
        with self._transaction():
            if self._is_current():  # another process was first
                return
            if self._version() != _VERSION:
                for table in _TABLES:
                    self._db.execute(f"DROP TABLE IF EXISTS {table}")
            for statement in _SCHEMA.split(";"):
                self._db.execute(statement)
            sign(self._db)
            self._db.execute(f"PRAGMA user_version = {_VERSION}")

    def _named(self, error: sqlite3.Error) -> sqlite3.Error:
        return type(error)(f"{self.path}: {error}")

    def __enter__(self) -> HistoryStore:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    @contextmanager
    def adding(self) -> Iterator[None]:
        """One transaction: all that is added in it, or nothing."""
        try:
            with self._transaction():
                yield
        except sqlite3.Error as error:
            raise self._named(error) from error

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def follow(self, runs: Iterable[Run], applications: Applications) -> int:
        """Take in what the tables hold by now, in one transaction; how many runs were new."""
        with self.adding():
            self.readmit(applications.whole)
            added = sum(self.add(run) for run in runs)
            self.forget(applications.lossy)
        return added

    def add(self, run: Run) -> bool:
        """Add one finished execution; False if it is there."""
        who = (*run.app, run.execution_id)
        if not self._db.execute("INSERT OR IGNORE INTO seen VALUES (?, ?, ?)", who).rowcount:
            return False
        query = run.query
        at = run.ended_at.timestamp() / 86_400
        size = log_size(query)
        for stage in query.graph.stages:
            if stage.stage_id not in run.ran:
                continue
            past = Past(figures_of(stage), size, log_partitions(stage), at)
            for key in keys(query, stage):
                self._put("stage", key, at, who, stage.stage_id, past_to_json(past))
        total = sum(s.task_time_ms for s in query.graph.stages)
        self._put("execution", query.template, at, who, 0, [run.duration_ms, total])
        if run.shape:
            self._put("shape", run.shape, at, who, 0, run.duration_ms)
        return True

    def _put(
        self,
        kind: _WindowKind,
        key: str,
        at: float,
        who: tuple[str, str, int],
        part: int,
        value: Any,
    ) -> None:
        row = (kind, key, at, *who, part, orjson.dumps(value))
        self._db.execute("INSERT OR REPLACE INTO runs VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
        self._db.execute(_COUNT, (kind, key, 1))
        old = self._db.execute(_TOO_MANY, (kind, key, who[0], who[1], KEEP, _RESERVE)).fetchall()
        for run in old:
            self._db.execute(
                "DELETE FROM runs WHERE kind = ? AND key = ? AND at = ? AND app = ? AND attempt = ?"
                " AND execution = ? AND part = ?",
                (kind, key, *run),
            )
            self._db.execute(_EVICTED, (kind, key, run[1], run[2]))
        if old:
            self._db.execute(_GONE, (kind, key))

    def forget(self, apps: Iterable[tuple[str, str]]) -> None:
        """Take out what an application did: it lost events, and its figures may be wrong. Its runs
        are not added again until `readmit`."""
        for app in apps:
            for kind, key, count in self._db.execute(
                "SELECT kind, key, sum(n) FROM ("
                "SELECT kind, key, 1 AS n FROM runs WHERE app = ?1 AND attempt = ?2 UNION ALL "
                "SELECT kind, key, count FROM evicted WHERE app = ?1 AND attempt = ?2"
                ") GROUP BY 1, 2",
                app,
            ).fetchall():
                self._db.execute(_COUNT, (kind, key, -count))
            self._db.execute("DELETE FROM runs WHERE app = ? AND attempt = ?", app)
            self._db.execute("DELETE FROM evicted WHERE app = ? AND attempt = ?", app)
            self._db.execute("INSERT OR IGNORE INTO forgotten VALUES (?, ?)", app)

    def readmit(self, apps: Iterable[tuple[str, str]]) -> None:
        """Let runs in again of applications that were forgotten: a whole log of them was read."""
        for app in apps:
            if self._db.execute(
                "DELETE FROM forgotten WHERE app = ? AND attempt = ?", app
            ).rowcount:
                self._db.execute("DELETE FROM seen WHERE app = ? AND attempt = ?", app)

    def stages(self) -> Iterator[Window]:
        """The window of every key."""
        for key, count, values in self._windows("stage"):
            yield Window(key, count, [past_from_json(value) for value in values])

    def task_times_ms(self) -> Iterator[tuple[str, list[float]]]:
        """Total task times of the last runs of every whole template, ms, oldest first."""
        for template, _, values in self._windows("execution"):
            yield template, [task_time_ms for _, task_time_ms in values]

    def shapes(self) -> dict[str, float]:
        """The median duration of every plan shape, ms."""
        return {shape: median(durations) for shape, _, durations in self._windows("shape")}

    def _windows(self, kind: _WindowKind) -> Iterator[tuple[str, int, list[Any]]]:
        """Each key with the count of its runs and its window, oldest first."""
        with closing(self._db.cursor()) as cursor:
            rows = cursor.execute(
                "SELECT key, count, value FROM (SELECT *, row_number() OVER (PARTITION BY key "
                "ORDER BY at DESC, app DESC, attempt DESC, execution DESC, part DESC) AS newer "
                "FROM runs WHERE kind = ?1) JOIN counts USING (kind, key) WHERE newer <= ?2 "
                "ORDER BY key, newer DESC",
                (kind, KEEP),
            )
            for (key, count), runs in groupby(rows, key=itemgetter(0, 1)):
                yield key, count, [orjson.loads(value) for _, _, value in runs]


def _made_objects() -> dict[str, str]:
    with closing(sqlite3.connect(":memory:")) as db:
        db.executescript(_SCHEMA)
        return objects(db)


def _check_magic(path: Path) -> None:
    """SQLite would remove the log beside a file that it cannot read."""
    try:
        with path.open("rb") as file:
            head = file.read(len(_MAGIC))
    except OSError:  # SQLite says what is wrong
        return
    if head and head != _MAGIC:
        error = sqlite3.DatabaseError("file is not a database")
        error.sqlite_errorcode = sqlite3.SQLITE_NOTADB
        raise error


def _free(path: Path) -> Path:
    """``path``, or the next name after it that is free; a file is put there to keep it."""
    number = 0
    while True:
        free = path if number == 0 else path.with_name(f"{path.name}.{number}")
        if not any(free.with_name(free.name + log).exists() for log in _LOGS):
            with suppress(FileExistsError):
                free.touch(exist_ok=False)
                return free
        number += 1


def past_to_json(past: Past) -> dict[str, Any]:
    return {
        "figures": dict(past.figures),
        "log_size": _null(past.log_size),
        "log_partitions": _null(past.log_partitions),
        "at": _null(past.at),
    }


def past_from_json(data: Mapping[str, Any]) -> Past:
    figures = {figure: data["figures"][figure] for figure in FIGURES}
    return Past(figures, _nan(data["log_size"]), _nan(data["log_partitions"]), _nan(data["at"]))


def _null(value: float) -> float | None:
    return None if math.isnan(value) else value


def _nan(value: float | None) -> float:
    return math.nan if value is None else value
