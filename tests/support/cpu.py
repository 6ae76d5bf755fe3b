"""Processor time and resident memory of a process with all its descendants.

Descendants are polled, and followed after their parent is gone: the companion outlives a killed
driver, and a process that nobody waits for never appears in its parent's ``rusage``.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from types import TracebackType

import psutil  # type: ignore[import-untyped]


@dataclass(slots=True)
class _Seen:
    process: psutil.Process
    command: str
    cpu_s: float = 0.0
    peak_rss_bytes: int = 0


@dataclass(slots=True)
class ProcessMeter:
    """Polls ``pid`` and its descendants while the ``with`` block lasts."""

    pid: int
    interval_s: float = 0.1
    _seen: dict[int, _Seen] = field(default_factory=dict)
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> ProcessMeter:
        self._thread = threading.Thread(target=self._run, name="process-meter", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    @property
    def cpu_s(self) -> float:
        """User and system seconds of all processes seen, to the last poll of each."""
        return sum(s.cpu_s for s in self._seen.values())

    def peak_rss_bytes(self, command_part: str) -> int:
        """The largest resident set of any process whose command line has ``command_part``."""
        return max(
            (s.peak_rss_bytes for s in self._seen.values() if command_part in s.command), default=0
        )

    def pids(self, command_part: str) -> list[int]:
        """Processes seen whose command line has ``command_part``."""
        return [pid for pid, s in self._seen.items() if command_part in s.command]

    def _run(self) -> None:
        while True:
            self._poll()
            if self._stop.wait(self.interval_s):
                self._poll()
                return

    def _poll(self) -> None:
        try:
            root = psutil.Process(self.pid)
            family = [root, *root.children(recursive=True)]
        except psutil.Error:
            family = []
        for process in family:
            known = self._seen.get(process.pid)
            if known is None or known.process != process:
                self._seen[process.pid] = _Seen(process, "")
        for seen in self._seen.values():
            try:
                with seen.process.oneshot():
                    times = seen.process.cpu_times()
                    # Own time only: children are followed one by one.
                    seen.cpu_s = max(seen.cpu_s, times.user + times.system)
                    rss = seen.process.memory_info().rss
                    command = " ".join(seen.process.cmdline()) or seen.command
                    # A process that a JVM has just forked has that JVM's memory still.
                    same = command == seen.command
                    seen.peak_rss_bytes = max(seen.peak_rss_bytes, rss) if same else 0
                    seen.command = command
            except psutil.Error:
                continue
