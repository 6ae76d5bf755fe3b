"""The companion's process: standard streams, signals, the end of input.

Standard output carries protocol lines alone: its descriptor is moved out of the way first, and
whatever a library prints goes to standard error, which the plugin shows in the driver's log.

Exit codes: 0 everything stored, 1 something was lost, 2 the first line was not a ``hello`` that is
understood here.
"""

from __future__ import annotations

import logging
import os
import queue
import signal
import sys
import threading
from collections.abc import Mapping
from typing import Any, BinaryIO

import orjson

import phoebe_spark
from phoebe_spark.companion.advice import AdviceDesk
from phoebe_spark.companion.loop import Companion, TablesLike
from phoebe_spark.companion.protocol import PROTOCOL, Plugin
from phoebe_spark.settings import SettingError, Value, resolve

log = logging.getLogger("phoebe")

END_LIMIT_S = 9.5
"""After the end of input the process is gone within ten seconds, whatever hangs."""
QUEUE_LINES = 20_000
PUT_LIMIT_S = 5.0
"""How long a line waits for room in the queue. Longer than a slow commit; then whoever writes the
tables hangs, and lines are lost, because the end of input and questions must be read all the
same."""
ADVISE = b'{"type":"advise"'


def main() -> int:
    """Reads standard input until it ends; returns the exit code."""
    # Ctrl-C in a shell, a closed terminal and a stopped container reach the whole process group:
    # the driver ends the input when it is done, and what it says until then is to be stored.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(name)s: %(message)s")
    plugin = Plugin(_own_stdout())
    intake = Intake()
    source = sys.stdin.buffer

    first = source.readline()
    try:
        hello = _hello(first)
        settings = _settings(hello)
    except ValueError as error:
        print(f"phoebe companion: {error}", file=sys.stderr, flush=True)
        return 2
    desk = AdviceDesk(str(hello["home"]), str(hello.get("mode", "observe")), settings, plugin)
    plugin.ready(phoebe_spark.__version__, os.getpid(), desk.long_shapes(), None)
    desk.start()
    companion = _companion(hello, settings, plugin)
    threading.Thread(target=_read, args=(source, intake, desk), daemon=True).start()
    companion.take(hello)
    return _run(companion, intake)


class Intake:
    """The queue between the thread that reads and the loop that works: bounded in lines, and in
    the time that a line waits for room."""

    def __init__(self, limit: int = QUEUE_LINES, patience_s: float = PUT_LIMIT_S) -> None:
        self._lines: queue.Queue[bytes | None] = queue.Queue(limit)
        self._patience_s = patience_s
        self._lock = threading.Lock()
        self._lost = 0
        self.jammed = False  # the last line found no room in time

    def put(self, line: bytes) -> None:
        """Waits for room only as long as the loop is known to work."""
        try:
            self._lines.put(line, timeout=0.0 if self.jammed else self._patience_s)
            self.jammed = False
        except queue.Full:
            self.jammed = True
            with self._lock:
                self._lost += 1

    def end(self) -> None:
        """No more lines; waits for room, as the process's exit limit runs by now."""
        self._lines.put(None)

    def get(self, timeout_s: float) -> bytes | None:
        """The next line, None at the end. Raises ``queue.Empty``."""
        return self._lines.get(timeout=timeout_s)

    def take_lost(self) -> int:
        """Lines lost since the last call."""
        with self._lock:
            lost, self._lost = self._lost, 0
        return lost


def _run(companion: Companion, intake: Intake) -> int:
    from phoebe_spark.harvest import decode

    while True:
        if lost := intake.take_lost():
            companion.lost(lost)
        try:
            line = intake.get(0.2)
        except queue.Empty:
            companion.tick()
            continue
        if line is None:
            break
        try:
            message = decode(line)
        except orjson.JSONDecodeError:
            companion.unreadable(line)
        else:
            if message is not None:
                companion.take(message)
        companion.tick()
    stored = companion.close()
    return 0 if stored else 1


def _read(source: BinaryIO, intake: Intake, desk: AdviceDesk) -> None:
    """Questions go to the desk at once, past whatever waits to be harvested.

    The exit limit runs from the end of input on, whatever the loop is doing then: one that hangs in
    a write to a dead file system would stay for good.
    """
    for line in source:
        if line.startswith(ADVISE):
            desk.ask(line)
        elif not line.isspace():
            intake.put(line)
    limit = threading.Timer(END_LIMIT_S - (PUT_LIMIT_S if intake.jammed else 0), os._exit, (1,))
    limit.daemon = True
    limit.start()
    intake.end()


def _hello(line: bytes) -> dict[str, Any]:
    try:
        hello = orjson.loads(line)
    except orjson.JSONDecodeError:
        hello = None
    if not isinstance(hello, dict) or hello.get("type") != "hello":
        raise ValueError(
            "expected a hello as the first line; this program is started by the Spark plugin, "
            f"see docs/protocol.md (got {line[:80]!r})"
        )
    if hello.get("protocol") != PROTOCOL:
        raise ValueError(
            f"the plugin speaks protocol {hello.get('protocol')}, this package {PROTOCOL}: "
            "install the same version of phoebe_spark as the jar's"
        )
    missing = {"app_id", "home"} - hello.keys()
    if missing:
        raise ValueError(f"hello lacks {', '.join(sorted(missing))}")
    return hello


def _settings(hello: Mapping[str, Any]) -> dict[str, Value | None]:
    given = {k: str(v) for k, v in (hello.get("settings") or {}).items() if v is not None}
    try:
        return resolve(given)
    except SettingError as error:
        raise ValueError(str(error)) from None


def _companion(
    hello: Mapping[str, Any], settings: Mapping[str, Value | None], plugin: Plugin
) -> Companion:
    from phoebe_spark.harvest import Harvest

    def open_tables() -> TablesLike:
        from phoebe_spark.tables import Tables

        return Tables(str(hello["home"]))

    return Companion(
        Harvest(source="live"),
        open_tables,
        plugin,
        flush_ms=int(settings["harvest.flush_interval_ms"] or 0),
        lease_ms=int(settings["lease_ms"] or 0),
    )


def _own_stdout() -> BinaryIO:
    """The pipe to the plugin, out of reach of ``print`` and of native libraries."""
    own = os.dup(1)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return os.fdopen(own, "wb")
