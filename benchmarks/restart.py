"""What a killed job saves when it is submitted again: the twelve, and four of them as a pipeline.

A trial submits an application in mode `apply`, SIGKILLs its driver at a chosen moment, submits the
same again and times it from the first query's start to the last one's end (the start of Spark is
the same with and without). The yardstick is the same application without the plugin, never killed.

``late_kills_faster``: kills in the last tenth of the run, 1 - resumed / full. ``uniform_kept``:
kills uniform over the run, the share of the work done until the kill that need not be redone,
(full - resumed) / work done. ``uniform_kept_vs_computed``: the seconds so saved over those that the
model computes for the oracle's cuts and the same kills: the least start outside the largest cut
that was done by then, in the true values, stretched to the length of the full run. With the
oracle's cuts forced, and with those advised. Trials are drawn in a seeded order until the time is
used, with ``--repeats`` all of them so many times; a run that ended before its kill is drawn again.

A trial that restored nothing stays in the figures, as nothing saved (to leave it out would
flatter), but its equal results prove nothing: ``trials_that_restored`` counts the others. A figure
none of whose trials restored is null; ``skipped`` says when under half of the jobs restored a
checkpoint with two or more stages upstream.
"""

from __future__ import annotations

import json
import random
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from benchmarks.frame import Options, Result, fresh
from benchmarks.oracle import Best, least_start_outside, through
from benchmarks.twelve import Prepared, Query, conf, data_of, judge, prepare
from tests.support import apps, queries
from tests.support import home as homes
from tests.support.compare import compare_results
from tests.support.store import committed as committed_in

Cuts = Literal["oracle", "advised"]
Kill = Literal["late", "uniform"]
Answers = Mapping[str, Best]
PIPELINE = "pipeline"
PIPED: tuple[str, ...] = ("tpch/q5", "tpch/q7", "tpcds/q4", "tpcds/q14b")
"""The first two of either benchmark among the twelve."""


@dataclass(frozen=True, slots=True)
class Restored:
    """What a resumption took up: checkpoints, their bytes, how long it took to read them and find
    them whole before (milliseconds, the sum; several are looked at at once), and the most stages
    upstream of one of them."""

    checkpoints: int = 0
    bytes: int = 0
    look_ms: int = 0
    upstream: int = 0


@dataclass(frozen=True, slots=True)
class Trial:
    """One kill and one resumption. Seconds; ``work_s`` is what had been done at the kill,
    ``computed_s`` what the model says that the oracle's cuts save of it, ``committed`` the
    checkpoints it left, ``restored`` those that the resumption took up."""

    job: str
    cuts: Cuts
    kill: Kill
    work_s: float
    computed_s: float
    full_s: float
    resumed_s: float
    committed: int
    restored: Restored
    wrong: tuple[str, ...]

    @property
    def faster(self) -> float:
        return 1 - self.resumed_s / self.full_s

    @property
    def saved_s(self) -> float:
        return self.full_s - self.resumed_s


def run(options: Options) -> Result:
    rounds = options.repeats or 1
    if options.repeats:  # what was asked for takes as long as it needs
        options = replace(options, budget_s=float("inf"))
    prepared = prepare(options)
    judged = judge(prepared.queries, "restart")
    proven = judged.queries(prepared.queries)
    rng = random.Random(options.seed)
    jobs: dict[str, list[Query]] = {q.name: [q] for q in proven}
    if piped := [q for q in proven if q.name in PIPED]:
        jobs[PIPELINE] = piped
    full: dict[tuple[str, Kill], float] = {}
    trials: list[Trial] = []
    for job, cuts, kill in (t for _ in range(rounds) for t in _order(list(jobs), rng)):
        need = 2.5 * full.get((job, kill), 0.0) + 60
        if options.left_s < need or (job == PIPELINE and options.left_s < 400):
            continue
        if (job, kill) not in full:
            full[job, kill] = _full(_full_folder(options, job), prepared, jobs[job])
        trial = _trial(options, prepared, job, jobs[job], judged.answers, cuts, kill, full, rng)
        if trial is not None:
            trials.append(trial)
            options.say(
                f"{job} {cuts} {kill}: full {trial.full_s:.1f} s, killed after "
                f"{trial.work_s:.1f} s, {trial.committed} committed, "
                f"{trial.restored.checkpoints} restored (a look of {trial.restored.look_ms} ms), "
                f"resumed in {trial.resumed_s:.1f} s, {trial.full_s - trial.computed_s:.1f} s by "
                f"the model {trial.wrong or ''}"
            )
        if (cuts, kill) == ("advised", "uniform"):
            full.pop((job, "late"), None)  # the next round measures its own
            full.pop((job, "uniform"), None)
    return _result(trials, list(jobs), judged.skipped, rounds)


