"""`Harvest`: one application's events in, rows out."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from phoebe_spark.harvest import _rows as rows
from phoebe_spark.harvest._state import (
    ExecutionState,
    JobState,
    StageState,
    first_rdd,
    parent_ids,
)
from phoebe_spark.harvest._ties import NO_TIES, resolve, tie
from phoebe_spark.harvest._values import (
    JsonObject,
    count,
    integer,
    items,
    obj,
    text,
    time_ms,
    timestamp,
)
from phoebe_spark.plan import Exchange, exchanges, parse_plan
from phoebe_spark.plan_graph import derive
from phoebe_spark.records import ApplicationRecord, ExecutorRecord, Record

_SQL = "org.apache.spark.sql.execution.ui.SparkListener"
_EXECUTION_ID = "spark.sql.execution.id"
_INTERNAL = "spark.phoebe.internal"
_REMEMBERED = 20_000  # RDDs and our own stages: integers, oldest forgotten
_UNREADABLE = (
    TypeError, ValueError, LookupError, AttributeError, OverflowError, RecursionError
)  # fmt: skip
_PATIENCE = 5_000  # events after which an ended execution no longer waits for its stages


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
    (``malformed``) and lost; nothing raises. After a loss no execution counts as complete that
    was not over before: what was lost may have been a stage of it, or a version of its plan.
    Rows of an execution come when it has ended and its stages are done, and its state is then
    dropped.
    """

    def __init__(self, *, source: str = "live", clock: Callable[[], datetime] = _now) -> None:
        self.source = source
        self.malformed = 0
        self.ended = False  # ApplicationEnd or `end` was seen
        self._clock = clock
        self._last_written: datetime | None = None
        self._consumed = 0
        self._application: ApplicationRecord | None = None
        self._known: dict[str, str | int | None] = {}  # application fields said before its start
        self._ended_ms: int | None = None
        self._last_ms: int | None = None
        self._dropped = 0  # as the plugin counts
        self._lost = 0  # as whoever reads for us counts
        self._cores: dict[str, int] = {}
        self._executors: dict[str, ExecutorRecord] = {}
        self._executions: dict[int, ExecutionState] = {}
        self._early: OrderedDict[int, ExecutionState] = OrderedDict()
        self._stages: dict[tuple[int, int], StageState] = {}  # running or of a live execution
        self._jobs: dict[int, JobState] = {}
        self._stage_jobs: dict[int, tuple[int, int | None]] = {}  # stage -> job, execution
        self._plain_skipped: OrderedDict[int, int] = OrderedDict()
        self._ran_rdd: OrderedDict[int, int] = OrderedDict()  # RDD -> map stage that computed it
        self._ours: OrderedDict[int, None] = OrderedDict()  # stages of our own jobs
        self._finished: OrderedDict[int, None] = OrderedDict()  # executions
        self._left: OrderedDict[tuple[int, int], None] = OrderedDict()  # stage attempts
        self._waiting: set[int] = set()  # ended executions whose stages are not done
        self._events: dict[str, Callable[[JsonObject], Iterable[Record]]] = {
            "SparkListenerLogStart": self._log_start,
            "SparkListenerApplicationStart": self._application_start,
            "SparkListenerApplicationEnd": self._application_end,
            "SparkListenerExecutorAdded": self._executor_added,
            "SparkListenerExecutorRemoved": self._executor_removed,
            "SparkListenerJobStart": self._job_start,
            "SparkListenerJobEnd": self._job_end,
            "SparkListenerStageSubmitted": self._stage_submitted,
            "SparkListenerStageCompleted": self._stage_completed,
            "SparkListenerTaskEnd": self._task_end,
            f"{_SQL}SQLExecutionStart": self._execution_start,
            f"{_SQL}SQLAdaptiveExecutionUpdate": self._execution_update,
            f"{_SQL}SQLExecutionEnd": self._execution_end,
        }
        self._messages: dict[str, Callable[[JsonObject], Iterable[Record]]] = {
            "hello": self._hello,
            "boundary": self._boundary,
            "checkpoint": self._checkpoint,
            "dropped": self._dropped_events,
            "end": self._application_end,
        }

    @property
    def app_id(self) -> str | None:
        """The application's id; None until it was heard of."""
        return self._application.app_id if self._application else None

    @property
    def app_attempt(self) -> str:
        return self._application.app_attempt if self._application else ""

    @property
    def events_dropped(self) -> int:
        """Events that never came here, or came unreadable."""
        return self._dropped + self._lost

    @property
    def running_executions(self) -> int:
        return len(self._executions)

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
        except _UNREADABLE:
            # An event of a shape that no Spark writes: count it, and trust nothing around it.
            self.malformed += 1
            return self.lost(1)
        if self._waiting:
            found.extend(self._finish_waiting())
        return found if self._application else []

    def lost(self, events: int) -> list[Record]:
        """As the plugin's `dropped` message, for what is lost behind the plugin's back: lines that
        cannot be read, rows that cannot be stored. Call it where the loss is, ``events`` being
        those lost since the last call."""
        known = self.events_dropped
        self._lost += events
        return self._tell_loss(known)

    def _tell_loss(self, known: int) -> list[Record]:
        """An application row at the first loss: training must hear of it with the next rows."""
        if self._application is None or known or not self.events_dropped:
            return []
        return [self._application_row()]

    def lease(self, until: datetime) -> list[Record]:
        """An application row that renews the lease of a live driver."""
        if self._application is None:
            return []
        return [self._application_row(lease_until=until)]

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

    # --- identity -------------------------------------------------------------------------------

    def _stamp(self) -> rows.Identity:
        at = self._clock()
        if self._last_written is not None and at <= self._last_written:
            at = self._last_written + timedelta(microseconds=1)
        self._last_written = at
        application = self._application
        started = application.started_at if application else None
        return {
            "date": (started or at).date(),
            "app_id": application.app_id if application else "",
            "app_attempt": application.app_attempt if application else "",
            "source": self.source,
            "written_at": at,
        }

    def _application_row(self, **changes: object) -> ApplicationRecord:
        assert self._application is not None
        slots = self._application.slots
        if sum(self._cores.values()):
            slots = max(slots or 0, sum(self._cores.values()))
        changes = {
            "slots": slots,
            "events_dropped": self.events_dropped,
            **self._stamp(),
            **changes,
        }
        self._application = replace(self._application, **changes)  # type: ignore[arg-type]
        return self._application

    def _introduce(self, app_id: str | None, started_ms: int | None) -> Iterable[Record]:
        """The application's start row, once; what is learned later comes with its next row."""
        if app_id is None:
            return
        known = self._known
        first = self._application is None
        if first:
            identity = self._stamp()
            identity["app_id"] = app_id
            started = timestamp(started_ms)
            if started is not None:
                identity["date"] = started.date()
            identity["app_attempt"] = str(known.get("app_attempt") or "")
            self._application = ApplicationRecord(**identity, started_at=started)
        elif self._application is not None and self._application.app_id != app_id:
            self.malformed += 1  # two applications in one stream: the first one stays
            return
        changes = {name: value for name, value in known.items() if value is not None}
        changes.pop("app_attempt", None)
        name = known.get("app_name")
        yield self._application_row(
            **changes, job=rows.job_name(str(name)) if name is not None else None
        )
        if first:
            for executor_id, executor in self._executors.items():
                self._executors[executor_id] = replace(executor, **self._stamp())
                yield self._executors[executor_id]

    def _learn(self, **fields: str | int | None) -> None:
        self._known.update({name: value for name, value in fields.items() if value is not None})

    def _saw_time(self, ms: int | None) -> None:
        if ms is not None and (self._last_ms is None or ms > self._last_ms):
            self._last_ms = ms

    # --- application and executors --------------------------------------------------------------

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
            self._dropped = max(self._dropped, 1)  # the beginning went elsewhere
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
        self._saw_time(started)
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

    def _executor_added(self, event: JsonObject) -> Iterable[Record]:
        executor_id = text(event.get("Executor ID"))
        if executor_id is None:
            return
        info = obj(event, "Executor Info")
        cores = count(info.get("Total Cores"))
        self._cores[executor_id] = cores
        row = ExecutorRecord(
            **self._stamp(),
            executor_id=executor_id,
            host=text(info.get("Host")),
            cores=cores,
            added_at=timestamp(time_ms(event, "Timestamp")),
        )
        self._executors[executor_id] = row
        if self._application is not None:
            yield row

    def _executor_removed(self, event: JsonObject) -> Iterable[Record]:
        executor_id = text(event.get("Executor ID"))
        if executor_id is None:
            return
        self._cores.pop(executor_id, None)
        known = self._executors.pop(executor_id, None)
        row = known or ExecutorRecord(**self._stamp(), executor_id=executor_id)
        yield replace(
            row,
            **self._stamp(),
            removed_at=timestamp(time_ms(event, "Timestamp")),
            removal_reason=(text(event.get("Removed Reason")) or "")[:200] or None,
        )

    # --- jobs, stages, tasks --------------------------------------------------------------------

    def _job_start(self, event: JsonObject) -> Iterable[Record]:
        job_id = integer(event.get("Job ID"))
        properties = obj(event, "Properties")
        infos = [info for info in items(event, "Stage Infos") if isinstance(info, dict)]
        listed = {i for i in map(integer, items(event, "Stage IDs")) if i is not None}
        stage_ids = listed | {
            i for info in infos if (i := integer(info.get("Stage ID"))) is not None
        }
        if properties.get(_INTERNAL) == "true":
            for stage_id in stage_ids:
                _remember(self._ours, stage_id, None)
            return ()
        if job_id is None:
            return ()
        self._saw_time(time_ms(event, "Submission Time"))
        execution_id = integer(properties.get(_EXECUTION_ID))
        execution = self._execution(execution_id)
        if execution_id is not None and execution is None:
            return ()  # its execution is over: an event out of order
        self._jobs[job_id] = JobState(job_id, execution_id, frozenset(stage_ids))
        if execution is not None:
            execution.jobs.add(job_id)
        for stage_id in stage_ids:
            self._stage_jobs[stage_id] = (job_id, execution_id)
        for info in infos:
            listed_id, rdd_id = integer(info.get("Stage ID")), first_rdd(info)
            if listed_id is None or rdd_id is None:
                continue
            if execution is not None:
                execution.skipped[listed_id] = rdd_id
            else:
                _remember(self._plain_skipped, listed_id, rdd_id)
        return ()

    def _job_end(self, event: JsonObject) -> Iterable[Record]:
        self._saw_time(time_ms(event, "Completion Time"))
        job = self._jobs.pop(integer(event.get("Job ID")) or 0, None)
        if job is None:
            return ()
        for stage_id in job.stage_ids:
            if self._stage_jobs.get(stage_id, (None, None))[0] == job.job_id:
                del self._stage_jobs[stage_id]
        execution = self._find(job.execution_id)
        if execution is not None:
            execution.jobs.discard(job.job_id)
            # A failed job alone does not fail an execution: AQE cancels what it no longer needs.
        return ()

    def _stage(self, info: JsonObject, properties: JsonObject) -> StageState | None:
        """The state of the stage attempt that ``info`` describes; None for our own stages."""
        stage_id, attempt = integer(info.get("Stage ID")), count(info.get("Stage Attempt ID"))
        if stage_id is None or stage_id in self._ours:
            return None
        if properties.get(_INTERNAL) == "true":
            _remember(self._ours, stage_id, None)
            return None
        stage = self._stages.get((stage_id, attempt))
        if stage is None:
            job_id, execution_id = self._stage_jobs.get(stage_id, (None, None))
            said = integer(properties.get(_EXECUTION_ID))
            execution_id = said if said is not None else execution_id
            execution = self._execution(execution_id)
            if (stage_id, attempt) in self._left or (execution_id is not None and not execution):
                return None  # its rows are written: an event out of order
            stage = StageState(
                stage_id=stage_id,
                attempt=attempt,
                execution_id=execution_id,
                job_id=job_id,
                name=None,
                task_count=0,
                parent_ids=parent_ids(info),
                rdd_id=first_rdd(info),
            )
            self._stages[stage_id, attempt] = stage
            if execution is not None:
                execution.stages[stage_id, attempt] = stage
        stage.stage_info(info)
        return stage

    def _stage_submitted(self, event: JsonObject) -> Iterable[Record]:
        stage = self._stage(obj(event, "Stage Info"), obj(event, "Properties"))
        if stage is not None:
            self._saw_time(stage.submitted_ms)
        return ()

    def _stage_completed(self, event: JsonObject) -> Iterable[Record]:
        info = obj(event, "Stage Info")
        stage = self._stage(info, {})
        if stage is None or stage.completed:
            return
        stage.completed = True
        self._saw_time(stage.completed_ms)
        if stage.writes_shuffle is not False and stage.rdd_id is not None:
            _remember(self._ran_rdd, stage.rdd_id, stage.stage_id)
        if stage.execution_id is None:
            del self._stages[stage.stage_id, stage.attempt]
            _remember(self._left, (stage.stage_id, stage.attempt), None)
            yield self._plain_stage(stage, aborted=False)

    def _task_end(self, event: JsonObject) -> Iterable[Record]:
        stage_id, attempt = integer(event.get("Stage ID")), count(event.get("Stage Attempt ID"))
        if stage_id is None or stage_id in self._ours:
            return ()
        stage = self._stages.get((stage_id, attempt))
        if stage is not None:
            stage.task_ended(event)
            self._saw_time(time_ms(obj(event, "Task Info"), "Finish Time"))
        return ()

    def _plain_stage(self, stage: StageState, *, aborted: bool) -> Record:
        """The row of a stage of a plain RDD job: no execution, so no relative times."""
        resolved = {
            resolve(parent, {}, self._plain_skipped, self._ran_rdd) for parent in stage.parent_ids
        }
        known = tuple(sorted(p for p in resolved if p is not None and p != stage.stage_id))
        ending = rows.Ending(None, None, aborted, lossy=self.events_dropped > 0)
        return rows.stage_row(stage, self._stamp, None, known, ending)

    # --- SQL executions -------------------------------------------------------------------------

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
        plan = parse_plan(obj(event, "sparkPlanInfo"))
        execution.initial = plan
        execution.see_plan(plan)
        if self.source == "live" and self._application is not None:
            # So that a run whose driver vanishes with its machine is known to have begun.
            ending = rows.Ending(execution.started_ms, None, aborted=False, lossy=True)
            yield rows.execution_row(execution, self._stamp, ending, None, 0, self._slots())

    def _execution_update(self, event: JsonObject) -> Iterable[Record]:
        execution = self._find(integer(event.get("executionId")))
        if execution is not None:
            execution.see_plan(parse_plan(obj(event, "sparkPlanInfo")))
        return ()

    def _execution_end(self, event: JsonObject) -> Iterable[Record]:
        execution_id = integer(event.get("executionId"))
        execution = self._find(execution_id)
        if execution is None or execution_id is None:
            return ()
        execution.ended = True
        execution.ended_ms = time_ms(event, "time")
        if execution.started_ms and execution.ended_ms:
            execution.ended_ms = max(execution.started_ms, execution.ended_ms)
        execution.error = text(event.get("errorMessage"))
        execution.end_seen_at = self._consumed
        self._saw_time(execution.ended_ms)
        self._waiting.add(execution_id)
        return ()

    def _finish_waiting(self) -> Iterable[Record]:
        """Rows of ended executions whose stages are done, or are not heard of any more."""
        for execution_id in list(self._waiting):
            execution = self._executions.get(execution_id)
            if execution is None:
                self._waiting.discard(execution_id)
            elif execution.settled or self._consumed - execution.end_seen_at > _PATIENCE:
                yield from self._finish(execution_id, aborted=False)

    def _finish(self, execution_id: int, *, aborted: bool) -> list[Record]:
        """All rows of an execution; its state is dropped."""
        self._waiting.discard(execution_id)
        execution = self._executions.pop(execution_id)
        _remember(self._finished, execution_id, None)
        for key in execution.stages:
            self._stages.pop(key, None)
            _remember(self._left, key, None)
        for job_id in execution.jobs:
            self._jobs.pop(job_id, None)
        initial: tuple[Exchange, ...] = ()
        ties, plan = NO_TIES, None
        try:
            if execution.initial is not None:
                initial = exchanges(execution.initial)
            ties = tie(execution, initial, self._ran_rdd)
            if execution.initial is not None:
                plan = derive(execution.initial, rows.boundary_facts(execution, initial, ties))
        except _UNREADABLE:
            # A plan that no Spark writes: its stages are rows all the same, tied to nothing.
            self.malformed += 1
            execution.damaged = True
            initial, ties, plan = (), NO_TIES, None
        lossy = execution.damaged or self.events_dropped > 0
        ending = rows.Ending(execution.started_ms, execution.ended_ms, aborted, lossy)
        found: list[Record] = []
        for (stage_id, _), stage in sorted(execution.stages.items()):
            parents = ties.parents.get(stage_id)
            found.append(
                rows.stage_row(stage, self._stamp, ties.stages.get(stage_id), parents, ending)
            )
        found.extend(rows.boundary_rows(execution, self._stamp, initial, plan, ties))
        found.append(
            rows.execution_row(execution, self._stamp, ending, ties, len(initial), self._slots())
        )
        return found

    def _slots(self) -> int | None:
        return sum(self._cores.values()) or (self._application.slots if self._application else None)

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
            if fingerprint is not None:
                boundary_id = _boundary_of(execution, fingerprint)
        if self._application is not None:
            yield rows.checkpoint_row(event, self._stamp, at or self._clock(), boundary_id)


def _boundary_of(execution: ExecutionState, fingerprint: str) -> str | None:
    """The first boundary of the initial plan that the plugin named with this fingerprint."""
    if execution.initial is None:
        return None
    named = {
        integer(message.get("acc_id"))
        for message in execution.messages
        if message.get("fingerprint") == fingerprint
    }
    for exchange in exchanges(execution.initial):
        if exchange.node.shuffle_acc_id in named:
            return exchange.boundary_id
    return None


_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


def _remember(known: OrderedDict[_Key, _Value], key: _Key, value: _Value) -> None:
    known[key] = value
    known.move_to_end(key)
    while len(known) > _REMEMBERED:
        known.popitem(last=False)
