"""`Harvest`: one application's events in, rows out.

Its parts are objects with one task each: the application, its executors, SQL executions, jobs with
their stages, and the plugin's messages. Each lists the events that it takes and gets the parts that
it needs. This module puts them together and passes events on.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from phoebe_spark.harvest._application import Application, Handler
from phoebe_spark.harvest._executions import Executions
from phoebe_spark.harvest._executors import Executors
from phoebe_spark.harvest._jobs import Jobs
from phoebe_spark.harvest._messages import PluginMessages
from phoebe_spark.harvest._ran import Ran
from phoebe_spark.harvest._values import UNREADABLE
from phoebe_spark.tables.records import Record


def _now() -> datetime:
    return datetime.now(UTC)


class Harvest:
    """Turns one application's events into records.

    >>> harvest = Harvest(source="eventlog")
    >>> for event in events:
    ...     tables.append(harvest.consume(event))
    >>> tables.append(harvest.close())

    `consume` takes decoded JSON objects: Spark listener events as event logs have them, and the
    plugin's messages of docs/protocol.md. Unknown ones are ignored, unreadable ones are counted
    (``malformed``) and lost; nothing raises. After a loss only executions that were over before
    count as complete: the lost events may have been a stage of the others, or a version of their
    plan. The rows of an execution are returned when it has ended and its stages are done, and its
    state is then dropped.
    """

    def __init__(self, *, source: str = "live", clock: Callable[[], datetime] = _now) -> None:
        ran = Ran()
        self._application = Application(source, clock)
        self._executors = Executors(self._application)
        self._executions = Executions(self._application, ran)
        self._jobs = Jobs(self._application, self._executions, ran)
        self._events: dict[str, Handler] = {
            **self._application.events,
            **self._executors.events,
            **self._executions.events,
            **self._jobs.events,
        }
        messages = PluginMessages(self._application, self._executions)
        self._messages: dict[str, Handler] = {**self._application.messages, **messages.messages}

    def consume(self, event: object) -> list[Record]:
        """The rows that this event completes, often none."""
        application, executions = self._application, self._executions
        executions.events_seen += 1
        if not isinstance(event, dict):
            application.malformed += 1
            return application.lost(1)
        if "Event" in event:
            handler = self._events.get(str(event["Event"]))
        else:
            handler = self._messages.get(str(event.get("type")))
        if handler is None:
            return []
        known = application.known
        try:
            found = list(handler(event))
        except UNREADABLE:
            # An event of a shape that no Spark writes: count it as a loss.
            application.malformed += 1
            return application.lost(1)
        if not known and application.known:
            found.extend(self._executors.introduce())
        if executions.waiting:
            found.extend(executions.finish_waiting())
        return found if application.known else []

    def lost(self, events: int) -> list[Record]:
        """Like the plugin's `dropped` message, for losses that the plugin does not see: lines that
        cannot be read, rows that cannot be stored. Call it at the position of the loss; ``events``
        are those lost since the last call."""
        return self._application.lost(events)

    def lease(self, until: datetime) -> list[Record]:
        """An application row that renews the lease of a live driver."""
        return self._application.lease(until)

    def close(self, *, aborted: bool | None = None) -> list[Record]:
        """The remaining rows: open stages and executions, executors, the application's end.

        ``aborted``: the driver died. None: it did if the application's end was not seen.
        """
        application = self._application
        gone = (not application.ended) if aborted is None else aborted
        if not application.known:
            return []
        found = list(self._executions.finish_all(aborted=gone or not application.ended))
        found.extend(self._jobs.finish_all())
        found.append(application.end(gone=gone))
        return found

    @property
    def app_id(self) -> str | None:
        """The application's id; None until it was heard of."""
        return self._application.app_id

    @property
    def app_attempt(self) -> str:
        return self._application.app_attempt

    @property
    def started_at(self) -> datetime | None:
        return self._application.started_at

    @property
    def spark_version(self) -> str | None:
        """Of the Spark that ran the application, as soon as it was heard of."""
        return self._application.spark_version

    @property
    def ended(self) -> bool:
        """Whether the application's end was seen."""
        return self._application.ended

    @property
    def malformed(self) -> int:
        return self._application.malformed

    @property
    def clock_jumps(self) -> int:
        """The number of ends that are earlier than their starts."""
        return self._application.clock_jumps

    @property
    def unread_plans(self) -> int:
        """The number of executions that count as incomplete because of their plans."""
        return self._executions.plans.unread
