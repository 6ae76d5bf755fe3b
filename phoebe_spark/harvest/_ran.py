"""The jobs and stages that ran and are still needed: jobs add them, executions remove them."""

from __future__ import annotations

from collections import OrderedDict

from phoebe_spark.harvest._state import ExecutionState, JobState, StageState, remember


class Ran:
    """``stages``: attempts that run, or ran for an execution whose rows are not written yet;
    ``left``: attempts whose rows are written; ``jobs``: running jobs; ``rdds``: for each RDD the
    map stage that computed it last."""

    def __init__(self) -> None:
        self.stages: dict[tuple[int, int], StageState] = {}
        self.left: OrderedDict[tuple[int, int], None] = OrderedDict()
        self.jobs: dict[int, JobState] = {}
        self.rdds: OrderedDict[int, int] = OrderedDict()

    def leave(self, execution: ExecutionState) -> None:
        """Removes an attempt whose rows are written."""
        for key in execution.stages:
            self.stages.pop(key, None)
            remember(self.left, key, None)
        for job_id in execution.jobs:
            self.jobs.pop(job_id, None)

    def leave_stage(self, stage: StageState) -> None:
        del self.stages[stage.stage_id, stage.attempt]
        remember(self.left, (stage.stage_id, stage.attempt), None)
