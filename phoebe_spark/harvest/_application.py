"""The application itself: its identity, its lost events, and the stamp of each row."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import datetime, timedelta

from phoebe_spark.harvest import _rows as rows
from phoebe_spark.harvest._values import (
    JsonObject,
    count,
    integer,
    text,
    time_ms,
    timestamp,
)
from phoebe_spark.tables.records import ApplicationRecord, Record

Handler = Callable[[JsonObject], Iterable[Record]]
"""Takes an event or a message, returns the rows that it completes."""

_CLOCK_SLACK_MS = 1000


class Application:
    """The application's identity, as it becomes known. Makes its rows, and the stamp of others."""

    def __init__(self, source: str, clock: Callable[[], datetime]) -> None:
        self.source = source
        self.clock = clock
        self.malformed = 0
        self.clock_jumps = 0  # ends that are earlier than their starts
        self.ended = False  # ApplicationEnd or `end` was seen
        self.cores = 0  # of its executors, as far as they are known
        self._last_written: datetime | None = None
        self._record: ApplicationRecord | None = None
        self._said: dict[str, str | int | None] = {}  # fields that arrived before its start
        self._ended_ms: int | None = None
        self._last_ms: int | None = None
        self._dropped = 0  # counted by the plugin
        self._lost = 0  # counted by the reader of the events
        self.events: dict[str, Handler] = {
            "SparkListenerLogStart": self._log_start,
            "SparkListenerApplicationStart": self._application_start,
            "SparkListenerApplicationEnd": self._application_end,
        }
        self.messages: dict[str, Handler] = {
            "hello": self._hello,
            "dropped": self._dropped_events,
            "end": self._application_end,
        }

    @property
    def known(self) -> bool:
        """Whether the application is known. Before that there are no rows."""
        return self._record is not None

    @property
    def app_id(self) -> str | None:
        """The application's id; None until it was heard of."""
        return self._record.app_id if self._record else None

    @property
    def app_attempt(self) -> str:
        return self._record.app_attempt if self._record else ""

    @property
    def spark_version(self) -> str | None:
        """Of the Spark that ran the application, as soon as it was heard of."""
        known = self._said.get("spark_version")
        return str(known) if known is not None else None

    @property
    def started_at(self) -> datetime | None:
        return self._record.started_at if self._record else None

    @property
    def events_dropped(self) -> int:
        """Events that never arrived, or could not be read."""
        return self._dropped + self._lost

    def lost(self, events: int) -> list[Record]:
        """Like the plugin's `dropped` message, for losses that the plugin does not see: lines that
        cannot be read, rows that cannot be stored. Call it at the position of the loss; ``events``
        are those lost since the last call."""
        known = self.events_dropped
        self._lost += events
        return self._tell_loss(known)

    def _tell_loss(self, known: int) -> list[Record]:
        """An application row at the first loss, so that training sees it with the next rows."""
        if self._record is None or known or not self.events_dropped:
            return []
        return [self._row()]

    def lease(self, until: datetime) -> list[Record]:
        """An application row that renews the lease of a live driver."""
        if self._record is None:
            return []
        return [self._row(lease_until=until)]

    # --- identity -------------------------------------------------------------------------------

    def stamp(self) -> rows.RowStamp:
        at = self.clock()
        if self._last_written is not None and at <= self._last_written:
            at = self._last_written + timedelta(microseconds=1)
        self._last_written = at
        application = self._record
        started = application.started_at if application else None
        return {
            "date": (started or at).date(),
            "app_id": application.app_id if application else "",
            "app_attempt": application.app_attempt if application else "",
            "source": self.source,
            "written_at": at,
        }

    def _row(self, **changes: object) -> ApplicationRecord:
        assert self._record is not None
        slots = self._record.slots
        if self.cores:
            slots = max(slots or 0, self.cores)
        changes = {
            "slots": slots,
            "events_dropped": self.events_dropped,
            **self.stamp(),
            **changes,
        }
        self._record = replace(self._record, **changes)  # type: ignore[arg-type]
        return self._record

    def _introduce(self, app_id: str | None, started_ms: int | None) -> Iterable[Record]:
        """The application's start row, once. Later facts come with its next row."""
        if app_id is None:
            return
        known = self._said
        if self._record is None:
            identity = self.stamp()
            identity["app_id"] = app_id
            started = timestamp(started_ms)
            if started is not None:
                identity["date"] = started.date()
            identity["app_attempt"] = str(known.get("app_attempt") or "")
            self._record = ApplicationRecord(**identity, started_at=started)
        elif self._record.app_id != app_id:
            self.malformed += 1  # two applications in one stream: the first one stays
            return
        changes = {name: value for name, value in known.items() if value is not None}
        changes.pop("app_attempt", None)
        name = known.get("app_name")
        yield self._row(**changes, job=rows.job_name(str(name)) if name is not None else None)

    def _learn(self, **fields: str | int | None) -> None:
        self._said.update({name: value for name, value in fields.items() if value is not None})

    def in_order(self, start_ms: int | None, end_ms: int | None) -> bool:
        """Whether time moved forward between the two; up to a second back is a corrected clock."""
        if start_ms is None or end_ms is None or end_ms >= start_ms - _CLOCK_SLACK_MS:
            return True
        self.clock_jumps += 1
        return False

    def saw_time(self, ms: int | None) -> None:
        if ms is not None and (self._last_ms is None or ms > self._last_ms):
            self._last_ms = ms

    # --- its events -----------------------------------------------------------------------------

    def _hello(self, event: JsonObject) -> Iterable[Record]:
        self._learn(
            app_name=text(event.get("app_name")),
            app_attempt=text(event.get("app_attempt")),
            user=text(event.get("user")),
            spark_version=text(event.get("spark_version")),
            plugin_version=text(event.get("plugin_version")),
            mode=text(event.get("mode")),
            slots=integer(event.get("slots")),
        )
        if event.get("continued") is True:
            self._dropped = max(self._dropped, 1)  # the beginning was written elsewhere
        yield from self._introduce(text(event.get("app_id")), time_ms(event, "time"))

    def _log_start(self, event: JsonObject) -> Iterable[Record]:
        self._learn(spark_version=text(event.get("Spark Version")))
        return ()

    def _application_start(self, event: JsonObject) -> Iterable[Record]:
        self._learn(
            app_name=text(event.get("App Name")),
            app_attempt=text(event.get("App Attempt ID")),
            user=text(event.get("User")),
        )
        started = time_ms(event, "Timestamp")
        self.saw_time(started)
        yield from self._introduce(text(event.get("App ID")), started)

    def _application_end(self, event: JsonObject) -> Iterable[Record]:
        self.ended = True
        at = time_ms(event, "Timestamp") or time_ms(event, "time")
        self._ended_ms = self._ended_ms or at
        return ()

    def _dropped_events(self, event: JsonObject) -> Iterable[Record]:
        known = self.events_dropped
        self._dropped = max(self._dropped, count(event.get("events")))
        return self._tell_loss(known)

    @property
    def slots(self) -> int | None:
        return self.cores or (self._record.slots if self._record else None)

    def end(self, *, gone: bool) -> ApplicationRecord:
        """The application's last row. ``gone``: the driver died."""
        return self._row(
            ended_at=timestamp(self._ended_ms or self._last_ms),
            status="aborted" if gone else "finished",
            complete=not gone and self.events_dropped == 0 and self.malformed == 0,
        )