def _order(jobs: Sequence[str], rng: random.Random) -> list[tuple[str, Cuts, Kill]]:
    """Jobs shuffled, four at a time; both kinds of kills and of cuts share the time."""
    listed: list[tuple[str, Cuts, Kill]] = []
    kills: tuple[Kill, ...] = ("late", "uniform")
    both: tuple[Cuts, ...] = ("oracle", "advised")
    shuffled = rng.sample(list(jobs), len(jobs))
    for first in range(0, len(shuffled), 4):
        part = shuffled[first : first + 4]
        for kill in kills:
            listed += [(job, cuts, kill) for job in part for cuts in both]
    return listed


def _full_folder(options: Options, job: str) -> Path:
    return options.work / "full" / job.replace("/", "-")


def computed_s(listed: Sequence[Query], answers: Answers, work_s: float, full_s: float) -> float:
    """Seconds that the model says the cuts of ``answers`` save of a job killed after ``work_s``.

    The queries run one after the other; the job's true time is stretched to ``full_s``.
    """
    stretch = full_s / sum(q.seconds for q in listed)
    left, saved = work_s / stretch, 0.0
    for query in listed:
        kept = through(query.stages)
        for cut in reversed(answers[query.name].cuts):
            inside = frozenset(u for u in cut if u in kept)
            if max((kept[u].end_s for u in inside), default=0.0) <= left:
                saved += least_start_outside(kept, inside)
                break
        left -= query.seconds
        if left <= 0:
            break
    return saved * stretch


def _items(
    prepared: Prepared, listed: Sequence[Query], answers: Answers | None, gate: Path
) -> list[queries.Item]:
    found = []
    for query in listed:
        settings: dict[str, str] = {}
        if answers is not None:
            settings["spark.phoebe.force"] = query.force(answers[query.name])
            off = settings["spark.phoebe.force"] == "none"
            settings["spark.phoebe.mode"] = "off" if off else "apply"
        first = query is listed[0]
        data = data_of(query.name, prepared.scale_factor)
        item = queries.Item(query.name, data, conf=settings, pause_before=gate if first else None)
        found.append(item)
    return found


def _submit(
    folder: Path,
    prepared: Prepared,
    listed: Sequence[Query],
    answers: Answers | None,
    store: Path | None,
) -> tuple[apps.RunningApp, Path]:
    """With ``answers`` forced, or as advised; without the plugin where ``store`` is None."""
    gate = folder / "gate"
    folder.mkdir(parents=True, exist_ok=True)
    app = queries.submit_queries(
        _items(prepared, listed, answers, gate),
        folder=folder,
        app_name="the-twelve",
        conf=conf(prepared.home, "apply", objective="restart", checkpoint__dir=str(store or "")),
        plugin="none" if store is None else "jars",
        driver_memory="4g",
        with_event_log=False,
    )
    return app, gate


def _timed(
    folder: Path,
    prepared: Prepared,
    listed: Sequence[Query],
    answers: Answers | None,
    store: Path | None,
) -> float:
    """Runs to the end; seconds from the first query's start to the last one's end."""
    app, gate = _submit(folder, prepared, listed, answers, store)
    with app:
        gate.touch()
        app.wait(timeout_s=900).check()
        app.close(grace_s=15)  # the companion writes the last records after the driver's end
    found = queries.timings(folder)
    return max(t.ended for t in found.values()) - min(t.started for t in found.values())


def _full(folder: Path, prepared: Prepared, listed: Sequence[Query]) -> float:
    return _timed(folder, prepared, listed, None, None)


def _restored(prepared: Prepared, listed: Sequence[Query], app_id: str) -> Restored:
    """What an application restored."""
    prints = {
        str(r["fingerprint"])
        for r in homes.records(prepared.home, "checkpoints", app_id)
        if r["event"] == "restored"
    }
    looks = {
        str(r["fingerprint"]): json.loads(r["reason_args"])
        for r in homes.records(prepared.home, "boundaries", app_id)
        if r["fingerprint"] in prints and r["decision"] == "restore"
    }
    return Restored(
        len(prints),
        sum(found["bytes"] for found in looks.values()),
        sum(found["look_ms"] for found in looks.values()),
        max((q.upstream(f) for f in prints for q in listed), default=0),
    )


