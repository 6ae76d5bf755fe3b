"""The plugin's messages about an execution's boundaries and checkpoints (docs/protocol.md)."""

from __future__ import annotations

from collections.abc import Iterable

from phoebe_spark.harvest import _rows as rows
from phoebe_spark.harvest._application import Application, Handler
from phoebe_spark.harvest._executions import Executions
from phoebe_spark.harvest._values import (
    UNREADABLE,
    JsonObject,
    count,
    integer,
    text,
    time_ms,
    timestamp,
)
from phoebe_spark.tables.records import Record


class PluginMessages:
    """Adds messages to their executions. Checkpoint messages become rows at once."""

    def __init__(self, application: Application, executions: Executions) -> None:
        self._application = application
        self._executions = executions
        self.messages: dict[str, Handler] = {
            "boundary": self._boundary,
            "checkpoint": self._checkpoint,
        }

    def _boundary(self, event: JsonObject) -> Iterable[Record]:
        execution_id = integer(event.get("execution_id"))
        if execution_id is not None:
            self._executions.mentioned(execution_id).messages.append(event)
        return ()

    def _checkpoint(self, event: JsonObject) -> Iterable[Record]:
        execution_id = integer(event.get("execution_id"))
        fingerprint = text(event.get("fingerprint"))
        at = timestamp(time_ms(event, "time"))
        boundary_id = None
        if execution_id is not None:
            execution = self._executions.mentioned(execution_id)
            if event.get("event") == "restored":
                execution.restored = True
            elif event.get("event") == "freed" and (when := time_ms(event, "time")) is not None:
                so_far = count(event.get("freed_bytes"))
                execution.freed.append((when, text(event.get("path")), so_far))
            if fingerprint is not None:
                try:
                    boundary_id = execution.boundary_of(fingerprint)
                except UNREADABLE:
                    self._executions.plans.not_read(execution)
        if self._application.known:
            yield rows.checkpoint_row(
                event, self._application.stamp, at or self._application.clock(), boundary_id
            )
