"""Made-up queries whose figures follow from the size of their inputs."""

from __future__ import annotations

import random
from dataclasses import replace

from phoebe_spark.cluster.simulate import simulate, with_times
from phoebe_spark.graph import Boundary, Stage, StageGraph
from phoebe_spark.predict.heads import HEADS, HeadModel
from phoebe_spark.predict.history import Histories
from phoebe_spark.predict.predictor import Predictor
from phoebe_spark.predict.query import Query

SLOTS = 2


def query(
    template: str, size_mb: float, rng: random.Random | None = None, *, known: bool = True
) -> Query:
    """Two scans, a join, an aggregate and a result, for inputs of ``size_mb``.

    The second scan and the aggregate's output do not grow; ``known``: Catalyst's estimates are.
    """

    def noise() -> float:
        return rng.lognormvariate(0, 0.1) if rng is not None else 1.0

    kind = sum(map(ord, template)) % 5 + 1
    shuffles = [  # parents, output MB, task ms, estimate MB
        ((), 0.4 * size_mb, 20 * size_mb * kind, size_mb),
        ((), 3.0, 400.0, 8.0 * size_mb),
        ((0, 1), 0.3 * size_mb, 30 * size_mb, size_mb**2),
        ((2,), 0.05, 2 * size_mb + 100, size_mb**2),
    ]
    stages = [
        Stage(
            u,
            parents,
            template=f"{template}-{u}",
            boundary=Boundary(
                f"e{u}",
                f"{template}-{u}",
                partitions=16,
                catalyst_bytes=round(estimate * 1e6) if known else None,
            ),
            output_bytes=output * 1e6 * noise(),
            task_count=4,
            task_time_ms=time * noise(),
            operators=("Exchange", "Filter"),
        )
        for u, (parents, output, time, estimate) in enumerate(shuffles)
    ]
    stages.append(Stage(4, (3,), f"{template}-r", task_time_ms=50.0 * noise(), operators=("Sort",)))
    graph = StageGraph(tuple(stages))
    graph = with_times(graph, simulate(graph, SLOTS, stage_delay_ms=20.0))
    features = {u: {"own_filter": 1.0, "kind": float(kind)} for u in range(4)}
    return Query(graph, features, template, SLOTS)


def unknown(query: Query) -> Query:
    """The same query before its run: no figures."""
    blank = [
        replace(
            s, output_bytes=0.0, task_count=1, task_time_ms=0.0, start_ms=0.0, end_ms=0.0,
            ttl_ms=0.0,
        )
        for s in query.graph.stages
    ]  # fmt: skip
    return replace(query, graph=StageGraph(tuple(blank)))


def baseline_predictor(history: Histories) -> Predictor:
    """History and simulator alone, no models: what a model has to beat."""
    return Predictor({head: HeadModel() for head in HEADS}, history)
