"""A plan's stages as the tables keep them: no text of the plan, so no literals and no paths.

What a driver asks about before a run and what training reads after it are both this, so that both
see the same graph (`phoebe_spark.predict.query.build_query`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from phoebe_spark.plan.stages import PlanGraph


@dataclass(frozen=True, slots=True)
class PlannedStage:
    """One stage of a plan: its last operator first; ``reads``: the stages whose output it reads, by
    their place in the list, and by which connector."""

    template: str
    boundary: str | None
    operators: tuple[str, ...]
    reads: tuple[tuple[int, str], ...]

    @property
    def parents(self) -> tuple[int, ...]:
        return tuple(dict.fromkeys(place for place, _ in self.reads))


def planned_stages(plan: PlanGraph) -> tuple[PlannedStage, ...]:
    """The stages of ``plan``, each in the place of its id."""
    return tuple(
        PlannedStage(
            stage.template,
            stage.boundary.boundary_id if stage.boundary else None,
            stage.operators,
            plan.reads[stage.stage_id],
        )
        for stage in plan.graph.stages
    )


def to_json(stages: Sequence[PlannedStage]) -> str:
    """``plan`` of `phoebe_spark.tables.records.ExecutionRecord`."""
    return json.dumps([asdict(stage) for stage in stages])


def from_json(text: str) -> tuple[PlannedStage, ...]:
    """Raises ``ValueError``, ``LookupError`` or ``TypeError`` for text of another shape."""
    return tuple(
        PlannedStage(
            str(row["template"]),
            row["boundary"],
            tuple(row["operators"]),
            tuple((int(place), str(kind)) for place, kind in row["reads"]),
        )
        for row in json.loads(text)
    )
