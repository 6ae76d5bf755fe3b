"""Lines to the plugin (docs/protocol.md): one writer for all threads, the only one on that pipe."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, BinaryIO, Literal

import orjson

PROTOCOL = 1

Level = Literal["info", "warning", "error"]


class Plugin:
    """The plugin, as the companion sees it: a pipe that takes messages.

    A broken pipe (the driver is gone) is remembered, not raised: the remaining rows are still
    stored, and the end of input follows.
    """

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._lock = threading.Lock()
        self._said: set[str] = set()
        self.broken = False

    def send(self, message: dict[str, Any]) -> None:
        line = orjson.dumps(message, option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS)
        with self._lock:
            if self.broken:
                return
            try:
                self._out.write(line)
                self._out.flush()
            except (OSError, ValueError):
                self.broken = True

    def ready(
        self, version: str, pid: int, long_shapes: Sequence[str], model_version: str | None
    ) -> None:
        self.send(
            {
                "type": "ready",
                "protocol": PROTOCOL,
                "companion_version": version,
                "pid": pid,
                "long_shapes": list(long_shapes),
                "model_version": model_version,
            }
        )

    def log(self, level: Level, message: str) -> None:
        """Writes a line to the driver's log."""
        self.send({"type": "log", "level": level, "message": message})

    def log_once(self, kind: str, level: Level, message: str) -> None:
        """Like `log`, but at most once for each ``kind``."""
        if kind not in self._said:
            self._said.add(kind)
            self.log(level, message)
