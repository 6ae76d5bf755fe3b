"""`Harvest`: one application's events in, rows out.

Its parts, one upon the other: `_application`, `_executions`, `_jobs`. Each says which events it
takes; here they are handed out.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from phoebe_spark.harvest._jobs import JobEvents
from phoebe_spark.harvest._values import (
    UNREADABLE,
    timestamp,
)
from phoebe_spark.tables.records import Record


def _now() -> datetime:
    return datetime.now(UTC)


class Harvest(JobEvents):
    """Turns one application's events into records.

    >>> harvest = Harvest(source="eventlog")
    >>> for event in events:
    ...     tables.append(harvest.consume(event))
    >>> tables.append(harvest.close())

    `consume` takes decoded JSON objects: Spark listener events as event logs have them, and the
    plugin's messages of docs/protocol.md. Unknown ones are ignored, unreadable ones are counted
    (``malformed``) and lost; nothing raises. After a loss no execution counts as complete that
    was not over before: what was lost may have been a stage of it, or a version of its plan.
    Rows of an execution come when it has ended and its stages are done, and its state is then
    dropped.
    """

    def __init__(self, *, source: str = "live", clock: Callable[[], datetime] = _now) -> None:
        super().__init__(source, clock)

    def consume(self, event: object) -> list[Record]:
        """The rows that this event completes, often none."""
        self._consumed += 1
        if not isinstance(event, dict):
            self.malformed += 1
            return self.lost(1)
        if "Event" in event:
            handler = self._events.get(str(event["Event"]))
        else:
            handler = self._messages.get(str(event.get("type")))
        if handler is None:
            return []
        try:
            found = list(handler(event))
        except UNREADABLE:
            # An event of a shape that no Spark writes: count it, and trust nothing around it.
            self.malformed += 1
            return self.lost(1)
        if self._waiting:
            found.extend(self._finish_waiting())
        return found if self._application else []

    def close(self, *, aborted: bool | None = None) -> list[Record]:
        """Everything that is left: open stages and executions, executors, the application's end.

        ``aborted``: the driver died; None decides by whether the application's end was seen.
        """
        gone = (not self.ended) if aborted is None else aborted
        if self._application is None:
            return []
        found: list[Record] = []
        for execution_id in list(self._executions):
            found.extend(self._finish(execution_id, aborted=gone or not self.ended))
        for stage in self._stages.values():
            found.append(self._plain_stage(stage, aborted=True))
        self._stages.clear()
        ended = timestamp(self._ended_ms or self._last_ms)
        found.append(
            self._application_row(
                ended_at=ended,
                status="aborted" if gone else "finished",
                complete=not gone and self.events_dropped == 0 and self.malformed == 0,
            )
        )
        return found
