"""Whether what was trained replaces what runs today.

The promoted models are judged on the new runs first. What was trained is promoted when nothing
usable is there, or when its error on those runs, estimated without having seen them, is not
larger. The error is the mean, over task time, output size, start, end and time to live, of the
median |ln q|.

Bundles are compared, not models: the promoted one is judged with the history that it holds, as it
would have answered; what was trained with the history that earlier applications left, as it would
answer the next one. So a training whose models are no better, but whose history is fresher, wins by
that, as it does in service. Equal histories would keep an old bundle, and its ageing history, for
as long as its models are as good.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from phoebe_spark.errors import BundleDamaged, BundleFormat, BundleMissing
from phoebe_spark.predict.bundle import read_bundle
from phoebe_spark.predict.predictor import Predictor, from_bundle
from phoebe_spark.reasons import Reason
from phoebe_training.evaluate import score
from phoebe_training.fit import Fitted
from phoebe_training.runs import Run
from phoebe_training.seen import TRAINED_ON, TrainedOn, trained_on_from_json


@dataclass(frozen=True, slots=True)
class Champion:
    """What is promoted: ``predictor`` None where nothing usable is, ``complaint`` says what is
    wrong with it then (None: there never was one)."""

    predictor: Predictor | None = None
    trained_on: TrainedOn = field(default_factory=dict)
    complaint: str | None = None

    @property
    def version(self) -> str | None:
        return self.predictor.version if self.predictor is not None else None


@dataclass(frozen=True, slots=True)
class Verdict:
    """``error`` and ``champion_error`` are on the same runs; None: not measured, or no number."""

    promoted: bool
    reason: Reason
    error: float | None
    champion_error: float | None


def champion(home: str | Path) -> Champion:
    """The promoted bundle of ``home``. Raises `BundleRemote`."""
    try:
        bundle = read_bundle(home)
        seen = trained_on_from_json(bundle.files.get(TRAINED_ON))
        return Champion(from_bundle(bundle), seen)
    except BundleMissing:
        return Champion()
    except (BundleDamaged, BundleFormat) as error:
        return Champion(complaint=str(error))


def judge(
    runs: Sequence[Run], fitted: Fitted, new: Sequence[Run], before: Champion, *, force: bool
) -> Verdict:
    """What was fitted on ``runs`` against the champion ``before``, on the ``new`` ones of them (on
    all, where none is new); ``force`` promotes whatever comes out."""
    ours = _out_of_fold_error(runs, fitted, new or runs)
    if before.predictor is None:
        if before.complaint is not None:
            reason = Reason("champion_unusable", {"problem": before.complaint}, before.complaint)
        else:
            reason = Reason("first", {}, "no models were promoted before")
        return Verdict(True, reason, _finite(ours), None)
    theirs = math.nan
    if new:
        theirs = score(new, [before.predictor.predict(run.query) for run in new])
    better = ours <= theirs
    if force:
        reason = Reason("forced", {}, "promotion was asked for")
    else:
        said = f"median |ln q| {ours:.3f} against {theirs:.3f} of {before.version} on the new runs"
        args = {"error": _finite(ours), "champion_error": _finite(theirs)}
        reason = (
            Reason("better", args, f"promoted: {said}")
            if better
            else Reason("not_better", args, f"not promoted: {said}")
        )
    return Verdict(force or better, reason, _finite(ours), _finite(theirs))


def _out_of_fold_error(runs: Sequence[Run], fitted: Fitted, wanted: Sequence[Run]) -> float:
    chosen = {id(run) for run in wanted}
    pairs = [(r, p) for r, p in zip(runs, fitted.out_of_fold, strict=True) if id(r) in chosen]
    return score([r for r, _ in pairs], [p for _, p in pairs])


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
