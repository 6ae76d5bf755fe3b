"""The heads that are fitted on everything, and what their like estimates out of fold.

`splits` says which rows a model is judged by, `calibrate` what follows from its errors: the head's
weight and its error range. Estimates out of fold feed the figures that build on them (task times
see output sizes, the schedule sees both), and are what the metrics are about.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from phoebe_spark.predict.heads import SCHEDULE, Figure, Head, HeadModel, heads_of, matrix
from phoebe_spark.predict.history import History, figures_of
from phoebe_spark.predict.predictor import Estimates, Prediction
from phoebe_training.calibrate import best_weight, error_range
from phoebe_training.evaluate import MEASURED, quality
from phoebe_training.runs import Run
from phoebe_training.splits import Fold, template_folds, time_folds, time_groups

if TYPE_CHECKING:
    import lightgbm

FIGURES: tuple[Figure, ...] = ("output", "task_time", *SCHEDULE)
"""In the order in which they build on each other."""

_HISTORY_FEATURES = ("hist_", "size_change", "partitions_change", "total_change", "sim_against")

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
    """The rows of one head of one figure; ``truth`` is NaN for a stage that did not run: it is
    estimated, because others build on it, but nothing is learned from it."""

    rows: list[dict[str, float]] = field(default_factory=list)
    truth: list[float] = field(default_factory=list)
    baseline: list[float] = field(default_factory=list)
    group: list[int] = field(default_factory=list)
    where: list[tuple[int, int]] = field(default_factory=list)  # run index, stage id

    @property
    def known(self) -> int:
        """How many rows there are to learn from."""
        return sum(not math.isnan(truth) for truth in self.truth)

    def residual(self) -> Floats:
        difference: Floats = np.asarray(self.truth, float) - np.asarray(self.baseline, float)
        return difference


@dataclass(frozen=True, slots=True)
class Trial:
    """A head's model, and the estimates (log1p) that its like gave out of fold."""

    model: HeadModel
    out_of_fold: Floats


@dataclass(frozen=True, slots=True)
class Trials:
    """With the model, and without one: the baseline alone."""

    fitted: Trial
    plain: Trial


@dataclass(frozen=True, slots=True)
class Fitted:
    """What training made: models, how many rows each learned from, and the out-of-fold predictions
    by run."""

    models: dict[Head, HeadModel]
    stage_delay_ms: float
    out_of_fold: list[Prediction]
    rows: dict[Head, int]


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
    sides: dict[Head, Side] = {}
    trials: dict[Head, Trials] = {}
    chosen: dict[Head, Trial] = {}
    for figure in FIGURES:
        progress(figure)
        if figure == SCHEDULE[0]:
            for one, other in zip(past, blank, strict=True):
                one.play(delay)
                other.simulated = one.simulated
        sides |= _sides(figure, runs, past, blank, group_of)
        for head in heads_of(figure):
            side = sides[head]
            if head.recurring:
                folds = time_folds(runs, side.where, side.group)
            else:
                folds = template_folds(runs, side.where)
            trials[head] = _try(side, settings, folds)
            chosen[head] = trials[head].fitted
        _fill_in(figure, sides, chosen, past, blank)
    _fall_back(runs, sides, trials, chosen, past, blank)
    return Fitted(
        {head: trial.model for head, trial in chosen.items()},
        delay,
        [e.prediction() for e in past],
        {head: side.known for head, side in sides.items()},
    )


def _fill_in(
    figure: Figure,
    sides: Mapping[Head, Side],
    chosen: Mapping[Head, Trial],
    *estimates: Sequence[Estimates],
) -> None:
    """Make the chosen out-of-fold values the estimates of ``figure``; a stage's past wins."""
    found: dict[int, dict[int, float]] = defaultdict(dict)
    for head in reversed(heads_of(figure)):
        for (r, u), value in zip(sides[head].where, chosen[head].out_of_fold, strict=True):
            found[r][u] = min(45.0, max(0.0, float(value)))
    for these in estimates:
        for r, one in enumerate(these):
            one.logs[figure] = found[r]


