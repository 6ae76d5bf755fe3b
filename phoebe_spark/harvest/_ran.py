"""What ran, and what of it is still wanted: jobs and stages put it here, executions take it out."""

from __future__ import annotations

from collections import OrderedDict

from phoebe_spark.harvest._state import ExecutionState, JobState, StageState, remember


class Ran:
    """``stages``: attempts that run, or ran for an execution whose rows are not written yet;
    ``left``: attempts whose rows are; ``jobs``: those that run; ``rdds``: an RDD, and the map stage
    that computed it last."""

    def __init__(self) -> None:
        self.stages: dict[tuple[int, int], StageState] = {}
        self.left: OrderedDict[tuple[int, int], None] = OrderedDict()
        self.jobs: dict[int, JobState] = {}
        self.rdds: OrderedDict[int, int] = OrderedDict()

    def leave(self, execution: ExecutionState) -> None:
        """Its rows are written: nothing of it is wanted any more."""
        for key in execution.stages:
            self.stages.pop(key, None)
            remember(self.left, key, None)
        for job_id in execution.jobs:
            self.jobs.pop(job_id, None)

    def leave_stage(self, stage: StageState) -> None:
        del self.stages[stage.stage_id, stage.attempt]
        remember(self.left, (stage.stage_id, stage.attempt), None)
