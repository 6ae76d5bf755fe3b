"""The training job, in one pass: tables → runs → history → heads → verdict → MLflow → bundle.

Each step is a module's; what is here is their order.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phoebe_spark.plan.features import VERSION as FEATURES_VERSION
from phoebe_spark.predict.bundle import check_pointer, local_home, write_bundle
from phoebe_spark.reasons import Reason
from phoebe_training.contents import bundle_files, described_heads, version_of
from phoebe_training.data import read_frames
from phoebe_training.errors import NotEnoughData
from phoebe_training.evaluate import group_metrics
from phoebe_training.fit import FitSettings, fit
from phoebe_training.history_store import HistoryStore
from phoebe_training.promote import champion, judge
from phoebe_training.record import check_database, promote, record
from phoebe_training.runs import applications, build_runs, count_without_plan
from phoebe_training.seen import unseen

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
    not ``file:``, `phoebe_spark.errors.ForeignFileError` where a file of somebody else is in the
    way, and what MLflow or the disk raise; the promoted bundle is then the one before.
    """
    began = time.monotonic()
    settings = settings or FitSettings()
    home = local_home(home)
    # Before the fit, which takes minutes.
    check_pointer(home)
    check_database(home, tracking_uri)
    with _progress() as step, HistoryStore(home) as history:
        step("reading the tables")
        frames = read_frames(home, spark)
        runs = build_runs(frames)
        history.follow(runs, applications(frames))
        stages = sum(len(run.ran) for run in runs)
        if stages < MIN_STAGES:
            raise NotEnoughData(
                f"{home} holds {len(runs)} complete runs with {stages} stages, at least "
                f"{MIN_STAGES} stages are needed: run jobs with the plugin, or `phoebe ingest` "
                f"event logs{_left_out(count_without_plan(frames))}"
            )
        before = champion(home)
        new = unseen(runs, before.trained_on)
        if before.predictor is not None and not new and not force:
            reason = Reason("nothing_new", {}, f"{before.version} was trained on all of them")
            return TrainSummary(
                False, reason, runs=len(runs), stages=stages, champion_version=before.version,
                seconds=time.monotonic() - began,
            )  # fmt: skip
        fitted = fit(runs, settings, lambda figure: step(f"fitting {figure}"))
        step("judging")
        verdict = judge(runs, fitted, new, before, force=force)
        metrics = group_metrics(runs, fitted.out_of_fold)
        step("recording in MLflow")
        now = datetime.now(UTC)
        files = bundle_files(fitted, history, runs)
        version = version_of(files, now)
        tags = {
            "version": version,
            "promoted": str(verdict.promoted).lower(),
            "reason": verdict.reason.code,
        }
        recorded = record(home, tracking_uri, fitted, settings, metrics, tags, files)
        bundle = None
        if verdict.promoted:
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
                    "features_version": FEATURES_VERSION,
                    "mlflow": recorded.describe(),
                    "heads": described_heads(fitted),
                    "stage_delay_ms": fitted.stage_delay_ms,
                    "metrics": metrics,
                    "score": verdict.error,
                },
                # The record first: what fails there leaves the promoted bundle alone.
                before_promotion=lambda: promote(recorded),
            )
    return TrainSummary(
        promoted=verdict.promoted,
        reason=verdict.reason,
        version=version,
        bundle=str(bundle) if bundle is not None else None,
        runs=len(runs),
        new_runs=len(new),
        stages=stages,
        score=verdict.error,
        champion_version=before.version,
        champion_score=verdict.champion_error,
        metrics=metrics,
        mlflow=recorded.describe(),
        seconds=time.monotonic() - began,
    )


def _left_out(without_plan: int) -> str:
    if not without_plan:
        return ""
    return (
        f"; {without_plan} executions count for nothing, an earlier version stored them without "
        "their plans: run their jobs again, or `phoebe ingest` their event logs into a new home"
    )


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
