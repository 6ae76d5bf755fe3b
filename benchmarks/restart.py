"""What a killed job saves when it is submitted again: the twelve, and four of them as a pipeline.

A trial submits an application in mode `apply`, SIGKILLs its driver at a chosen moment, submits the
same again and times it from the first query's start to the last one's end. The yardstick is the
same application without the plugin, never killed. What a session's start costs is left out on all
sides: each application first runs the same texts on small data, because a new JVM spends as long
on loading and compiling code as these queries run for; ``session_start_s`` is that time.

``late_kills_faster``: kills in the last tenth of the run, 1 - resumed / full. ``uniform_kept``:
kills uniform over the run, the share of the work done until the kill that need not be redone,
(full - resumed) / work done. The cuts are the oracle's within the fixed budget (for failures that
come when the trial's kill comes), the oracle's with durable storage for free (late kills only),
and those advised. ``.._computed`` is what the model says of the oracle's cuts and the same kills:
the least start outside the largest cut that was done by then, in the true values, stretched to the
length of the full run. Trials are drawn in a seeded order until the time is used, with
``--repeats`` all of them so many times; a run that ended before its kill is drawn again.

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
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from benchmarks.frame import Options, Result, fresh
from benchmarks.oracle import Best, least_start_outside, through
from benchmarks.twelve import Judged, Prepared, Query, conf, data_of, judge, prepare
from tests.support import apps, queries
from tests.support import home as homes
from tests.support.compare import compare_results
from tests.support.store import committed as committed_in

Cuts = Literal["oracle", "free", "advised"]
Kill = Literal["late", "uniform"]
KINDS: tuple[tuple[Cuts, Kill], ...] = (
    ("oracle", "late"),
    ("advised", "late"),
    ("oracle", "uniform"),
    ("advised", "uniform"),
    ("free", "late"),
)
LAST: Mapping[Kill, float] = {"late": 0.1, "uniform": 1.0}
"""The share of a run, its end, over which kills are uniform."""

PAIRS = 5
WARM_UP = 1 / 3
"""The small data's scale factor, as a fraction of the bench's. Much smaller data is planned with
broadcasts for shuffles, and leaves cold what the queries then run."""
Answers = Mapping[str, Best]
PIPELINE = "pipeline"
PIPED: tuple[str, ...] = ("tpcds/q4", "tpcds/q14b", "tpcds/q23b", "tpcds/q64")
"""The first four of the twelve that read one set of tables: to register another takes seconds."""


@dataclass(frozen=True, slots=True)
class Restored:
    """What a resumption took up: checkpoints, their bytes, how long planning looked at them before
    (milliseconds, the sum; several are looked at at once), and the most stages upstream of one of
    them."""

    checkpoints: int = 0
    bytes: int = 0
    look_ms: int = 0
    upstream: int = 0


@dataclass(frozen=True, slots=True)
class Trial:
    """One kill and one resumption. Seconds; ``work_s`` is what had been done at the kill,
    ``computed_s`` what the model says that the forced cuts save of it, ``committed`` the
    checkpoints it left, ``restored`` those that the resumption took up."""

    job: str
    cuts: Cuts
    kill: Kill
    work_s: float
    computed_s: float | None
    full_s: float
    resumed_s: float
    committed: int
    restored: Restored
    wrong: tuple[str, ...]

    def line(self) -> str:
        """For people who wait."""
        looked = f" ({self.restored.look_ms} ms of looks)" if self.restored.checkpoints else ""
        model = f", {self.full_s - self.computed_s:.1f} s by the model" if self.computed_s else ""
        return (
            f"{self.job} {self.cuts} {self.kill}: full {self.full_s:.1f} s, killed after "
            f"{self.work_s:.1f} s, {self.committed} committed, {self.restored.checkpoints} "
            f"restored{looked}, resumed in {self.resumed_s:.1f} s{model} {self.wrong or ''}"
        )

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
    judged: dict[tuple[Cuts, Kill], Judged] = {
        ("oracle", kill): judge(prepared.queries, "restart", last=LAST[kill]) for kill in LAST
    }
    judged["free", "late"] = judge(prepared.queries, "restart", 1.0, LAST["late"])
    proven = [q for q in prepared.queries if all(q.name in j.answers for j in judged.values())]
    rng = random.Random(options.seed)
    jobs: dict[str, list[Query]] = {q.name: [q] for q in proven}
    if piped := [q for q in proven if q.name in PIPED]:
        jobs[PIPELINE] = piped
    full: dict[tuple[int, str, Kill], float] = {}
    trials: list[Trial] = []
    starts: list[float] = []
    try:
        for number, job, cuts, kill in (
            (n, *kind) for n in range(rounds) for kind in _order(list(jobs), rng)
        ):
            known = max((s for (_, name, _), s in full.items() if name == job), default=0.0)
            # The killed application, the resumed one, perhaps a full one, each warmed up before.
            need = 3.5 * known + 3 * max(starts, default=20.0)
            if options.left_s < need or (job == PIPELINE and options.left_s < 400):
                continue
            if (number, job, kill) not in full:
                ran = _timed(_full_folder(options, job), prepared, jobs[job], None, None)
                starts.append(ran.start_s)
                full[number, job, kill] = ran.seconds
            full_s = full[number, job, kill]
            answers = judged[cuts, kill].answers if cuts != "advised" else None
            trial = _trial(options, prepared, job, jobs[job], answers, cuts, kill, full_s, rng)
            if trial is not None:
                trials.append(trial)
                options.say(trial.line())
    except KeyboardInterrupt:
        options.say("interrupted: the figures of the trials so far")
    unproven = sorted({line for found in judged.values() for line in found.skipped})
    return _result(trials, list(jobs), unproven, starts)


def _order(jobs: Sequence[str], rng: random.Random) -> list[tuple[str, Cuts, Kill]]:
    """Jobs shuffled, three at a time; all kinds of trials share the time."""
    listed: list[tuple[str, Cuts, Kill]] = []
    shuffled = rng.sample(list(jobs), len(jobs))
    for first in range(0, len(shuffled), 3):
        part = shuffled[first : first + 3]
        listed += [(job, cuts, kill) for cuts, kill in KINDS for job in part]
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
    """The queries on small data, which are not checkpointed, then the gate, then the queries."""
    unchanged = {"spark.phoebe.mode": "advise"}
    small = WARM_UP * prepared.scale_factor
    found = [
        queries.Item(
            f"warm-up {q.name}", data_of(q.name, small), text=q.name, output=False, conf=unchanged
        )
        for q in listed
    ]
    for query in listed:
        settings = {"spark.phoebe.mode": "apply"}
        if answers is not None:
            settings["spark.phoebe.force"] = query.force(answers[query.name])
            if settings["spark.phoebe.force"] == "none":
                settings["spark.phoebe.mode"] = "off"
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


@dataclass(frozen=True, slots=True)
class Ran:
    """An application that ran to its end: seconds of its queries, and before them."""

    seconds: float
    start_s: float


def _timed(
    folder: Path,
    prepared: Prepared,
    listed: Sequence[Query],
    answers: Answers | None,
    store: Path | None,
) -> Ran:
    """Runs to the end; from the first query's start to the last one's end."""
    submitted = time.time()
    app, gate = _submit(folder, prepared, listed, answers, store)
    with app:
        gate.touch()
        app.wait(timeout_s=900).check()
        app.close(grace_s=15)  # the companion writes the last records after the driver's end
    found = _done(folder, listed)
    started = min(t.started for t in found)
    return Ran(max(t.ended for t in found) - started, started - submitted)


def _done(folder: Path, listed: Sequence[Query]) -> list[queries.Timing]:
    """What has run of the queries, without those that warmed up."""
    found = queries.timings(folder)
    return [found[q.name] for q in listed if q.name in found]


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
    answers: Answers | None,
    cuts: Cuts,
    kill: Kill,
    full_s: float,
    rng: random.Random,
) -> Trial | None:
    """None when the run was over before its kill, three times."""
    for _ in range(3):
        folder = fresh(options.work / "trial")
        store = folder / "store"
        work_s = full_s * rng.uniform(1.0 - LAST[kill], 1.0)
        app, gate = _submit(folder / "killed", prepared, listed, answers, store)
        with app:
            app.wait_for(Path(f"{gate}.reached"))
            gate.touch()
            ends = time.monotonic() + work_s
            while app.running and time.monotonic() < ends:
                time.sleep(0.02)
            done = len(_done(app.folder, listed)) == len(listed)
            if done or not app.running:
                continue
            app.kill_driver()
        committed = len(committed_in(store))
        submitted_at = time.time()
        resumed_s = _timed(folder / "resumed", prepared, listed, answers, store).seconds
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
            computed_s(listed, answers, work_s, full_s) if answers is not None else None,
            full_s,
            resumed_s,
            committed,
            restored,
            wrong,
        )
    return None


def _result(
    trials: Sequence[Trial],
    jobs: Sequence[str],
    unproven: Sequence[str] = (),
    starts: Sequence[float] = (),
) -> Result:
    figures: dict[str, Any] = {}
    why: dict[str, str] = {}
    for cuts, kill in KINDS:
        tried = [t for t in trials if (t.cuts, t.kill) == (cuts, kill)]
        found = tried if any(t.restored.checkpoints for t in tried) else []
        for key, value in _figures(cuts, kill, found).items():
            figures[key] = value
            if not found:
                nothing = "restored a checkpoint" if tried else "fitted the time"
                why[key] = f"no trial of this kind {nothing}"
            elif value is None:
                why[key] = "the model computes that nothing is saved in these trials"
    figures |= {
        "trials": len(trials),
        "trials_that_committed": sum(t.committed > 0 for t in trials),
        "trials_that_restored": sum(t.restored.checkpoints > 0 for t in trials),
        "look_ms": _look_ms(trials),
        "session_start_s": statistics.median(starts) if starts else None,
        "wrong_results": sum(len(t.wrong) for t in trials),
        "rows": [{**asdict(t), "faster": t.faster} for t in trials],
    }
    if figures["look_ms"] is None:
        why["look_ms"] = "no trial restored a checkpoint"
    if figures["session_start_s"] is None:
        why["session_start_s"] = "no run was timed"
    done = {(t.job, t.cuts, t.kill) for t in trials}
    left = [(j, c, k) for j in jobs for c, k in KINDS if (j, c, k) not in done]
    skipped = [f"{' '.join(one)}: no time left, or over before its kill" for one in left]
    doubts = [*unproven, *_doubts(trials), *skipped]
    return Result(figures, repeats=_repeats(trials), why_null=why, skipped=doubts)


def _figures(cuts: Cuts, kill: Kill, trials: Sequence[Trial]) -> dict[str, float | None]:
    """A kind's own figures, all of them None without trials."""

    def mean(values: Iterable[float]) -> float | None:
        listed = list(values)
        return statistics.mean(listed) if listed else None

    def share(part: Iterable[float], whole: Iterable[float]) -> float | None:
        total = sum(whole)
        return sum(part) / total if total > 0 else None

    forced = [(t, t.computed_s) for t in trials if t.computed_s is not None]
    if kill == "late":
        found = {f"late_kills_faster_{cuts}": mean(t.faster for t in trials)}
        if cuts != "advised":
            found[f"late_kills_faster_{cuts}_computed"] = mean(c / t.full_s for t, c in forced)
    else:
        saved, work = [t.saved_s for t in trials], [t.work_s for t in trials]
        found = {f"uniform_kept_{cuts}": share(saved, work)}
        if cuts != "advised":
            computed = [c for _, c in forced]
            found[f"uniform_kept_{cuts}_computed"] = share(computed, work)
            found["uniform_kept_vs_computed"] = share((t.saved_s for t, _ in forced), computed)
    return found


def _look_ms(trials: Sequence[Trial]) -> float | None:
    """How long a look at one restored checkpoint took, milliseconds, on average."""
    checkpoints = sum(t.restored.checkpoints for t in trials)
    return sum(t.restored.look_ms for t in trials) / checkpoints if checkpoints else None


def _repeats(trials: Sequence[Trial]) -> int:
    """The least number of trials of a job, cuts and kill, of those that there are."""
    return min(Counter((t.job, t.cuts, t.kill) for t in trials).values(), default=0)


def _doubts(trials: Sequence[Trial]) -> list[str]:
    """What falls short of the rules fixed for this bench."""
    found = []
    if (repeats := _repeats(trials)) < PAIRS:
        found.append(f"repeats: {repeats} of a job, cuts and kill; the rule is at least {PAIRS}")
    jobs = {t.job for t in trials}
    deep = {t.job for t in trials if t.restored.upstream >= 2}
    if 2 * len(deep) < len(jobs):
        found.append(
            f"{len(deep)} of {len(jobs)} jobs restored a checkpoint with two or more stages "
            "upstream; the rule is at least half"
        )
    return found
