"""How good predictions are: q-errors in time and size, per figure, with and without a past."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from phoebe_spark.graph import Stage
from phoebe_spark.predict.heads import MODEL_GROUPS
from phoebe_spark.predict.predictor import Prediction
from phoebe_training.runs import Run

MEASURED: dict[str, tuple[str, ...]] = {
    "task_time": ("task_time",),
    "output_size": ("output",),
    "schedule": ("start", "end", "ttl"),
}
"""What is measured per model group; the time to live follows from the ends."""


@dataclass(frozen=True, slots=True)
class Quality:
    """Errors of one figure. q-error of p against t: ``max((p+1)/(t+1), (t+1)/(p+1))``;
    ``median_ln_q`` is the median of its natural log, ``coverage80`` the share of true values inside
    the predicted 80 % range (NaN where there is none)."""

    count: int
    median_q: float
    p90_q: float
    median_ln_q: float
    r2_log: float
    coverage80: float

    def metrics(self, prefix: str) -> dict[str, float]:
        found = {f"{prefix}_{k}": float(v) for k, v in asdict(self).items()}
        return {k: v for k, v in found.items() if math.isfinite(v)}


def value(stage: Stage, figure: str) -> float:
    return {
        "task_time": stage.task_time_ms,
        "output": stage.output_bytes,
        "start": stage.start_ms,
        "end": stage.end_ms,
        "ttl": stage.ttl_ms,
    }[figure]


def quality(
    runs: Sequence[Run], predictions: Sequence[Prediction], figure: str, seen: bool | None = None
) -> Quality | None:
    """The quality of ``figure`` over ``runs``; ``seen`` keeps stages with (without) a past only.

    None when no stage is left. Output sizes are judged on stages that write a shuffle.
    """
    predicted, true, inside = [], [], []
    for run, prediction in zip(runs, predictions, strict=True):
        truths = {s.stage_id: s for s in run.query.graph.stages}
        for stage in prediction.graph.stages:
            if stage.stage_id not in run.ran:
                continue
            truth = truths[stage.stage_id]
            if figure == "output" and not truth.is_shuffle:
                continue
            if seen is not None and (prediction.sources[stage.stage_id] != "general") != seen:
                continue
            predicted.append(value(stage, figure))
            true.append(value(truth, figure))
            bounds = prediction.intervals.get(stage.stage_id, {}).get(figure)
            if bounds is not None:
                inside.append(bounds[0] <= true[-1] <= bounds[1])
    if not predicted:
        return None
    p, t = np.log1p(np.asarray(predicted)), np.log1p(np.asarray(true))
    error = np.abs(p - t)
    spread = float(np.sum((t - t.mean()) ** 2))
    return Quality(
        count=len(p),
        median_q=float(np.exp(np.median(error))),
        p90_q=float(np.exp(np.quantile(error, 0.9))),
        median_ln_q=float(np.median(error)),
        r2_log=1.0 - float(np.sum((p - t) ** 2)) / spread if spread > 0 else float("nan"),
        coverage80=float(np.mean(inside)) if inside else float("nan"),
    )


def group_metrics(
    runs: Sequence[Run], predictions: Sequence[Prediction]
) -> dict[str, dict[str, float]]:
    """Flat metrics per model group, ready for MLflow."""
    found: dict[str, dict[str, float]] = {}
    for group in MODEL_GROUPS:
        found[group] = {}
        for figure in MEASURED[group]:
            for name, seen in (("", None), ("_seen", True), ("_unseen", False)):
                measured = quality(runs, predictions, figure, seen)
                if measured is not None:
                    found[group].update(measured.metrics(f"{figure}{name}"))
    return found


def score(runs: Sequence[Run], predictions: Sequence[Prediction]) -> float:
    """What promotion compares: the mean, over `MEASURED`'s figures, of the median |ln q|."""
    figures = [f for group in MODEL_GROUPS for f in MEASURED[group]]
    parts = [q.median_ln_q for f in figures if (q := quality(runs, predictions, f)) is not None]
    return float(np.mean(parts)) if parts else float("nan")