def _fall_back(
    runs: Sequence[Run],
    sides: Mapping[Head, Side],
    trials: Mapping[Head, Trials],
    chosen: dict[Head, Trial],
    past: Sequence[Estimates],
    blank: Sequence[Estimates],
) -> None:
    """Drop each of the schedule's models that makes starts, ends and times to live worse together.

    A head's own weight is chosen by its own figure. The time to live is a difference of ends, which
    two good models may get wrong where the baseline, wrong in the same way twice, gets it right.
    """

    def judge(seen: bool) -> float:
        found = [e.prediction() for e in past]
        parts = (quality(runs, found, figure, seen) for figure in MEASURED["schedule"])
        return float(np.mean([q.median_ln_q for q in parts if q is not None] or [0.0]))

    for figure in reversed(SCHEDULE):
        for head in heads_of(figure):
            before = chosen[head]
            if before.model.weight == 0.0:
                continue
            best = judge(head.recurring)  # each head is judged where it speaks
            chosen[head] = trials[head].plain
            _fill_in(figure, sides, chosen, past, blank)
            if judge(head.recurring) > best:
                chosen[head] = before
                _fill_in(figure, sides, chosen, past, blank)


def stage_delay_ms(runs: Iterable[Run]) -> float:
    """The median time between the end of a stage's last parent and its start."""
    gaps: list[float] = []
    for run in runs:
        end = {s.stage_id: s.end_ms for s in run.query.graph.stages}
        gaps += [
            max(0.0, s.start_ms - max(end[p] for p in s.parents))
            for s in run.query.graph.stages
            if s.parents and run.ran.issuperset((s.stage_id, *s.parents))
        ]
    return float(np.median(gaps)) if gaps else 0.0


def _estimates_before(runs: Sequence[Run]) -> Iterator[Estimates]:
    """Each run's estimates on the history that had ended when its application started."""
    history = History()
    by_end = iter(sorted(runs, key=lambda r: r.ended_at))
    waiting = next(by_end, None)
    for run in runs:
        while waiting is not None and waiting.ended_at <= run.app_started_at:
            history.add(waiting.query, waiting.ran)
            waiting = next(by_end, None)
        estimates = Estimates(run.query, history)
        # The histories grow while training goes on: what is needed is copied now.
        estimates.freeze()
        yield estimates


def _sides(
    figure: Figure,
    runs: Sequence[Run],
    past: Sequence[Estimates],
    blank: Sequence[Estimates],
    group_of: Sequence[int],
) -> dict[Head, Side]:
    recurring, general = Side(), Side()
    for r in range(len(runs)):
        for stage in past[r].stages(figure):
            ran = stage.stage_id in runs[r].ran
            truth = figures_of(stage)[figure] if ran else math.nan
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
    return dict(zip(heads_of(figure), (recurring, general), strict=True))


def _try(side: Side, settings: FitSettings, folds: Sequence[Fold]) -> Trials:
    """The model fitted on all of ``side``, and the one that adds nothing to the baseline."""
    n = len(side.rows)
    if n == 0:
        nothing = Trial(HeadModel(), np.zeros(0))
        return Trials(nothing, nothing)
    names = sorted({name for row in side.rows for name in row})
    is_general = not any(name.startswith("hist_") for name in names)
    if is_general:
        names = [x for x in names if not x.startswith(_HISTORY_FEATURES)]
    residual = side.residual()
    known = np.isfinite(residual)
    everything = np.flatnonzero(known)
    if not len(everything):
        untold = Trial(HeadModel(tuple(names)), np.asarray(side.baseline, float))
        return Trials(untold, untold)

    def middle(rows: NDArray[Any]) -> float:
        return float(np.median(residual[rows])) if is_general else 0.0

    inputs = matrix(side.rows, names)
    raw = np.zeros(n)
    centers = np.zeros(n)
    judged = np.zeros(n, dtype=bool)
    for earlier, test in folds:
        train = earlier[known[earlier]]
        judged[test] = known[test]
        # A single template leaves nothing to learn its level from but itself.
        centers[test] = middle(train if len(train) else everything)
        if len(train) >= settings.min_rows:
            target = residual[train] - middle(train)
            booster = _train(inputs[train], target, names, settings)
            raw[test] = booster.predict(inputs[test], num_threads=1)
    left = (residual - centers)[judged]
    weight = best_weight(left, raw[judged])
    center = middle(everything)
    final = None
    if len(everything) >= settings.min_rows:
        final = _train(inputs[everything], residual[everything] - center, names, settings)
    plain = np.asarray(side.baseline, float) + centers

    def trial(weight: float) -> Trial:
        spread = error_range(left, raw[judged], weight)
        model = HeadModel(tuple(names), final, weight if final else 0.0, center, spread)
        return Trial(model, plain + weight * raw)

    return Trials(fitted=trial(weight), plain=trial(0.0))


def _train(
    inputs: Floats, target: Floats, names: Sequence[str], settings: FitSettings
) -> lightgbm.Booster:
    import lightgbm

    data = lightgbm.Dataset(
        inputs, target, feature_name=list(names), params={"verbosity": -1}, free_raw_data=True
    )
    return lightgbm.train(settings.parameters(len(target)), data, settings.rounds)
