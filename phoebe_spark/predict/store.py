"""The history of all templates, on disk: `HistoryStore`, in ``<home>/history.sqlite``.

What `phoebe_spark.predict.history` says of a template rests on its last runs, a window of eight.
This keeps the windows of every template there ever was: a run is added once, whoever brings it and
in whatever order, a look-up is one indexed read, and a run whose application turns out to have lost
events is taken out again. Median and spread are exact over the window (no sketch: of eight values).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import orjson

from phoebe_spark.graph import Stage
from phoebe_spark.predict.history import (
    KEEP,
    ExecutionHistory,
    History,
    Past,
    StageHistory,
    figures_of,
    keys,
    past_from_json,
    past_to_json,
)
from phoebe_spark.predict.query import Query, log_partitions, log_size, stage_key, template_key

FILE = "history.sqlite"

_Kind = Literal["stage", "execution", "shape"]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS tables (name TEXT PRIMARY KEY, version INTEGER NOT NULL) WITHOUT ROWID;
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
CREATE INDEX IF NOT EXISTS runs_of_app ON runs (app, attempt);
"""

_COUNT = """INSERT INTO counts VALUES (?, ?, ?)
ON CONFLICT (kind, key) DO UPDATE SET count = count + excluded.count"""

_FORGET_OLD = """DELETE FROM runs WHERE kind = ?1 AND key = ?2 AND
(at, app, attempt, execution, part) IN (
  SELECT at, app, attempt, execution, part FROM runs WHERE kind = ?1 AND key = ?2
  ORDER BY at DESC, app DESC, attempt DESC, execution DESC, part DESC LIMIT -1 OFFSET ?3
)"""


class HistoryStore:
    """The store of one home, which must be a local directory.

    >>> with HistoryStore(home) as store:
    ...     store.add(query, shape, duration_ms, ("app-1", ""), 7, ended_at)
    ...     past = store.stage("template/e0")
    ...     past.stats("task_time").median

    Several processes may write at once: each `adding` block is one transaction. Raises
    ``sqlite3.Error`` when the file cannot be read or written.
    """

    def __init__(self, home: str | Path) -> None:
        self.path = Path(home) / FILE
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(self.path, timeout=30.0, isolation_level=None)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.executescript(_SCHEMA)

    def __enter__(self) -> HistoryStore:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    @contextmanager
    def adding(self) -> Iterator[None]:
        """One transaction: all that is added in it, or nothing."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    @property
    def versions(self) -> dict[str, int]:
        """The versions of the tables that have been read."""
        rows = self._db.execute("SELECT name, version FROM tables").fetchall()
        return {str(name): int(version) for name, version in rows}

    def read_until(self, versions: Mapping[str, int]) -> None:
        self._db.executemany("INSERT OR REPLACE INTO tables VALUES (?, ?)", versions.items())

    def add(
        self,
        query: Query,
        shape: str | None,
        duration_ms: float,
        app: tuple[str, str],
        execution_id: int,
        ended_at: datetime,
    ) -> bool:
        """Add one finished execution (``query.graph`` with true figures); False if it is there."""
        who = (*app, execution_id)
        if not self._db.execute("INSERT OR IGNORE INTO seen VALUES (?, ?, ?)", who).rowcount:
            return False
        at = ended_at.timestamp() / 86_400
        size = log_size(query)
        for stage in query.graph.stages:
            past = Past(figures_of(stage), size, log_partitions(stage), at)
            for key in keys(query, stage):
                self._put("stage", key, at, who, stage.stage_id, past_to_json(past))
        total = sum(s.task_time_ms for s in query.graph.stages)
        self._put("execution", query.template, at, who, 0, [duration_ms, total])
        if shape:
            self._put("shape", shape, at, who, 0, duration_ms)
        return True

    def _put(
        self, kind: _Kind, key: str, at: float, who: tuple[str, str, int], part: int, value: Any
    ) -> None:
        row = (kind, key, at, *who, part, orjson.dumps(value))
        self._db.execute("INSERT OR REPLACE INTO runs VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
        self._db.execute(_COUNT, (kind, key, 1))
        self._db.execute(_FORGET_OLD, (kind, key, KEEP))

    def forget(self, apps: Iterable[tuple[str, str]]) -> None:
        """Take out what an application did: it lost events, and its figures may be wrong."""
        for app in apps:
            for kind, key, count in self._db.execute(
                "SELECT kind, key, count(*) FROM runs WHERE app = ? AND attempt = ? GROUP BY 1, 2",
                app,
            ).fetchall():
                self._db.execute(_COUNT, (kind, key, -count))
            self._db.execute("DELETE FROM runs WHERE app = ? AND attempt = ?", app)

    def stage(self, key: str) -> StageHistory | None:
        """The history of one key (`phoebe_spark.predict.history.keys`), oldest run first."""
        runs = [past_from_json(value) for value in self._values("stage", key)]
        return StageHistory(self._count("stage", key), runs) if runs else None

    def lookup(self, query: Query, stage: Stage) -> tuple[StageHistory | None, int]:
        """As `History.lookup`."""
        if (exact := self.stage(stage_key(query, stage))) is not None:
            return exact, 2
        elsewhere = self.stage(template_key(stage)) if stage.template else None
        return elsewhere, 1 if elsewhere is not None else 0

    def _values(self, kind: _Kind, key: str) -> list[Any]:
        rows = self._db.execute(
            "SELECT value FROM runs WHERE kind = ? AND key = ? ORDER BY at, app, attempt, execution"
            ", part",
            (kind, key),
        )
        return [orjson.loads(value) for (value,) in rows]

    def _count(self, kind: _Kind, key: str) -> int:
        row = self._db.execute(
            "SELECT count FROM counts WHERE kind = ? AND key = ?", (kind, key)
        ).fetchone()
        return int(row[0]) if row else 0

    def history(self) -> History:
        """All of it, for a bundle."""
        found = History()
        with closing(self._db.cursor()) as cursor:
            rows = cursor.execute(
                "SELECT kind, key, value FROM runs ORDER BY kind, key, at, app, attempt, execution"
                ", part"
            )
            for kind, key, blob in rows:
                value = orjson.loads(blob)
                if kind == "stage":
                    stage = found.stages.setdefault(key, StageHistory())
                    stage.runs.append(past_from_json(value))
                elif kind == "execution":
                    run = found.executions.setdefault(key, ExecutionHistory())
                    run.durations_ms.append(value[0])
                    run.task_times_ms.append(value[1])
                else:
                    found.shapes.setdefault(key, []).append(value)
            for kind, key, count in cursor.execute("SELECT kind, key, count FROM counts"):
                if kind == "stage" and key in found.stages:
                    found.stages[key].count = count
                elif kind == "execution" and key in found.executions:
                    found.executions[key].count = count
        return found
