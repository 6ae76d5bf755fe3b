"""SQL executions, and what the plugin says of them: from their start to their rows."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from datetime import datetime

from phoebe_spark import nested_json
from phoebe_spark.harvest import _rows as rows
from phoebe_spark.harvest._application import ApplicationEvents
from phoebe_spark.harvest._lines import PLAN_JSON
from phoebe_spark.harvest._state import (
    ExecutionState,
    JobState,
    StageState,
    remember,
)
from phoebe_spark.harvest._structure import structure, temp_storage
from phoebe_spark.harvest._ties import NO_TIES, tie
from phoebe_spark.harvest._values import (
    UNREADABLE,
    JsonObject,
    count,
    integer,
    obj,
    text,
    time_ms,
    timestamp,
)
from phoebe_spark.plan import read
from phoebe_spark.plan.templates import Exchange
from phoebe_spark.tables.records import Record

_SQL = "org.apache.spark.sql.execution.ui.SparkListener"
_PLAIN_PLAN_BYTES = 1 << 20  # beyond it, plan versions are packed as they come
_MOST_PLAN_BYTES = 8 << 20  # of plan versions that wait to be looked at, all executions together
_PATIENCE = 5_000  # events after which an ended execution no longer waits for its stages


class ExecutionEvents(ApplicationEvents):
    """The part of `Harvest` that is about SQL executions."""

    def __init__(self, source: str, clock: Callable[[], datetime]) -> None:
        super().__init__(source, clock)
        self.unread_plans = 0  # executions that count as incomplete for it
        self._consumed = 0
        self._executions: dict[int, ExecutionState] = {}
        self._plan_bytes = 0  # of plan versions that executions keep
        self._early: OrderedDict[int, ExecutionState] = OrderedDict()
        self._finished: OrderedDict[int, None] = OrderedDict()  # executions
        # Ended executions whose stages are not done, in the order of their ends, and those of which
        # that may have changed: a look at all of them for each event would cost more than the rest.
        self._waiting: dict[int, None] = {}
        self._changed: set[int] = set()
        # What jobs and stages leave here: an execution's rows are made of it.
        self._stages: dict[tuple[int, int], StageState] = {}  # running or of a live execution
        self._jobs: dict[int, JobState] = {}
        self._left: OrderedDict[tuple[int, int], None] = OrderedDict()  # stage attempts
        self._ran_rdd: OrderedDict[int, int] = OrderedDict()  # RDD -> map stage that computed it
        self._events |= {
            f"{_SQL}SQLExecutionStart": self._execution_start,
            f"{_SQL}SQLAdaptiveExecutionUpdate": self._execution_update,
            f"{_SQL}SQLExecutionEnd": self._execution_end,
        }
        self._messages |= {"boundary": self._boundary, "checkpoint": self._checkpoint}

    @property
    def running_executions(self) -> int:
        return len(self._executions)

    def _find(self, execution_id: int | None) -> ExecutionState | None:
        if execution_id is None:
            return None
        return self._executions.get(execution_id)

    def _execution(self, execution_id: int | None) -> ExecutionState | None:
        """The execution's state, made when first heard of: jobs may come before their start.
        None without an id, and for an execution whose rows are written."""
        if execution_id is None or execution_id in self._finished:
            return None
        if execution_id not in self._executions:
            early = self._early.pop(execution_id, None)
            self._executions[execution_id] = early or ExecutionState(execution_id)
        return self._executions[execution_id]

    def _mentioned(self, execution_id: int) -> ExecutionState:
        """As `_execution`, for messages that the hook sends while it plans, which may be a plan
        that never runs: a few are kept aside until their execution starts."""
        found = self._executions.get(execution_id) or self._early.get(execution_id)
        if found is None:
            found = self._early[execution_id] = ExecutionState(execution_id)
            while len(self._early) > 100:
                self._early.popitem(last=False)
        return found

    def _execution_start(self, event: JsonObject) -> Iterable[Record]:
        execution_id = integer(event.get("executionId"))
        execution = self._execution(execution_id)
        if execution is None:
            return
        execution.root_id = integer(event.get("rootExecutionId"))
        execution.description = text(event.get("description"))
        execution.started_ms = time_ms(event, "time")
        self._saw_time(execution.started_ms)
        self._keep_plan(execution, event, first=True)
        if self.source == "live" and self._application is not None:
            # So that a run whose driver vanishes with its machine is known to have begun.
            ending = rows.Ending(execution.started_ms, None, aborted=False, lossy=True)
            try:
                execution.initial = execution.first_plan()
            except UNREADABLE:
                self._unread_plan(execution)
            yield rows.execution_row(execution, self._stamp, ending, None, 0, self._slots())
            execution.initial = None

    def _execution_update(self, event: JsonObject) -> Iterable[Record]:
        execution = self._find(integer(event.get("executionId")))
        if execution is not None:
            self._keep_plan(execution, event, first=False)
        return ()

    def _keep_plan(self, execution: ExecutionState, event: JsonObject, *, first: bool) -> None:
        plan = event.get(PLAN_JSON) or nested_json.dumps(obj(event, "sparkPlanInfo"))
        self._plan_bytes -= execution.plan_bytes
        try:
            known = self._plan_bytes + execution.plan_bytes
            execution.keep_plan(plan, first=first, pack=known > _PLAIN_PLAN_BYTES)
            if self._plan_bytes + execution.plan_bytes > _MOST_PLAN_BYTES:
                execution.condense_plans()
        except UNREADABLE:
            self._unread_plan(execution)
        finally:
            self._plan_bytes += execution.plan_bytes

    def _unread_plan(self, execution: ExecutionState) -> None:
        """A plan of a shape that no Spark writes costs that execution, and no other."""
        if not execution.damaged:
            self.unread_plans += 1
        execution.damaged = True

    def _execution_end(self, event: JsonObject) -> Iterable[Record]:
        execution_id = integer(event.get("executionId"))
        execution = self._find(execution_id)
        if execution is None or execution_id is None:
            return ()
        execution.ended = True
        execution.ended_ms = time_ms(event, "time")
        if not self._in_order(execution.started_ms, execution.ended_ms):
            execution.damaged = True  # its times mean nothing
        if execution.started_ms and execution.ended_ms:
            execution.ended_ms = max(execution.started_ms, execution.ended_ms)
        execution.error = text(event.get("errorMessage"))
        execution.end_seen_at = self._consumed
        self._saw_time(execution.ended_ms)
        self._waiting[execution_id] = None
        self._changed.add(execution_id)
        return ()

    def _finish_waiting(self) -> Iterable[Record]:
        """Rows of ended executions whose stages are done, or are not heard of any more."""
        for execution_id in sorted(self._changed & self._waiting.keys()):
            if self._executions[execution_id].settled:
                yield from self._finish(execution_id, aborted=False)
        self._changed.clear()
        while self._waiting:
            oldest = next(iter(self._waiting))
            if self._consumed - self._executions[oldest].end_seen_at <= _PATIENCE:
                break
            yield from self._finish(oldest, aborted=False)

    def _finish(self, execution_id: int, *, aborted: bool) -> list[Record]:
        """All rows of an execution; its state is dropped."""
        self._waiting.pop(execution_id, None)
        execution = self._executions.pop(execution_id)
        remember(self._finished, execution_id, None)
        for key in execution.stages:
            self._stages.pop(key, None)
            remember(self._left, key, None)
        for job_id in execution.jobs:
            self._jobs.pop(job_id, None)
        initial: tuple[Exchange, ...] = ()
        ties, reading = NO_TIES, None
        self._plan_bytes -= execution.plan_bytes
        try:
            execution.look_at_plans()
            initial = execution.boundaries
            ties = tie(execution, initial, self._ran_rdd)
            if execution.initial is not None:
                facts = rows.boundary_facts(execution, initial, ties)
                reading = read(execution.initial, facts)
        except UNREADABLE:
            # Its stages are rows all the same, tied to nothing; its neighbours are not concerned.
            self._unread_plan(execution)
            initial, ties, reading = (), NO_TIES, None
        lossy = execution.damaged or self.events_dropped > 0
        ending = rows.Ending(execution.started_ms, execution.ended_ms, aborted, lossy)
        found: list[Record] = []
        for (stage_id, _), stage in sorted(execution.stages.items()):
            parents = ties.parents.get(stage_id)
            found.append(
                rows.stage_row(stage, self._stamp, ties.stages.get(stage_id), parents, ending)
            )
        found.extend(rows.boundary_rows(execution, self._stamp, initial, reading, ties))
        for held in temp_storage(execution):
            found.append(rows.temp_storage_row(held, execution.execution_id, self._stamp))
        shown = structure(execution, reading, self._ran_rdd)
        slots = self._slots()
        found.append(
            rows.execution_row(execution, self._stamp, ending, ties, len(initial), slots, shown)
        )
        return found

    # --- the plugin's messages ------------------------------------------------------------------

    def _boundary(self, event: JsonObject) -> Iterable[Record]:
        execution_id = integer(event.get("execution_id"))
        if execution_id is not None:
            self._mentioned(execution_id).messages.append(event)
        return ()

    def _checkpoint(self, event: JsonObject) -> Iterable[Record]:
        execution_id = integer(event.get("execution_id"))
        fingerprint = text(event.get("fingerprint"))
        at = timestamp(time_ms(event, "time"))
        boundary_id = None
        if execution_id is not None:
            execution = self._mentioned(execution_id)
            if event.get("event") == "restored":
                execution.restored = True
            elif event.get("event") == "freed" and (when := time_ms(event, "time")) is not None:
                so_far = count(event.get("freed_bytes"))
                execution.freed.append((when, text(event.get("path")), so_far))
            if fingerprint is not None:
                try:
                    boundary_id = execution.boundary_of(fingerprint)
                except UNREADABLE:
                    self._unread_plan(execution)
        if self._application is not None:
            yield rows.checkpoint_row(event, self._stamp, at or self._clock(), boundary_id)
