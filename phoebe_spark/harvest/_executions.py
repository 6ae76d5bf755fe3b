"""SQL executions: from their start to their rows."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from phoebe_spark import nested_json
from phoebe_spark.harvest import _rows as rows
from phoebe_spark.harvest._application import Application, Handler
from phoebe_spark.harvest._lines import PLAN_JSON
from phoebe_spark.harvest._ran import Ran
from phoebe_spark.harvest._state import ExecutionState, remember
from phoebe_spark.harvest._structure import structure, temp_storage
from phoebe_spark.harvest._ties import NO_TIES, tie
from phoebe_spark.harvest._values import (
    UNREADABLE,
    JsonObject,
    integer,
    obj,
    text,
    time_ms,
)
from phoebe_spark.plan import read
from phoebe_spark.plan.templates import Exchange
from phoebe_spark.tables.records import Record

_SQL = "org.apache.spark.sql.execution.ui.SparkListener"
_PLAIN_PLAN_BYTES = 1 << 20  # beyond it, plan versions are packed as they come
_MOST_PLAN_BYTES = 8 << 20  # of plan versions that wait to be looked at, all executions together
_PATIENCE = 5_000  # events after which an ended execution no longer waits for its stages


class KeptPlans:
    """Stores plan versions, with a bound on the memory of all executions."""

    def __init__(self) -> None:
        self.unread = 0  # executions that count as incomplete because of their plans
        self._bytes = 0

    def keep(self, execution: ExecutionState, event: JsonObject, *, first: bool) -> None:
        plan = event.get(PLAN_JSON) or nested_json.dumps(obj(event, "sparkPlanInfo"))
        self.release(execution)
        try:
            known = self._bytes + execution.plan_bytes
            execution.keep_plan(plan, first=first, pack=known > _PLAIN_PLAN_BYTES)
            if self._bytes + execution.plan_bytes > _MOST_PLAN_BYTES:
                execution.condense_plans()
        except UNREADABLE:
            self.not_read(execution)
        finally:
            self._bytes += execution.plan_bytes

    def release(self, execution: ExecutionState) -> None:
        self._bytes -= execution.plan_bytes

    def not_read(self, execution: ExecutionState) -> None:
        """A plan of a shape that no Spark writes makes only its own execution incomplete."""
        if not execution.damaged:
            self.unread += 1
        execution.damaged = True


class Executions:
    """SQL executions that run, or whose stages still run: from their start to their rows."""

    def __init__(self, application: Application, ran: Ran) -> None:
        self.events_seen = 0  # by the whole harvest; an execution's waiting is counted in events
        self.plans = KeptPlans()
        self._application = application
        self._ran = ran
        self._running: dict[int, ExecutionState] = {}
        self._early: OrderedDict[int, ExecutionState] = OrderedDict()
        self._finished: OrderedDict[int, None] = OrderedDict()
        # Ended executions whose stages are not done, in the order of their ends, and those that may
        # have changed since: checking all of them for each event would cost more than all the rest.
        self.waiting: dict[int, None] = {}
        self._changed: set[int] = set()
        self.events: dict[str, Handler] = {
            f"{_SQL}SQLExecutionStart": self._start,
            f"{_SQL}SQLAdaptiveExecutionUpdate": self._update,
            f"{_SQL}SQLExecutionEnd": self._end,
        }

    def __len__(self) -> int:
        return len(self._running)

    def find(self, execution_id: int | None) -> ExecutionState | None:
        if execution_id is None:
            return None
        return self._running.get(execution_id)

    def of(self, execution_id: int | None) -> ExecutionState | None:
        """The execution's state, created at its first event: jobs may come before its start.
        None without an id, and for an execution whose rows are written."""
        if execution_id is None or execution_id in self._finished:
            return None
        if execution_id not in self._running:
            early = self._early.pop(execution_id, None)
            self._running[execution_id] = early or ExecutionState(execution_id)
        return self._running[execution_id]

    def mentioned(self, execution_id: int) -> ExecutionState:
        """As `of`, for messages that the hook sends during planning. The plan may never run, so
        only a few of these are kept until their execution starts."""
        found = self._running.get(execution_id) or self._early.get(execution_id)
        if found is None:
            found = self._early[execution_id] = ExecutionState(execution_id)
            while len(self._early) > 100:
                self._early.popitem(last=False)
        return found

    def changed(self, execution: ExecutionState) -> None:
        """Notes that a job or a stage of the execution is over, so that it may be settled."""
        self._changed.add(execution.execution_id)

    def _start(self, event: JsonObject) -> Iterable[Record]:
        execution_id = integer(event.get("executionId"))
        execution = self.of(execution_id)
        if execution is None:
            return
        execution.root_id = integer(event.get("rootExecutionId"))
        execution.description = text(event.get("description"))
        execution.started_ms = time_ms(event, "time")
        self._application.saw_time(execution.started_ms)
        self.plans.keep(execution, event, first=True)
        if self._application.source == "live" and self._application.known:
            # So that the start of a run is stored even if its driver vanishes with its machine.
            ending = rows.Ending(execution.started_ms, None, aborted=False, lossy=True)
            try:
                execution.initial = execution.first_plan()
            except UNREADABLE:
                self.plans.not_read(execution)
            yield rows.execution_row(
                execution, self._application.stamp, ending, None, 0, self._application.slots
            )
            execution.initial = None

    def _update(self, event: JsonObject) -> Iterable[Record]:
        execution = self.find(integer(event.get("executionId")))
        if execution is not None:
            self.plans.keep(execution, event, first=False)
        return ()

    def _end(self, event: JsonObject) -> Iterable[Record]:
        execution_id = integer(event.get("executionId"))
        execution = self.find(execution_id)
        if execution is None or execution_id is None:
            return ()
        execution.ended = True
        execution.ended_ms = time_ms(event, "time")
        if not self._application.in_order(execution.started_ms, execution.ended_ms):
            execution.damaged = True  # its times are wrong
        if execution.started_ms and execution.ended_ms:
            execution.ended_ms = max(execution.started_ms, execution.ended_ms)
        execution.error = text(event.get("errorMessage"))
        execution.end_seen_at = self.events_seen
        self._application.saw_time(execution.ended_ms)
        self.waiting[execution_id] = None
        self._changed.add(execution_id)
        return ()

    def finish_waiting(self) -> Iterable[Record]:
        """Rows of ended executions whose stages are done, or have had no events for long."""
        for execution_id in sorted(self._changed & self.waiting.keys()):
            if self._running[execution_id].settled:
                yield from self._finish(execution_id, aborted=False)
        self._changed.clear()
        while self.waiting:
            oldest = next(iter(self.waiting))
            if self.events_seen - self._running[oldest].end_seen_at <= _PATIENCE:
                break
            yield from self._finish(oldest, aborted=False)

    def finish_all(self, *, aborted: bool) -> Iterable[Record]:
        """Rows of all remaining executions, after the last event."""
        for execution_id in list(self._running):
            yield from self._finish(execution_id, aborted=aborted)

    def _finish(self, execution_id: int, *, aborted: bool) -> list[Record]:
        """All rows of an execution; its state is dropped."""
        self.waiting.pop(execution_id, None)
        execution = self._running.pop(execution_id)
        remember(self._finished, execution_id, None)
        self._ran.leave(execution)
        initial: tuple[Exchange, ...] = ()
        ties, reading = NO_TIES, None
        self.plans.release(execution)
        try:
            execution.look_at_plans()
            initial = execution.boundaries
            ties = tie(execution, initial, self._ran.rdds)
            if execution.initial is not None:
                facts = rows.boundary_facts(execution, initial, ties)
                reading = read(execution.initial, facts)
        except UNREADABLE:
            # Its stages still become rows, without ties to a plan. No other execution is affected.
            self.plans.not_read(execution)
            initial, ties, reading = (), NO_TIES, None
        lossy = execution.damaged or self._application.events_dropped > 0
        ending = rows.Ending(execution.started_ms, execution.ended_ms, aborted, lossy)
        found: list[Record] = []
        for (stage_id, _), stage in sorted(execution.stages.items()):
            parents = ties.parents.get(stage_id)
            found.append(
                rows.stage_row(
                    stage, self._application.stamp, ties.stages.get(stage_id), parents, ending
                )
            )
        found.extend(rows.boundary_rows(execution, self._application.stamp, initial, reading, ties))
        for held in temp_storage(execution):
            found.append(
                rows.temp_storage_row(held, execution.execution_id, self._application.stamp)
            )
        shown = structure(execution, reading, self._ran.rdds)
        slots = self._application.slots
        found.append(
            rows.execution_row(
                execution, self._application.stamp, ending, ties, len(initial), slots, shown
            )
        )
        return found
