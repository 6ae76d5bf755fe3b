"""Executors: when each was added and removed, and how many cores it has."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from phoebe_spark.harvest._application import Application, Handler
from phoebe_spark.harvest._values import JsonObject, count, obj, text, time_ms, timestamp
from phoebe_spark.tables.records import ExecutorRecord, Record


class Executors:
    """The running executors. Rows of those added before the application is known wait."""

    def __init__(self, application: Application) -> None:
        self._application = application
        self._cores: dict[str, int] = {}
        self._running: dict[str, ExecutorRecord] = {}
        self.events: dict[str, Handler] = {
            "SparkListenerExecutorAdded": self._added,
            "SparkListenerExecutorRemoved": self._removed,
        }

    def introduce(self) -> Iterable[Record]:
        """The rows of the running executors, once the application is known."""
        for executor_id, executor in self._running.items():
            self._running[executor_id] = replace(executor, **self._application.stamp())
            yield self._running[executor_id]

    def _added(self, event: JsonObject) -> Iterable[Record]:
        executor_id = text(event.get("Executor ID"))
        if executor_id is None:
            return
        info = obj(event, "Executor Info")
        cores = count(info.get("Total Cores"))
        self._cores[executor_id] = cores
        self._application.cores = sum(self._cores.values())
        row = ExecutorRecord(
            **self._application.stamp(),
            executor_id=executor_id,
            host=text(info.get("Host")),
            cores=cores,
            added_at=timestamp(time_ms(event, "Timestamp")),
        )
        self._running[executor_id] = row
        if self._application.known:
            yield row

    def _removed(self, event: JsonObject) -> Iterable[Record]:
        executor_id = text(event.get("Executor ID"))
        if executor_id is None:
            return
        self._cores.pop(executor_id, None)
        self._application.cores = sum(self._cores.values())
        known = self._running.pop(executor_id, None)
        row = known or ExecutorRecord(**self._application.stamp(), executor_id=executor_id)
        yield replace(
            row,
            **self._application.stamp(),
            removed_at=timestamp(time_ms(event, "Timestamp")),
            removal_reason=(text(event.get("Removed Reason")) or "")[:200] or None,
        )
