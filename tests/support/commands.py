"""Commands to an application that a test has started, and its answers: numbered files of JSON.

``FOLDER/commands/<number>.json`` are taken one after the other; what came of each stands in
``FOLDER/answers/<number>.json``. The command ``null`` is the last one. Files appear whole.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.support import apps


class Commands:
    """The test's end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("commands", "answers"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        self._asked = 0

    def ask(self, told: Any) -> int:
        """Returns the command's number."""
        number = self._asked
        _write(self.folder / "commands", number, told)
        self._asked += 1
        return number

    def is_answered(self, number: int) -> bool:
        return self._answer(number).exists()

    def answer(self, number: int, app: apps.RunningApp, timeout_s: float) -> Any:
        """Waits for an answer; raises ``TimeoutError`` when it takes longer than that, and
        ``AppFailedError`` when ``app`` has ended."""
        from tests.support.apps import AppFailedError

        deadline = time.monotonic() + timeout_s
        while not self.is_answered(number):
            if not app.running:
                raise AppFailedError(f"the application ended, see {self.folder}/driver.log")
            if time.monotonic() > deadline:
                raise TimeoutError(f"command {number} has not ended in {timeout_s} s")
            time.sleep(0.02)
        return json.loads(self._answer(number).read_text())

    def _answer(self, number: int) -> Path:
        return self.folder / "answers" / f"{number}.json"


def taken(folder: Path) -> Iterator[tuple[int, Any]]:
    """The application's end: each command with its number, until the last one."""
    number = 0
    while True:
        path = folder / "commands" / f"{number}.json"
        while not path.exists():
            time.sleep(0.01)
        told = json.loads(path.read_text())
        if told is None:
            return
        yield number, told
        number += 1


def answer(folder: Path, number: int, answer: Any) -> None:
    """Says what came of a command that was taken."""
    _write(folder / "answers", number, answer)


def _write(folder: Path, number: int, value: Any) -> None:
    aside = folder / f"{number}.tmp"
    aside.write_text(json.dumps(value))
    aside.rename(folder / f"{number}.json")
