"""What a killed job saves when it is submitted again: the twelve, and all twelve as one pipeline.

A trial submits an application in mode `apply`, SIGKILLs its driver at a chosen moment, submits the
same again and times it from the first query's start to the last one's end (the start of Spark is
the same with and without). The yardstick is the same application without the plugin, never killed.

``late_kills_faster``: kills in the last tenth of the run, 1 - resumed / full. ``uniform_kept``:
kills uniform over the run, the share of the work done until the kill that need not be redone,
(full - resumed) / work done. With the oracle's cuts forced, and with those advised. Trials are
drawn in a seeded order until the time is used; a run that ended before its kill is drawn again.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from benchmarks.frame import Options, Result, fresh
from benchmarks.twelve import Prepared, Query, conf, data_of, prepare
from tests.support import apps, queries
from tests.support.compare import compare_results

Cuts = Literal["oracle", "advised"]
Kill = Literal["late", "uniform"]
PIPELINE = "pipeline"


@dataclass(frozen=True, slots=True)
class Trial:
    """One kill and one resumption. Seconds; ``work_s`` is what had been done at the kill."""

    job: str
    cuts: Cuts
    kill: Kill
    work_s: float
    full_s: float
    resumed_s: float
    wrong: tuple[str, ...]

    @property
    def faster(self) -> float:
        return 1 - self.resumed_s / self.full_s

    @property
    def saved_s(self) -> float:
        return self.full_s - self.resumed_s


def run(options: Options) -> Result:
    prepared = prepare(options)
    rng = random.Random(options.seed)
    jobs: dict[str, list[Query]] = {q.name: [q] for q in prepared.queries}
    jobs[PIPELINE] = list(prepared.queries)
    full: dict[str, float] = {}
    trials: list[Trial] = []
    for job, cuts, kill in _order(list(jobs), rng):
        need = 2.5 * full.get(job, 0.0) + 60
        if options.left_s < need or (job == PIPELINE and options.left_s < 400):
            continue
        if job not in full:
            full[job] = _full(options.work / "full" / job.replace("/", "-"), prepared, jobs[job])
        trial = _trial(options, prepared, job, jobs[job], cuts, kill, full[job], rng)
        if trial is not None:
            trials.append(trial)
            options.say(
                f"{job} {cuts} {kill}: full {trial.full_s:.1f} s, killed after "
                f"{trial.work_s:.1f} s, resumed in {trial.resumed_s:.1f} s {trial.wrong or ''}"
            )
    return _result(trials, list(jobs))


def _order(jobs: Sequence[str], rng: random.Random) -> list[tuple[str, Cuts, Kill]]:
    """Jobs shuffled, both kinds of cuts in turn; late and uniform kills share the time."""
    listed: list[tuple[str, Cuts, Kill]] = []
    kills: tuple[Kill, ...] = ("late", "uniform")
    both: tuple[Cuts, ...] = ("advised", "oracle")
    shuffled = rng.sample(list(jobs), len(jobs))
    half = len(shuffled) // 2
    for part in (shuffled[:half], shuffled[half:]):
        for kill in kills:
            listed += [(job, cuts, kill) for job in part for cuts in both]
    return listed


def _items(
    prepared: Prepared, listed: Sequence[Query], cuts: Cuts | None, gate: Path | None
) -> list[queries.Item]:
    found = []
    for query in listed:
        settings: dict[str, str] = {}
        if cuts == "oracle":
            settings["spark.phoebe.force"] = query.force(query.oracle("restart"))
            off = settings["spark.phoebe.force"] == "none"
            settings["spark.phoebe.mode"] = "off" if off else "apply"
        first = query is listed[0]
        data = data_of(query.name, prepared.scale_factor)
        item = queries.Item(query.name, data, conf=settings, pause_before=gate if first else None)
        found.append(item)
    return found


def _submit(
    folder: Path, prepared: Prepared, listed: Sequence[Query], cuts: Cuts | None, store: Path
) -> tuple[apps.RunningApp, Path]:
    gate = folder / "gate"
    folder.mkdir(parents=True, exist_ok=True)
    app = queries.submit_queries(
        _items(prepared, listed, cuts, gate),
        folder=folder,
        app_name="the-twelve",
        conf=conf(prepared.home, "apply", objective="restart", checkpoint__dir=str(store)),
        plugin="none" if cuts is None else "jars",
        driver_memory="4g",
        with_event_log=False,
    )
    return app, gate


def _timed(
    folder: Path, prepared: Prepared, listed: Sequence[Query], cuts: Cuts | None, store: Path
) -> float:
    """Runs to the end; seconds from the first query's start to the last one's end."""
    app, gate = _submit(folder, prepared, listed, cuts, store)
    with app:
        gate.touch()
        app.wait(timeout_s=900).check()
    found = queries.timings(folder)
    return max(t.ended for t in found.values()) - min(t.started for t in found.values())


def _full(folder: Path, prepared: Prepared, listed: Sequence[Query]) -> float:
    return _timed(folder, prepared, listed, None, folder / "no-store")


def _trial(
    options: Options,
    prepared: Prepared,
    job: str,
    listed: Sequence[Query],
    cuts: Cuts,
    kill: Kill,
    full_s: float,
    rng: random.Random,
) -> Trial | None:
    """None when the run was over before its kill, three times."""
    for _ in range(3):
        folder = fresh(options.work / "trial")
        store = folder / "store"
        work_s = full_s * (rng.uniform(0.9, 1.0) if kill == "late" else rng.uniform(0.0, 1.0))
        app, gate = _submit(folder / "killed", prepared, listed, cuts, store)
        with app:
            app.wait_for(Path(f"{gate}.reached"))
            gate.touch()
            ends = time.monotonic() + work_s
            while app.running and time.monotonic() < ends:
                time.sleep(0.02)
            done = len(queries.timings(app.folder)) == len(listed)
            if done or not app.running:
                continue
            app.kill_driver()
        resumed_s = _timed(folder / "resumed", prepared, listed, cuts, store)
        wrong = tuple(
            q.name
            for q in listed
            if compare_results(
                queries.output(options.work / "full" / job.replace("/", "-"), q.name),
                queries.output(folder / "resumed", q.name),
            )
        )
        return Trial(job, cuts, kill, work_s, full_s, resumed_s, wrong)
    return None


def _result(trials: Sequence[Trial], jobs: Sequence[str]) -> Result:
    def chosen(cuts: Cuts, kill: Kill) -> list[Trial]:
        return [t for t in trials if t.cuts == cuts and t.kill == kill]

    def faster(cuts: Cuts) -> float | None:
        found = chosen(cuts, "late")
        return statistics.mean(t.faster for t in found) if found else None

    def kept(cuts: Cuts) -> float | None:
        found = chosen(cuts, "uniform")
        work = sum(t.work_s for t in found)
        return sum(t.saved_s for t in found) / work if work else None

    rows: list[dict[str, Any]] = [{**asdict(t), "faster": t.faster} for t in trials]
    every = [(j, c, k) for j in jobs for c in ("oracle", "advised") for k in ("late", "uniform")]
    tried = {(t.job, t.cuts, t.kill) for t in trials}
    left = [f"{j} {c} {k}" for j, c, k in every if (j, c, k) not in tried]
    figures = {
        "late_kills_faster_oracle": faster("oracle"),
        "late_kills_faster_advised": faster("advised"),
        "uniform_kept_oracle": kept("oracle"),
        "uniform_kept_advised": kept("advised"),
        "trials": len(trials),
        "wrong_results": sum(len(t.wrong) for t in trials),
        "rows": rows,
    }
    why = {k: "no trial of this kind fitted the time" for k, v in figures.items() if v is None}
    skipped = [f"{name}: no time left, or over before its kill" for name in left]
    return Result(figures, repeats=1, why_null=why, skipped=skipped)
