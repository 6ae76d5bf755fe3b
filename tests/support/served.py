"""One long-lived Spark application that runs queries on command, so that a trial costs seconds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.support import apps, tpc
from tests.support.commands import Commands

APP = Path(__file__).with_name("served_app.py")


@dataclass(frozen=True, slots=True)
class Answer:
    """How a query ended; times in seconds since the epoch."""

    error: str | None
    started: float
    ended: float


class Served:
    """A submitted ``served_app``. Leaving the ``with`` block ends it."""

    def __init__(self, folder: Path, data: Path, **how: Any) -> None:
        """``how`` goes to :func:`apps.submit`; ``data`` holds the tables."""
        self.folder = folder
        (folder / "out").mkdir(parents=True, exist_ok=True)
        self._commands = Commands(folder)
        tables = {name: str(path) for name, path in tpc.tables(data).items()}
        (folder / "tables.json").write_text(json.dumps(tables))
        self.app = apps.submit(APP, [str(folder.resolve())], folder=folder, **how)

    def ask(self, name: str, sql: str, conf: Mapping[str, str], *, again: bool = False) -> int:
        """Begins a query, whose rows go to ``out/<name>``; returns its number. With ``again`` they
        are read from the plan of an execution that has ended."""
        command = {"name": name, "sql": sql, "conf": dict(conf), "again": again}
        return self._commands.ask({**command, "output": str(self.output(name))})

    def is_answered(self, number: int) -> bool:
        """Whether there is an answer by now."""
        return self._commands.is_answered(number)

    def answer(self, number: int, timeout_s: float = 180) -> Answer:
        """Waits for an answer; raises ``TimeoutError`` when it takes longer than that."""
        return Answer(**self._commands.answer(number, self.app, timeout_s))

    def run(self, name: str, sql: str, conf: Mapping[str, str]) -> Answer:
        """Asks and waits."""
        return self.answer(self.ask(name, sql, conf))

    def output(self, name: str) -> Path:
        return (self.folder / "out" / name).resolve()

    @property
    def log(self) -> str:
        return (self.folder / "driver.log").read_text(errors="replace")

    def stop(self, timeout_s: float = 60) -> apps.FinishedApp:
        """Lets the application end well."""
        self._commands.ask(None)
        return self.app.wait(timeout_s)

    def __enter__(self) -> Served:
        self.app.__enter__()
        try:
            self.app.wait_for(self.folder / "ready")
        except BaseException:
            self.app.close()  # no ``with`` block is left
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.app.__exit__(kind, error, trace)
