"""Jobs, stages and tasks; rows of stages outside any SQL execution."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from phoebe_spark.harvest import _rows as rows
from phoebe_spark.harvest._application import Application, Handler
from phoebe_spark.harvest._executions import Executions
from phoebe_spark.harvest._ran import Ran
from phoebe_spark.harvest._state import (
    ExecutionState,
    JobState,
    StageState,
    first_rdd,
    parent_ids,
    remember,
)
from phoebe_spark.harvest._ties import resolve
from phoebe_spark.harvest._values import (
    JsonObject,
    count,
    integer,
    items,
    obj,
    time_ms,
)
from phoebe_spark.tables.records import Record

_EXECUTION_ID = "spark.sql.execution.id"
_INTERNAL = "spark.phoebe.internal"


class Jobs:
    """The stages of each job and execution, with the figures of their tasks."""

    def __init__(self, application: Application, executions: Executions, ran: Ran) -> None:
        self._application = application
        self._executions = executions
        self._ran = ran
        self._stage_jobs: dict[int, tuple[int, int | None]] = {}  # stage -> job, execution
        self._plain_skipped: OrderedDict[int, int] = OrderedDict()
        self._ours: OrderedDict[int, None] = OrderedDict()  # stages of our own jobs
        self._passed: OrderedDict[int, None] = OrderedDict()  # stages of jobs that came too late
        self.events: dict[str, Handler] = {
            "SparkListenerJobStart": self._job_start,
            "SparkListenerJobEnd": self._job_end,
            "SparkListenerStageSubmitted": self._stage_submitted,
            "SparkListenerStageCompleted": self._stage_completed,
            "SparkListenerTaskEnd": self._task_end,
        }

    def finish_all(self) -> Iterable[Record]:
        """Rows of the stages that are left outside of executions."""
        for stage in self._ran.stages.values():
            yield self._plain_stage(stage, aborted=True)
        self._ran.stages.clear()

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
                remember(self._ours, stage_id, None)
            return ()
        if job_id is None:
            return ()
        self._application.saw_time(time_ms(event, "Submission Time"))
        execution_id = integer(properties.get(_EXECUTION_ID))
        execution = self._executions.of(execution_id)
        if execution_id is not None and execution is None:
            for stage_id in stage_ids:
                remember(self._passed, stage_id, None)
            return ()  # its execution is over: an event out of order
        without_tasks = {i for info in infos if info.get("Number of Tasks") == 0
                         and (i := integer(info.get("Stage ID"))) is not None}  # fmt: skip
        working = frozenset(stage_ids - without_tasks)
        self._ran.jobs[job_id] = JobState(job_id, execution_id, frozenset(stage_ids), working)
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
                remember(self._plain_skipped, listed_id, rdd_id)
        return ()

    def _job_end(self, event: JsonObject) -> Iterable[Record]:
        self._application.saw_time(time_ms(event, "Completion Time"))
        job = self._ran.jobs.pop(integer(event.get("Job ID")) or 0, None)
        if job is None:
            return ()
        for stage_id in job.stage_ids:
            if self._stage_jobs.get(stage_id, (None, None))[0] == job.job_id:
                del self._stage_jobs[stage_id]
        execution = self._executions.find(job.execution_id)
        if execution is not None:
            execution.jobs.discard(job.job_id)
            self._executions.changed(execution)
            # A failed job does not fail its execution: AQE cancels jobs that it no longer needs.
            succeeded = obj(event, "Job Result").get("Result") == "JobSucceeded"
            if succeeded and not self._all_known(job, execution):
                execution.damaged = True
        return ()

    def _all_known(self, job: JobState, execution: ExecutionState) -> bool:
        """Whether each stage of a job that succeeded was seen to run, in it or in an earlier job.
        Event logs do not say where Spark's bus dropped events."""
        ran = {stage_id for stage_id, _ in execution.stages}
        for stage_id in job.working - ran:
            rdd_id = execution.skipped.get(stage_id)
            if rdd_id is None or rdd_id not in self._ran.rdds:
                return False
            self._ran.rdds.move_to_end(rdd_id)
        return True

    def _stage(self, info: JsonObject, properties: JsonObject) -> StageState | None:
        """The state of the stage attempt that ``info`` describes; None for our own stages."""
        stage_id, attempt = integer(info.get("Stage ID")), count(info.get("Stage Attempt ID"))
        if stage_id is None or stage_id in self._ours:
            return None
        if properties.get(_INTERNAL) == "true":
            remember(self._ours, stage_id, None)
            return None
        stage = self._ran.stages.get((stage_id, attempt))
        if stage is None:
            job_id, execution_id = self._stage_jobs.get(stage_id, (None, None))
            said = integer(properties.get(_EXECUTION_ID))
            execution_id = said if said is not None else execution_id
            execution = self._executions.of(execution_id)
            if (stage_id, attempt) in self._ran.left or (
                execution_id is not None and not execution
            ):
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
            self._ran.stages[stage_id, attempt] = stage
            if execution is not None:
                execution.stages[stage_id, attempt] = stage
        stage.stage_info(info)
        return stage

    def _stage_submitted(self, event: JsonObject) -> Iterable[Record]:
        stage = self._stage(obj(event, "Stage Info"), obj(event, "Properties"))
        if stage is not None:
            self._application.saw_time(stage.submitted_ms)
        return ()

    def _stage_completed(self, event: JsonObject) -> Iterable[Record]:
        info = obj(event, "Stage Info")
        if self._unheard_of(info):
            # Its execution is not known, so any execution may lack a stage.
            yield from self._application.lost(1)
        stage = self._stage(info, {})
        if stage is None or stage.completed:
            return
        stage.completed = True
        execution = self._executions.find(stage.execution_id)
        if execution is not None:
            self._executions.changed(execution)
        if (
            not self._application.in_order(stage.submitted_ms, stage.completed_ms)
            and execution is not None
        ):
            execution.damaged = True
        self._application.saw_time(stage.completed_ms)
        if stage.writes_shuffle is not False and stage.rdd_id is not None:
            remember(self._ran.rdds, stage.rdd_id, stage.stage_id)
        if stage.execution_id is None:
            self._ran.leave_stage(stage)
            yield self._plain_stage(stage, aborted=False)

    def _unheard_of(self, info: JsonObject) -> bool:
        """Whether a stage ends without a start event of its own or of its job: Spark's bus drops
        events, and a log does not say so (the plugin does)."""
        stage_id, attempt = integer(info.get("Stage ID")), count(info.get("Stage Attempt ID"))
        if self._application.source != "eventlog" or stage_id is None:
            return False
        known = (self._stage_jobs, self._ours, self._passed)
        attempts = (self._ran.stages, self._ran.left)
        return not any(stage_id in ids for ids in known) and not any(
            (stage_id, attempt) in ids for ids in attempts
        )

    def _task_end(self, event: JsonObject) -> Iterable[Record]:
        stage_id, attempt = integer(event.get("Stage ID")), count(event.get("Stage Attempt ID"))
        if stage_id is None or stage_id in self._ours:
            return ()
        stage = self._ran.stages.get((stage_id, attempt))
        if stage is not None:
            stage.task_ended(event)
            self._application.saw_time(time_ms(obj(event, "Task Info"), "Finish Time"))
        return ()

    def _plain_stage(self, stage: StageState, *, aborted: bool) -> Record:
        """The row of a stage of a plain RDD job: no execution, so no relative times."""
        resolved = {
            resolve(parent, {}, self._plain_skipped, self._ran.rdds) for parent in stage.parent_ids
        }
        known = tuple(sorted(p for p in resolved if p is not None and p != stage.stage_id))
        ending = rows.Ending(None, None, aborted, lossy=self._application.events_dropped > 0)
        return rows.stage_row(stage, self._application.stamp, None, known, ending)
