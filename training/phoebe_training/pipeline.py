"""The training job: tables → runs → heads → back-test against the champion → MLflow → bundle.

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

import hashlib
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from phoebe_spark.errors import BundleDamaged, BundleFormat, BundleMissing
from phoebe_spark.predict.bundle import HISTORY, SHAPES, local_home, read_bundle, write_bundle
from phoebe_spark.predict.heads import GROUPS
from phoebe_spark.predict.history_file import history_file
from phoebe_spark.predict.predictor import Predictor, from_bundle
from phoebe_spark.reasons import Reason
from phoebe_training.data import read_frames
from phoebe_training.errors import NotEnoughData
from phoebe_training.evaluate import group_metrics, score
from phoebe_training.fit import FIGURES, FitSettings, Fitted, fit
from phoebe_training.history_store import HistoryStore
from phoebe_training.record import heads_of, promote, record
from phoebe_training.runs import Run, build_runs
from phoebe_training.seen import (
    TRAINED_ON,
    TrainedOn,
    trained_on,
    trained_on_from_json,
    unseen,
)
from phoebe_training.template_history import add, update

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

MIN_STAGES = 8


@dataclass(frozen=True, slots=True)
class TrainSummary:
    """What a training did. ``score`` and ``champion_score`` are errors on the same new runs (less
    is better; None: not measured); ``metrics`` are those logged in MLflow, per model group."""

    promoted: bool
    reason: Reason
    version: str | None = None
    bundle: str | None = None
    runs: int = 0
    new_runs: int = 0
    stages: int = 0
    score: float | None = None
    champion_version: str | None = None
    champion_score: float | None = None
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    mlflow: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0


def train(
    home: str | Path,
    tracking_uri: str | None = None,
    spark: SparkSession | None = None,
    *,
    settings: FitSettings | None = None,
    force: bool = False,
) -> TrainSummary:
    """Train on the tables of ``home`` and promote what is not worse than what runs today.

    ``spark``: read the tables through delta-spark. ``force``: train without new runs, and promote
    whatever comes out. Raises `phoebe_training.errors.NotEnoughData` when the tables hold fewer
    than eight usable stages, `phoebe_spark.errors.BundleRemote` when ``home`` is a URI but
    not ``file:``, and what MLflow or the disk raise; the promoted bundle is then the one before.
    """
    began = time.monotonic()
    settings = settings or FitSettings()
    home = local_home(home)
    with _progress() as step:
        step("reading the tables")
        update(home)  # before the runs are read: the history holds none that the training has not
        runs = build_runs(read_frames(home, spark))
        stages = sum(len(run.query.graph.stages) for run in runs)
        if stages < MIN_STAGES:
            raise NotEnoughData(
                f"{home} holds {len(runs)} complete runs with {stages} stages, at least "
                f"{MIN_STAGES} stages are needed: run jobs with the plugin, or `phoebe ingest` "
                "event logs"
            )
        champion, seen, complaint = _champion(home)
        new = unseen(runs, seen)
        if champion is not None and not new and not force:
            reason = Reason("nothing_new", {}, f"{champion.version} was trained on all of them")
            return TrainSummary(
                False, reason, runs=len(runs), stages=stages, champion_version=champion.version,
                seconds=time.monotonic() - began,
            )  # fmt: skip
        fitted = fit(runs, settings, lambda figure: step(f"fitting {figure}"))
        step("judging")
        ours = _score_on(runs, fitted, new)
        theirs = None
        if champion is not None and new:
            theirs = score(new, [champion.predict(run.query) for run in new])
        metrics = group_metrics(runs, fitted.out_of_fold)
        wanted, reason = _verdict(champion, complaint, ours, theirs, force)
        step("recording in MLflow")
        now = datetime.now(UTC)
        files, heads = _files(fitted)
        files |= _history(home, runs)
        files[TRAINED_ON] = orjson.dumps(trained_on(runs))
        version = _version(now, files)
        tags = {"version": version, "promoted": str(wanted).lower(), "reason": reason.code}
        recorded = record(home, tracking_uri, fitted, settings, metrics, tags, files)
        bundle = None
        if wanted:
            step("promoting")
            bundle = write_bundle(
                home,
                version,
                files,
                {
                    "created_at": now.isoformat(),
                    "trained_until": max(r.ended_at for r in runs).isoformat(),
                    "runs": len(runs),
                    "stages": stages,
                    "mlflow": recorded.describe(),
                    "heads": heads,
                    "stage_delay_ms": fitted.stage_delay_ms,
                    "metrics": metrics,
                    "score": _finite(ours),
                },
                # The record first: what fails there leaves the promoted bundle alone.
                before_promotion=lambda: promote(recorded),
            )
    return TrainSummary(
        promoted=wanted,
        reason=reason,
        version=version,
        bundle=str(bundle) if bundle is not None else None,
        runs=len(runs),
        new_runs=len(new),
        stages=stages,
        score=_finite(ours),
        champion_version=champion.version if champion is not None else None,
        champion_score=_finite(theirs),
        metrics=metrics,
        mlflow=recorded.describe(),
        seconds=time.monotonic() - began,
    )


def _champion(home: str | Path) -> tuple[Predictor | None, TrainedOn, str | None]:
    """The promoted predictor, what it was trained on, and what is wrong with it (None: nothing, or
    there never was one)."""
    try:
        bundle = read_bundle(home)
        return from_bundle(bundle), trained_on_from_json(bundle.files.get(TRAINED_ON)), None
    except BundleMissing:
        return None, {}, None
    except (BundleDamaged, BundleFormat) as error:
        return None, {}, str(error)


def _score_on(runs: Sequence[Run], fitted: Fitted, new: Sequence[Run]) -> float:
    wanted = {id(run) for run in new} if new else {id(run) for run in runs}
    pairs = [(r, p) for r, p in zip(runs, fitted.out_of_fold, strict=True) if id(r) in wanted]
    return score([r for r, _ in pairs], [p for _, p in pairs])


def _verdict(
    champion: Predictor | None,
    complaint: str | None,
    ours: float,
    theirs: float | None,
    force: bool,
) -> tuple[bool, Reason]:
    if champion is None:
        if complaint is not None:
            return True, Reason("champion_unusable", {"problem": complaint}, complaint)
        return True, Reason("first", {}, "no models were promoted before")
    if force:
        return True, Reason("forced", {}, "promotion was asked for")
    args = {"error": _finite(ours), "champion_error": _finite(theirs)}
    said = f"median |ln q| {ours:.3f} against {theirs:.3f} of {champion.version} on the new runs"
    if theirs is None or not ours <= theirs:
        return False, Reason("not_better", args, f"not promoted: {said}")
    return True, Reason("better", args, f"promoted: {said}")


def _history(home: str | Path, runs: Sequence[Run]) -> dict[str, bytes]:
    """What the bundle's drivers know of the past: the home's history, with these runs in it."""
    with HistoryStore(home) as store:
        with store.adding():
            add(store, runs)
        return {
            HISTORY: history_file(store.stages(), store.task_times_ms()),
            SHAPES: orjson.dumps(store.shapes()),
        }


def _files(fitted: Fitted) -> tuple[dict[str, bytes], dict[str, Any]]:
    """The bundle's files, and the heads' entries in its metadata."""
    files: dict[str, bytes] = {}
    heads: dict[str, Any] = {figure: {} for figure in FIGURES}
    for group, figures in GROUPS.items():
        for figure in figures:
            for name, head in heads_of(figures, fitted):
                owner, kind = name.rpartition("_")[0] or figure, name.rpartition("_")[2]
                if owner != figure:
                    continue
                file = None
                if head.booster is not None:
                    file = f"{group}/{name}.txt"
                    files[file] = head.booster.model_to_string().encode()
                heads[figure][kind] = head.describe(file)
    return files, heads


def _version(now: datetime, files: dict[str, bytes]) -> str:
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(name.encode() + b"\0" + files[name])
    return f"{now:%Y%m%dT%H%M%S}-{digest.hexdigest()[:8]}"


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


@contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """A spinner on standard error if a person is looking, else nothing."""
    if not sys.stderr.isatty():
        yield lambda _what: None
        return
    from rich.console import Console

    console = Console(stderr=True)
    with console.status("training") as status:
        yield lambda what: status.update(f"training: {what}")
