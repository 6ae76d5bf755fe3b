"""Out-of-fold estimates, and the heads that are fitted on everything.

Two splits, never random rows. A *recurring* head corrects history, so it is judged in time: the
applications are cut into consecutive groups, and each group is estimated by a model that saw the
earlier ones only, on history as it stood before each application. A *general* head serves
templates without a past, so it is judged by template: rows of a template are estimated by a model
that never saw it. What comes out of fold chooses the head's weight, gives its error range, feeds
the figures that build on it (task times see output sizes, the schedule sees both), and is what the
metrics are about.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from phoebe_spark.predict.history import History, figures_of
from phoebe_spark.predict.models import GROUPS, Head, matrix
from phoebe_spark.predict.predictor import Estimates, Prediction
from phoebe_training.runs import Run

if TYPE_CHECKING:
    import lightgbm

FIGURES: tuple[str, ...] = ("output", "task_time", *GROUPS["schedule"])
"""In the order in which they build on each other."""

_HISTORY_FEATURES = ("hist_", "size_change", "partitions_change", "total_change", "sim_against")
_WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)
_TIME_GROUPS = 5
_TEMPLATE_FOLDS = 5

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class FitSettings:
    """LightGBM's settings, sized for tens to thousands of rows; ``rounds`` trees per model."""

    rounds: int = 120
    learning_rate: float = 0.06
    num_leaves: int = 15
    min_rows: int = 20  # fewer rows of a kind: no model, the baseline alone
    seed: int = 7
    threads: int = 1  # small data: a second thread costs more than it gives

    def parameters(self, rows: int) -> dict[str, Any]:
        return {
            "objective": "regression_l1",  # the promotion's measure is a median of absolute logs
            "learning_rate": self.learning_rate,
            "num_leaves": self.num_leaves,
            "min_data_in_leaf": max(3, min(20, rows // 25)),
            "feature_fraction": 0.7,
            "bagging_fraction": 0.8,
            "bagging_freq": 1,
            "lambda_l2": 1.0,
            "seed": self.seed,
            "deterministic": True,
            "force_row_wise": True,
            "num_threads": self.threads,
            "verbosity": -1,
        }


@dataclass(slots=True)
class Side:
    """The rows of one head of one figure, and what was estimated for them out of fold."""

    rows: list[dict[str, float]] = field(default_factory=list)
    truth: list[float] = field(default_factory=list)
    baseline: list[float] = field(default_factory=list)
    group: list[int] = field(default_factory=list)
    where: list[tuple[int, int]] = field(default_factory=list)  # run index, stage id

    def residual(self, center: float = 0.0) -> Floats:
        difference: Floats = np.asarray(self.truth, float) - np.asarray(self.baseline, float)
        return difference - center


@dataclass(frozen=True, slots=True)
class Fitted:
    """What training made: heads by figure, history, and the out-of-fold predictions by run."""

    heads: dict[str, tuple[Head, Head]]
    history: History
    stage_delay_ms: float
    out_of_fold: list[Prediction]
    rows: dict[str, tuple[int, int]]


def fit(
    runs: Sequence[Run],
    settings: FitSettings,
    progress: Callable[[str], None] = lambda _figure: None,
) -> Fitted:
    """Fit all heads on ``runs``, which are in the order of time."""
    group_of = time_groups(runs)
    delay = stage_delay_ms(runs)
    past = list(_estimates_before(runs))
    blank = [Estimates(run.query, History()) for run in runs]
    heads: dict[str, tuple[Head, Head]] = {}
    counts: dict[str, tuple[int, int]] = {}
    for figure in FIGURES:
        progress(figure)
        if figure == GROUPS["schedule"][0]:
            for one, other in zip(past, blank, strict=True):
                one.play(delay)
                other.simulated = one.simulated
        recurring, general = _sides(figure, runs, past, blank, group_of)
        by_time, recurring_oof = _fit_head(recurring, settings, _time_folds(runs, recurring))
        folds = _template_folds(runs, general)
        by_template, general_oof = _fit_head(general, settings, folds)
        heads[figure] = (by_time, by_template)
        counts[figure] = (len(recurring.rows), len(general.rows))
        found: list[dict[int, float]] = [{} for _ in runs]
        for side, oof in ((general, general_oof), (recurring, recurring_oof)):
            for (r, u), value in zip(side.where, oof, strict=True):
                found[r][u] = min(45.0, max(0.0, float(value)))
        for one, other, logs in zip(past, blank, found, strict=True):
            one.logs[figure] = logs
            other.logs[figure] = logs
    history = History()
    for run in sorted(runs, key=lambda r: r.ended_at):
        history.add(run.query, run.shape, run.duration_ms)
    return Fitted(heads, history, delay, [e.prediction() for e in past], counts)


def time_groups(runs: Sequence[Run]) -> list[int]:
    """Consecutive groups of applications, at most five, by run index."""
    apps = list(dict.fromkeys(run.app for run in runs))
    groups = min(_TIME_GROUPS, len(apps))
    of_app = {app: i * groups // len(apps) for i, app in enumerate(apps)}
    return [of_app[run.app] for run in runs]


def stage_delay_ms(runs: Iterable[Run]) -> float:
    """The median time between the end of a stage's last parent and its start."""
    gaps: list[float] = []
    for run in runs:
        end = {s.stage_id: s.end_ms for s in run.query.graph.stages}
        gaps += [
            max(0.0, s.start_ms - max(end[p] for p in s.parents))
            for s in run.query.graph.stages
            if s.parents
        ]
    return float(np.median(gaps)) if gaps else 0.0


def _estimates_before(runs: Sequence[Run]) -> Iterator[Estimates]:
    """Each run's estimates on the history that had ended when its application started."""
    history = History()
    by_end = iter(sorted(runs, key=lambda r: r.ended_at))
    waiting = next(by_end, None)
    for run in runs:
        while waiting is not None and waiting.ended_at <= run.app_started_at:
            history.add(waiting.query, waiting.shape, waiting.duration_ms)
            waiting = next(by_end, None)
        estimates = Estimates(run.query, history)
        # The histories grow while training goes on: what is needed is copied now.
        estimates.freeze()
        yield estimates


def _sides(
    figure: str,
    runs: Sequence[Run],
    past: Sequence[Estimates],
    blank: Sequence[Estimates],
    group_of: Sequence[int],
) -> tuple[Side, Side]:
    recurring, general = Side(), Side()
    for r in range(len(runs)):
        for stage in past[r].stages(figure):
            truth = figures_of(stage)[figure]
            row, recurs = past[r].row(figure, stage)
            plain, _ = blank[r].row(figure, stage)
            for side, values in ((recurring, row), (general, plain)):
                if side is recurring and not recurs:
                    continue
                side.rows.append(values)
                side.truth.append(truth)
                side.baseline.append(values["baseline"])
                side.group.append(group_of[r])
                side.where.append((r, stage.stage_id))
    return recurring, general


def _fit_head(
    side: Side, settings: FitSettings, folds: list[tuple[NDArray[Any], NDArray[Any]]]
) -> tuple[Head, Floats]:
    """The head fitted on all of ``side``, and its out-of-fold estimates (log1p)."""
    n = len(side.rows)
    if n == 0:
        return Head(), np.zeros(0)
    names = sorted({name for row in side.rows for name in row})
    is_general = not any(name.startswith("hist_") for name in names)
    if is_general:
        names = [x for x in names if not x.startswith(_HISTORY_FEATURES)]
    center = float(np.median(side.residual())) if is_general else 0.0
    residual = side.residual(center)
    inputs = matrix(side.rows, names)
    raw = np.zeros(n)
    judged = np.zeros(n, dtype=bool)
    for train, test in folds:
        judged[test] = True
        if len(train) >= settings.min_rows:
            booster = _train(inputs[train], residual[train], names, settings)
            raw[test] = booster.predict(inputs[test], num_threads=1)
    if not judged.any():
        judged[:] = True
    weight = min(
        _WEIGHTS,
        key=lambda w: (
            round(float(np.median(np.abs(residual - w * raw)[judged])), 3),
            float(np.mean(np.abs(residual - w * raw)[judged])),
        ),
    )
    errors = (residual - weight * raw)[judged]
    low, high = np.quantile(errors, [0.1, 0.9])
    final = _train(inputs, residual, names, settings) if n >= settings.min_rows else None
    head = Head(tuple(names), final, weight if final else 0.0, center, (float(low), float(high)))
    return head, np.asarray(side.baseline, float) + center + weight * raw


def _train(
    inputs: Floats, target: Floats, names: Sequence[str], settings: FitSettings
) -> lightgbm.Booster:
    import lightgbm

    data = lightgbm.Dataset(
        inputs, target, feature_name=list(names), params={"verbosity": -1}, free_raw_data=True
    )
    return lightgbm.train(settings.parameters(len(target)), data, settings.rounds)


def _time_folds(runs: Sequence[Run], side: Side) -> list[tuple[NDArray[Any], NDArray[Any]]]:
    """Each group that has rows, against what had ended in those before it when it began."""
    at = np.asarray(side.group)
    began = np.asarray([runs[r].app_started_at.timestamp() for r, _ in side.where])
    ended = np.asarray([runs[r].ended_at.timestamp() for r, _ in side.where])
    folds = []
    for group in sorted(set(side.group)):
        test = np.flatnonzero(at == group)
        folds.append((np.flatnonzero((at < group) & (ended <= began[test].min())), test))
    return folds


def _template_folds(runs: Sequence[Run], side: Side) -> list[tuple[NDArray[Any], NDArray[Any]]]:
    """By the template of the whole execution: its stages resemble each other."""
    at = np.asarray(
        [zlib.crc32(runs[r].query.template.encode()) % _TEMPLATE_FOLDS for r, _ in side.where]
    )
    return [(np.flatnonzero(at != g), np.flatnonzero(at == g)) for g in sorted(set(at.tolist()))]
