"""All that is read of a plan before its run, in one call: `read`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from phoebe_spark.graph import Boundary
from phoebe_spark.plan.features import features
from phoebe_spark.plan.nodes import PlanNode, body
from phoebe_spark.plan.stages import PlanGraph, derive
from phoebe_spark.plan.templates import Digests


@dataclass(frozen=True, slots=True)
class Reading:
    """``plan_graph``: its stages; ``features``: the predictors' inputs, by stage id; ``template``:
    what recurs of the whole plan."""

    plan_graph: PlanGraph
    features: Mapping[int, Mapping[str, float]]
    template: str

    @property
    def boundaries(self) -> dict[str, Boundary]:
        """The shuffles by boundary id; of two that are run once, the one that is."""
        return {
            stage.boundary.boundary_id: stage.boundary
            for stage in self.plan_graph.graph.stages
            if stage.boundary is not None and stage.is_shuffle
        }

    @property
    def features_of_boundaries(self) -> dict[str, Mapping[str, float]]:
        """The features of the stages that end with a shuffle, by boundary id."""
        return {
            stage.boundary.boundary_id: self.features[stage.stage_id]
            for stage in self.plan_graph.graph.stages
            if stage.boundary is not None and stage.is_shuffle
        }


def read(plan: PlanNode, facts: Iterable[Mapping[str, Any]] = ()) -> Reading:
    """Read ``plan``; ``facts`` are the boundaries of a ``plan`` message (docs/protocol.md), as
    `phoebe_spark.plan.stages.derive` takes them. Inner shuffles and sampling jobs are counted to
    the stage that they serve."""
    graph = derive(plan, facts, inner=False)
    return Reading(graph, features(graph), Digests.of(plan).template(body(plan)))
