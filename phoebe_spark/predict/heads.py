"""What one model group holds, and how an estimate is put together from it.

Every figure has two heads. *Recurring*: the stage's template has a past; the estimate is the
history's baseline plus a learned residual. *General*: it has none (or the schedule's simulator is
the only witness); the estimate is a baseline that needs no past plus a residual learned from plan
features. A head's ``weight`` shrinks its residual: training sets it to what did best out of fold,
0 when the baseline alone is better.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from phoebe_spark.graph import Stage
from phoebe_spark.predict.history import StageHistory
from phoebe_spark.predict.query import NAN, log_partitions

if TYPE_CHECKING:
    import lightgbm

FeatureRow = Mapping[str, float]

GROUPS: dict[str, tuple[str, ...]] = {
    "task_time": ("task_time",),
    "output_size": ("output",),
    "schedule": ("start", "end"),
}
"""Model groups of the bundle, and the figures that each predicts (all as natural log1p)."""


@dataclass(frozen=True, slots=True)
class Head:
    """One LightGBM model over a baseline.

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

    def describe(self, file: str | None) -> dict[str, Any]:
        """The head's entry in the bundle's metadata."""
        return {
            "file": file,
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
