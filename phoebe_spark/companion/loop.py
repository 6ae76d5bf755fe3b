"""The companion's handling of the plugin's lines, without the process around it.

`Companion.take` gets decoded lines in order, and `Companion.tick` is called from time to time. Rows
go to the tables in one commit per table and flush. The clock and the tables are parameters, so that
tests need neither to wait nor to start anything.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from phoebe_spark.companion.protocol import Plugin
from phoebe_spark.tables.protocol import Appends
from phoebe_spark.tables.records import ApplicationRecord, Record

log = logging.getLogger(__name__)

MAX_WAITING_ROWS = 50_000
"""The most rows kept while tables cannot be written. More are lost, and the run is incomplete."""


class HarvestLike(Protocol):
    """Events in, records out: `phoebe_spark.harvest.Harvest`."""

    def consume(self, event: object) -> list[Record]: ...

    def lost(self, events: int) -> list[Record]: ...

    def lease(self, until: datetime) -> list[Record]: ...

    def close(self) -> list[Record]: ...


class Companion:
    """Harvests one application.

    ``flush_ms`` and ``lease_ms`` are the settings ``harvest.flush_interval_ms`` and ``lease_ms``.
    The application's row has an expiry time, and is renewed three times in ``lease_ms``.
    """

    def __init__(
        self,
        harvest: HarvestLike,
        open_tables: Callable[[], Appends],
        plugin: Plugin,
        *,
        flush_ms: int,
        lease_ms: int,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._harvest = harvest
        self._open_tables = open_tables
        self._tables: Appends | None = None
        self._plugin = plugin
        self._flush = timedelta(milliseconds=flush_ms)
        self._lease = timedelta(milliseconds=lease_ms)
        self._now = now
        self._waiting: list[Record] = []
        self._application: ApplicationRecord | None = None
        self._flushed_at = now()

    def take(self, message: Mapping[str, Any]) -> None:
        """Handles one line of the plugin. A failure in harvest only makes the run incomplete."""
        try:
            records = self._harvest.consume(message)
        except Exception as error:
            what = message.get("Event") or message.get("type")
            log.exception("harvest failed on %s", what)
            self._plugin.log_once(
                f"harvest/{what}", "warning", f"harvesting {what} failed ({error!r}); reported once"
            )
            records = self._harvest.lost(1)
        self._keep(records)

    def unreadable(self, line: bytes) -> None:
        """A line that is not JSON: counted as a dropped event."""
        log.warning("not a line of the protocol: %r", line[:80])
        self.lost(1)

    def lost(self, lines: int) -> None:
        """Notes lines that could not be read or kept: the run is incomplete."""
        self._keep(self._harvest.lost(lines))

    def tick(self) -> None:
        """Flushes and renews the lease when these are due."""
        now = self._now()
        if now - self._flushed_at >= self._flush:
            self._renew(now)
            self.flush()

    @property
    def waiting(self) -> int:
        """Rows that are not stored yet."""
        return len(self._waiting)

    def flush(self) -> bool:
        """Appends the waiting rows. False if that failed; the rows are then kept for later."""
        self._flushed_at = self._now()
        if not self._waiting:
            return True
        try:
            if self._tables is None:
                self._tables = self._open_tables()
            self._tables.append(self._waiting)
        except Exception as error:
            log.exception("rows could not be stored")
            self._plugin.log_once(
                "store", "warning", f"the tables cannot be written ({error}); trying again later"
            )
            return False
        self._waiting = []
        return True

    def close(self) -> bool:
        """Handles the end of input. The application has finished if its end was received, else it
        was aborted. True if all rows were stored."""
        self._keep(self._harvest.close())
        stored = self.flush()
        if not stored:
            self._plugin.log("error", f"{len(self._waiting)} rows of this run could not be stored")
        return stored

    def _keep(self, records: Iterable[Record]) -> None:
        self._add(records)
        excess = len(self._waiting) - MAX_WAITING_ROWS
        if excess > 0:
            del self._waiting[:excess]
            self._add(self._harvest.lost(excess))
            self._plugin.log_once("rows", "warning", "rows are lost: the tables cannot be written")

    def _add(self, records: Iterable[Record]) -> None:
        for record in records:
            if isinstance(record, ApplicationRecord):
                self._application = record = self._leased(record)
            self._waiting.append(record)

    def _leased(self, row: ApplicationRecord) -> ApplicationRecord:
        if row.status != "running":
            return row
        return replace(row, lease_until=self._now() + self._lease)

    def _renew(self, now: datetime) -> None:
        row = self._application
        if row is None or row.status != "running" or row.lease_until is None:
            return
        if any(isinstance(waiting, ApplicationRecord) for waiting in self._waiting):
            return
        if row.lease_until - now <= self._lease * 2 / 3:
            self._keep(self._harvest.lease(now + self._lease))
