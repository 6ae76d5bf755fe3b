"""One execution as the predictors see it: `Query`, made from the stages of its first plan.

Both sides, the driver that asks before a run and the training that looks back, build it here
(`build_query`), from the same form of a plan (`phoebe_spark.plan.stored`): a model never meets an
input in service that was made in another way in training.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from phoebe_spark.graph import Boundary, Stage, StageGraph
from phoebe_spark.plan import Reading
from phoebe_spark.plan.features import GROUP_NAMES, operator_group
from phoebe_spark.plan.stages import carrier_of
from phoebe_spark.plan.stored import PlannedStage, planned_stages

NAN = float("nan")


@dataclass(frozen=True, slots=True)
class Query:
    """An execution to predict.

    ``features`` holds the plan features of stages that write a shuffle, by stage id;
    ``template`` is the whole plan's; ``slots`` the cores that it runs on.
    """

    graph: StageGraph
    features: Mapping[int, Mapping[str, float]]
    template: str
    slots: int


def build_query(
    stages: Sequence[PlannedStage],
    boundaries: Mapping[str, Boundary],
    features: Mapping[str, Mapping[str, float]],
    template: str,
    slots: int,
) -> Query:
    """A query before its run: stage ids are places in ``stages``, figures are 0.

    ``boundaries`` is what is known of the shuffles, ``features`` their stages' plan features, both
    by boundary id.
    """
    found: list[Stage] = []
    seen: dict[int, Mapping[str, float]] = {}
    for stage_id, planned in enumerate(stages):
        boundary = None
        if planned.boundary is not None:
            boundary = boundaries.get(planned.boundary) or Boundary(
                planned.boundary,
                planned.template,
                eligible=False,
                carrier=carrier_of(planned.boundary),
            )
            if planned.boundary in features:
                seen[stage_id] = features[planned.boundary]
        found.append(
            Stage(
                stage_id,
                planned.parents,
                template=planned.template,
                boundary=boundary,
                operators=planned.operators,
            )
        )
    return Query(StageGraph(tuple(found)), seen, template, max(1, slots))


def query_of(reading: Reading, slots: int) -> Query:
    """The query that a plan asks about."""
    stages = planned_stages(reading.plan_graph)
    known = reading.boundaries
    return build_query(stages, known, reading.features_of_boundaries, reading.template, slots)


def stage_key(query: Query, stage: Stage) -> str:
    """What recurs most exactly: this boundary, or the result, of this template."""
    if stage.boundary is not None and stage.boundary.carrier != "broadcast":
        return f"{query.template}/{stage.boundary.boundary_id}"
    return f"{query.template}/{'broadcast' if stage.boundary else 'result'}/{stage.template}"


def template_key(stage: Stage) -> str:
    """What recurs across queries: the stage's own template."""
    return f"*/{stage.template}"


def log_size(query: Query) -> float:
    """The size of the query's inputs: natural log of the median of Catalyst's estimates (bytes)
    over the boundaries that read no other boundary; NaN when there are none.

    Only differences between two runs of one template are used, so the level does not matter; a
    median keeps one table that did not grow, or a filter's guess, from speaking for all.
    """
    sizes = []
    reads_shuffle: dict[int, bool] = {}
    for stage in query.graph.stages:
        reads = any(reads_shuffle[p] for p in stage.parents)
        reads_shuffle[stage.stage_id] = reads or stage.is_shuffle
        boundary = stage.boundary
        if stage.is_shuffle and not reads and boundary is not None and boundary.catalyst_bytes:
            sizes.append(math.log(boundary.catalyst_bytes))
    return median(sizes) if sizes else NAN


def log_partitions(stage: Stage) -> float:
    partitions = stage.boundary.partitions if stage.boundary is not None else None
    return math.log(partitions) if partitions else NAN


def plan_features(query: Query) -> dict[int, dict[str, float]]:
    """The plan features of every stage, by stage id.

    A stage that writes a shuffle has those of `plan.features`; of the others only what a
    run's rows also tell (operators, place in the graph).
    """
    graph = query.graph
    readers = Counter(p for s in graph.stages for p in s.parents)
    shuffles = {s.stage_id: s.is_shuffle for s in graph.stages}
    depth: dict[int, int] = {}
    made: dict[int, dict[str, float]] = {}
    for stage in graph.stages:
        u = stage.stage_id
        depth[u] = 1 + max((depth[p] for p in stage.parents), default=-1)
        found = _own_groups(stage.operators)
        found["depth"] = float(depth[u])
        found["parents"] = float(len(stage.parents))
        found["parents_shuffle"] = float(sum(shuffles[p] for p in stage.parents))
        found["readers"] = float(readers[u])
        found["graph_stages"] = float(len(graph.stages))
        found["writes_shuffle"] = float(shuffles[u])
        found["log_slots"] = math.log(max(1, query.slots))
        if shuffles[u]:
            found.update(query.features.get(u, {}))
        made[u] = found
    return made


def _own_groups(operators: Sequence[str]) -> dict[str, float]:
    counts = Counter(operator_group(kind) for kind in operators)
    return {f"own_{group}": float(counts[group]) for group in GROUP_NAMES}
