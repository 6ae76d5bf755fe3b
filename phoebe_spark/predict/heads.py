"""The heads: which there are, what each holds, and how an estimate is put together from it.

Every figure has two. *Recurring*: the stage's template has a past; the estimate is the
history's baseline plus a learned residual. *General*: it has none (or the schedule's simulator is
the only witness); the estimate is a baseline that needs no past plus a residual learned from plan
features. A head's ``weight`` shrinks its residual: training sets it to what did best out of fold,
0 when the baseline alone is better.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from phoebe_spark.graph import Stage
from phoebe_spark.predict.history import StageHistory
from phoebe_spark.predict.query import NAN, log_partitions

if TYPE_CHECKING:
    import lightgbm

FeatureRow = Mapping[str, float]

Figure = Literal["task_time", "output", "start", "end"]
"""What is predicted of a stage, all as natural log1p."""

HeadKind = Literal["recurring", "general"]

MODEL_GROUPS: Mapping[str, tuple[Figure, ...]] = {
    "task_time": ("task_time",),
    "output_size": ("output",),
    "schedule": ("start", "end"),
}
"""Model groups, each a folder of the bundle and a model of the registry, with their figures."""

SCHEDULE = MODEL_GROUPS["schedule"]


@dataclass(frozen=True, slots=True)
class Head:
    """Which head of a bundle: one figure's, for stages with a past or without."""

    figure: Figure
    kind: HeadKind

    @property
    def group(self) -> str:
        return next(g for g, figures in MODEL_GROUPS.items() if self.figure in figures)

    @property
    def name(self) -> str:
        """As its group's files and MLflow's parameters have it."""
        return f"{self.figure}_{self.kind}" if len(MODEL_GROUPS[self.group]) > 1 else self.kind

    @property
    def file(self) -> str:
        """Its model's path in the bundle."""
        return f"{self.group}/{self.name}.txt"

    @property
    def recurring(self) -> bool:
        return self.kind == "recurring"


def heads_of(figure: Figure) -> tuple[Head, Head]:
    """The recurring head and the general one."""
    return Head(figure, "recurring"), Head(figure, "general")


HEADS = tuple(h for figures in MODEL_GROUPS.values() for f in figures for h in heads_of(f))
"""All heads, group by group."""


@dataclass(frozen=True, slots=True)
class HeadModel:
    """What a head holds: one LightGBM model over a baseline.

    ``center`` is added to the baseline (the median residual), ``interval`` are the 10 % and 90 %
    quantiles of the log error out of fold, ``booster`` is None when there were too few rows.
    """

    features: tuple[str, ...] = ()
    booster: lightgbm.Booster | None = None
    weight: float = 0.0
    center: float = 0.0
    interval: tuple[float, float] = (-1.0, 1.0)

    def residuals(self, rows: Sequence[FeatureRow]) -> list[float]:
        """What to add to the baseline of each row, in log units."""
        if self.booster is None or self.weight == 0.0 or not rows:
            return [self.center] * len(rows)
        raw = self.booster.predict(matrix(rows, self.features), num_threads=1)
        return [self.center + self.weight * float(r) for r in raw]

    def describe(self, head: Head) -> dict[str, Any]:
        """Its entry in the bundle's metadata."""
        return {
            "file": head.file if self.booster is not None else None,
            "features": list(self.features),
            "weight": self.weight,
            "center": self.center,
            "interval": list(self.interval),
        }


def matrix(rows: Sequence[FeatureRow], features: Sequence[str]) -> Any:
    """Rows as a float array (rows x features); absent features are NaN."""
    import numpy as np

    return np.array([[row.get(name, NAN) for name in features] for row in rows], dtype=np.float64)


def history_features(
    history: StageHistory, level: int, figure: str, stage: Stage, size: float
) -> dict[str, float]:
    """What the recurring head sees of one figure's past; ``baseline`` is what it corrects."""
    last = history.runs[-1]
    baseline = history.baseline(figure, size)
    values = [r.figures[figure] for r in history.runs]
    return {
        "baseline": baseline,
        "hist_count": math.log1p(history.count),
        "hist_level": float(level),
        "hist_last": last.figures[figure],
        "hist_median": history.median(figure),
        "hist_range": max(values) - min(values),
        "hist_tasks": last.figures["tasks"],
        "size_change": size - last.log_size,
        "partitions_change": log_partitions(stage) - last.log_partitions,
    }
