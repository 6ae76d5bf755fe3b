"""The companion's process: standard streams, signals, the end of input.

Standard output has only protocol lines: its descriptor is moved first, and everything that a
library prints goes to standard error, which the plugin shows in the driver's log.

Exit codes: 0, everything was stored; 1, something was lost; 2, the first line was no valid
``hello``, or the ``deltalake`` package cannot reach the home. After 2 the plugin spools.
"""

from __future__ import annotations

import logging
import os
import queue
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from io import BufferedReader
from typing import Any, BinaryIO

import orjson

import phoebe_spark
from phoebe_spark.companion.desk import AdviceDesk
from phoebe_spark.companion.intake import PUT_LIMIT_S, Intake
from phoebe_spark.companion.loop import Companion
from phoebe_spark.companion.protocol import PROTOCOL, Plugin
from phoebe_spark.errors import PhoebeError, SettingError
from phoebe_spark.settings import Value, resolve
from phoebe_spark.tables.ownership import needs_one
from phoebe_spark.tables.protocol import Appends
from phoebe_spark.tables.storage_options import options_for

log = logging.getLogger("phoebe")

END_LIMIT_S = 9.5
"""The process ends within ten seconds of the end of input, even if something hangs."""
READ_BYTES = 1 << 16
QUESTIONS = (b'{"type":"plan"', b'{"type":"advise"')


def main() -> int:
    """Reads standard input until it ends; returns the exit code."""
    # Ctrl-C in a shell, a closed terminal and a stopped container signal the whole process group.
    # The driver ends the input when it is done, and its lines until then must be stored.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(name)s: %(message)s")
    plugin = Plugin(_own_stdout())
    intake = Intake()
    source = sys.stdin.buffer
    assert isinstance(source, BufferedReader)

    first = source.readline()
    try:
        hello = _hello(first)
        settings = _settings(hello)
        options = _reach(str(hello["home"]))
    except (ValueError, PhoebeError, OSError) as error:
        print(f"phoebe companion: {error}", file=sys.stderr, flush=True)
        return 2
    desk = AdviceDesk(str(hello["home"]), str(hello.get("mode", "observe")), settings, plugin)
    plugin.ready(phoebe_spark.__version__, os.getpid(), desk.long_shapes(), None)
    desk.start()
    companion = _companion(hello, settings, options, plugin)
    threading.Thread(target=_read, args=(source, intake, desk), daemon=True).start()
    companion.take(hello)
    return _run(companion, intake, desk)


def _run(companion: Companion, intake: Intake, desk: AdviceDesk) -> int:
    from phoebe_spark.harvest import decode

    while True:
        if lost := intake.take_lost():
            companion.lost(lost)
        try:
            lines = intake.get(0.2)
        except queue.Empty:
            companion.tick()
            continue
        if lines is None:
            break
        for line in lines:
            desk.give_way()
            try:
                message = decode(line)
            except orjson.JSONDecodeError:
                companion.unreadable(line)
            else:
                if message is not None:
                    companion.take(message)
        desk.give_way()
        companion.tick()
    stored = companion.close()
    return 0 if stored else 1


def _read(source: BufferedReader, intake: Intake, desk: AdviceDesk) -> None:
    """Reads lines. Questions go to the desk at once and do not wait for harvesting.

    The exit limit starts at the end of input, whatever the loop does then: a loop that hangs in a
    write to a dead file system would never end.
    """
    rest: list[bytes] = []  # pieces of an incomplete line
    while piece := source.read1(READ_BYTES):
        first, *lines = piece.split(b"\n")
        rest.append(first)
        if lines:
            _hand_over([b"".join(rest), *lines[:-1]], intake, desk)
            rest = [lines[-1]]
    _hand_over([b"".join(rest)], intake, desk)
    limit = threading.Timer(END_LIMIT_S - (PUT_LIMIT_S if intake.jammed else 0), os._exit, (1,))
    limit.daemon = True
    limit.start()
    intake.end()


def _hand_over(lines: Sequence[bytes], intake: Intake, desk: AdviceDesk) -> None:
    events = []
    for line in lines:
        if line.startswith(QUESTIONS):
            desk.ask(line)
        elif line and not line.isspace():
            events.append(line)
    if events:
        intake.put(events)


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


def _reach(home: str) -> dict[str, str]:
    """The home's storage options. Raises if its tables cannot be written from here; on S3 that
    takes a request to the store."""
    options = options_for(home)
    if needs_one(home):
        from deltalake.exceptions import DeltaError

        from phoebe_spark.tables.deltalake import Tables

        try:
            Tables(home, storage_options=options).claim()
        except DeltaError as error:
            raise ValueError(str(error)) from None
    return options


def _companion(
    hello: Mapping[str, Any],
    settings: Mapping[str, Value | None],
    options: dict[str, str],
    plugin: Plugin,
) -> Companion:
    from phoebe_spark.harvest import Harvest

    def open_tables() -> Appends:
        from phoebe_spark.tables.deltalake import Tables

        return Tables(str(hello["home"]), storage_options=options)

    return Companion(
        Harvest(source="live"),
        open_tables,
        plugin,
        flush_ms=int(settings["harvest.flush_interval_ms"] or 0),
        lease_ms=int(settings["lease_ms"] or 0),
    )


def _own_stdout() -> BinaryIO:
    """The pipe to the plugin, on a descriptor that ``print`` and native libraries do not use."""
    own = os.dup(1)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return os.fdopen(own, "wb")