def _trial(
    options: Options,
    prepared: Prepared,
    job: str,
    listed: Sequence[Query],
    oracle: Answers,
    cuts: Cuts,
    kill: Kill,
    full: Mapping[tuple[str, Kill], float],
    rng: random.Random,
) -> Trial | None:
    """None when the run was over before its kill, three times."""
    answers = oracle if cuts == "oracle" else None
    full_s = full[job, kill]
    for _ in range(3):
        folder = fresh(options.work / "trial")
        store = folder / "store"
        work_s = full_s * (rng.uniform(0.9, 1.0) if kill == "late" else rng.uniform(0.0, 1.0))
        app, gate = _submit(folder / "killed", prepared, listed, answers, store)
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
        committed = len(committed_in(store))
        submitted_at = time.time()
        resumed_s = _timed(folder / "resumed", prepared, listed, answers, store)
        app_id = homes.app_started_after(prepared.home, submitted_at)
        restored = _restored(prepared, listed, app_id)
        wrong = tuple(
            q.name
            for q in listed
            if compare_results(
                queries.output(_full_folder(options, job), q.name),
                queries.output(folder / "resumed", q.name),
            )
        )
        return Trial(
            job,
            cuts,
            kill,
            work_s,
            computed_s(listed, oracle, work_s, full_s),
            full_s,
            resumed_s,
            committed,
            restored,
            wrong,
        )
    return None


def _result(
    trials: Sequence[Trial], jobs: Sequence[str], unproven: Sequence[str] = (), rounds: int = 1
) -> Result:
    def chosen(cuts: Cuts, kill: Kill) -> list[Trial]:
        found = [t for t in trials if t.cuts == cuts and t.kill == kill]
        return found if any(t.restored.checkpoints for t in found) else []

    def faster(cuts: Cuts) -> float | None:
        found = chosen(cuts, "late")
        return statistics.mean(t.faster for t in found) if found else None

    def kept(cuts: Cuts) -> float | None:
        found = chosen(cuts, "uniform")
        work = sum(t.work_s for t in found)
        return sum(t.saved_s for t in found) / work if work else None

    def of_computed() -> float | None:
        found = chosen("oracle", "uniform")
        computed = sum(t.computed_s for t in found)
        return sum(t.saved_s for t in found) / computed if computed else None

    def late_of_computed() -> float | None:
        found = chosen("oracle", "late")
        return statistics.mean(t.computed_s / t.full_s for t in found) if found else None

    rows: list[dict[str, Any]] = [{**asdict(t), "faster": t.faster} for t in trials]
    every = [(j, c, k) for j in jobs for c in ("oracle", "advised") for k in ("late", "uniform")]
    tried = {(t.job, t.cuts, t.kill) for t in trials}
    left = [f"{j} {c} {k}" for j, c, k in every if (j, c, k) not in tried]
    figures = {
        "late_kills_faster_oracle": faster("oracle"),
        "late_kills_faster_advised": faster("advised"),
        "uniform_kept_oracle": kept("oracle"),
        "uniform_kept_advised": kept("advised"),
        "uniform_kept_vs_computed": of_computed(),
        "late_kills_faster_computed": late_of_computed(),
        "trials": len(trials),
        "trials_that_committed": sum(t.committed > 0 for t in trials),
        "trials_that_restored": sum(t.restored.checkpoints > 0 for t in trials),
        "look_mib_s": _look_mib_s(trials),
        "wrong_results": sum(len(t.wrong) for t in trials),
        "rows": rows,
    }
    of: dict[str, tuple[Cuts, Kill]] = {
        "late_kills_faster_oracle": ("oracle", "late"),
        "late_kills_faster_advised": ("advised", "late"),
        "late_kills_faster_computed": ("oracle", "late"),
        "uniform_kept_oracle": ("oracle", "uniform"),
        "uniform_kept_advised": ("advised", "uniform"),
        "uniform_kept_vs_computed": ("oracle", "uniform"),
    }
    why = {}
    if figures["look_mib_s"] is None:
        why["look_mib_s"] = "no trial restored a checkpoint"
    for key, (cuts, kill) in of.items():
        if figures[key] is None:
            tried_kind = any((t.cuts, t.kill) == (cuts, kill) for t in trials)
            why[key] = (
                "no trial of this kind restored a checkpoint"
                if tried_kind
                else "no trial of this kind fitted the time"
            )
    skipped = [f"{name}: no time left, or over before its kill" for name in left]
    return Result(
        figures, repeats=rounds, why_null=why, skipped=[*unproven, *_doubts(trials), *skipped]
    )


def _look_mib_s(trials: Sequence[Trial]) -> float | None:
    """How fast restored checkpoints were found whole: their bytes over the looks' time."""
    ms = sum(t.restored.look_ms for t in trials)
    return sum(t.restored.bytes for t in trials) / 2**20 / (ms / 1000) if ms else None


def _doubts(trials: Sequence[Trial]) -> list[str]:
    """What falls short of the rules fixed for this bench."""
    found = ["repeats: a trial of each job, cuts and kill a round; the rule is at least 5 pairs"]
    jobs = {t.job for t in trials}
    deep = {t.job for t in trials if t.restored.upstream >= 2}
    if 2 * len(deep) < len(jobs):
        found.append(
            f"{len(deep)} of {len(jobs)} jobs restored a checkpoint with two or more stages "
            "upstream; the rule is at least half"
        )
    return found
