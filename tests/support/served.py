"""One long-lived Spark application that runs queries on command, so that a trial costs seconds."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.support import apps, tpc

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
        for name in ("commands", "answers", "out"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        tables = {name: str(path) for name, path in tpc.tables(data).items()}
        (folder / "tables.json").write_text(json.dumps(tables))
        self._asked = 0
        self.app = apps.submit(APP, [str(folder.resolve())], folder=folder, **how)

    def ask(self, name: str, sql: str, conf: Mapping[str, str], *, again: bool = False) -> int:
        """Begins a query, whose rows go to ``out/<name>``; returns its number. With ``again`` they
        are read from the plan of an execution that has ended."""
        command = {"name": name, "sql": sql, "conf": dict(conf), "again": again}
        return self._command({**command, "output": str(self.output(name))})

    def answered(self, number: int) -> Answer | None:
        """The answer, if there is one by now."""
        path = self.folder / "answers" / f"{number}.json"
        return Answer(**json.loads(path.read_text())) if path.exists() else None

    def answer(self, number: int, timeout_s: float = 180) -> Answer:
        """Waits for an answer; raises ``TimeoutError`` when it takes longer than that."""
        deadline = time.monotonic() + timeout_s
        while (found := self.answered(number)) is None:
            if not self.app.running:
                raise apps.AppFailedError(f"the application ended, see {self.folder}/driver.log")
            if time.monotonic() > deadline:
                raise TimeoutError(f"query {number} has not ended in {timeout_s} s")
            time.sleep(0.02)
        return found

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
        self._command(None)
        return self.app.wait(timeout_s)

    def _command(self, command: dict[str, Any] | None) -> int:
        number = self._asked
        aside = self.folder / "commands" / f"{number}.tmp"
        aside.write_text(json.dumps(command))
        aside.rename(self.folder / "commands" / f"{number}.json")
        self._asked += 1
        return number

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
