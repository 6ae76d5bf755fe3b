"""Seeded faults on a standalone cluster with two workers: nothing may be wrong, fail, or run twice.

Within an application: executors and workers are SIGKILLed while map tasks run, while their
outputs are uploaded, right after a commit and while readers run; the store's disk is filled; the
store fails or hangs; files of committed checkpoints are deleted, cut short or have bits flipped.
These trials share two applications (one with its store on plain files, one behind a file system
with troubles), so that each costs seconds.

Resuming: the driver is SIGKILLed during the map stage, the copy, the commit, the freeing, and
between queries, the same query is submitted again, and there again the driver is SIGKILLed,
executors and workers are, files are harmed before or after the first reader, the store vanishes,
rows are read once more when their query has ended, garbage is collected, the disk is full; or the
driver is stopped (SIGSTOP) for longer than its lease, and goes on beside its successor
(``tests/support/resume_trials``).

Some trials more are drawn of what is lost while it is read, also with queries whose result is
handed out in parts from such a boundary. ``typed_share`` is the share of all injected losses (those
trials and ``restore_flip``) in which the query failed with the error that the documentation names.

A failed trial with a kill of executors in it is tried again in the same way without the plugin, and
does not count if that fails too. Where the query was over before the fault came, or there was
nothing to harm yet, the trial shows nothing: it counts in ``faults_missed`` and is in ``skipped``.
Upstream re-runs are read from the event logs (``tests/support/reruns``). ``--repeats`` is the
number of trials, ``--seed`` draws others.
"""

from __future__ import annotations

import subprocess
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.frame import Options, Result, fresh
from tests.support import resume_trials, trials
from tests.support.cluster import Cluster, standalone
from tests.support.resume_trials import LATE

TRIALS = 52
# Shares of the trials: each kind of resuming once in 52, and those of losses while reading.
RESUMED, LOST = 15 / 52, 12 / 52
DISK = "96m"
HOSTS = ("127.0.0.1", "127.0.0.2")  # or executors read each other's files from the disk they share


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A small file system of its own where one may be mounted, so that it can be filled."""
    folder.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(folder)]
    mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    try:
        yield folder
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=True)


def run(options: Options) -> Result:
    total = options.repeats or TRIALS
    # More trials than are fixed take as long as they need.
    options = replace(options, budget_s=max(options.budget_s, 30.0 * total))
    resumed, lost = round(RESUMED * total), round(LOST * total)
    drawn = trials.draw(total - resumed - lost, options.seed)
    resuming = [
        *trials.draw(resumed, options.seed + 1, resume_trials.KINDS),
        *_named("lost", trials.draw(lost, options.seed + 2, LATE, tuple(trials.ALL_SHAPES))),
    ]
    outcomes: list[trials.Outcome] = []
    figures: dict[str, Any] = {"upstream_reruns": 0, "losses_judged": 0}
    with (
        standalone(options.work / "cluster", hosts=HOSTS) as cluster,
        small_disk(options.work / "disk") as disk,
    ):
        kinds = trials.troubled_kinds(disk)
        for troubled in (False, True):
            mine = [t for t in drawn if (t.kind in kinds) == troubled]
            bench = trials.Bench(options.work / f"app{troubled:d}", cluster, disk, troubled)
            done = _group(options, bench, mine)
            outcomes += done
            for name, losses in trials.upstream_reruns(bench.served, done).items():
                figures["losses_judged"] += losses.committed_before > 0
                if losses.reruns:
                    figures["upstream_reruns"] += len(losses.reruns)
                    options.say(f"{name}: stages of committed boundaries ran again: {losses}")
        later = _resumed(options, cluster, disk, resuming)
    outcomes += [one.outcome for one in later]
    figures["trials_that_restored"] = sum(bool(one.restored) for one in later)
    figures["trials_that_computed"] = sum(bool(one.computed) for one in later)
    return _result(outcomes, figures, sum(one.partial for one in later))


def _named(before: str, drawn: list[trials.Trial]) -> list[trials.Trial]:
    return [replace(trial, name=f"{before}-{trial.name}") for trial in drawn]


def _group(options: Options, bench: trials.Bench, mine: list[trials.Trial]) -> list[trials.Outcome]:
    done: list[trials.Outcome] = []
    fresh(bench.folder)
    with bench.start() as served:
        for trial in mine:
            if options.left_s < 90:
                options.say("the time is used up")
                break
            outcome = bench.run(trial)
            options.say(
                f"{trial.name} {trial.shape}: {outcome.did}; {outcome.committed} committed, "
                f"{outcome.seconds:.1f} s {outcome.missed}{outcome.wrong}{outcome.error[:300]}"
            )
            if outcome.error and bench.fails_without(outcome):
                options.say(f"{trial.name} fails without the plugin too, it does not count")
                continue
            done.append(outcome)
        served.stop()
    return done


def _resumed(
    options: Options, cluster: Cluster, disk: Path, drawn: list[trials.Trial]
) -> list[resume_trials.Resumed]:
    done = []
    with resume_trials.ResumeBench(fresh(options.work / "resume"), cluster, disk) as bench:
        for trial in drawn:
            if options.left_s < 90:
                options.say("the time is used up")
                break
            one = bench.run(trial)
            options.say(
                f"{trial.name} {trial.shape}: {one.outcome.did}; "
                f"{one.outcome.committed} committed, {len(one.restored)} restored, "
                f"{one.outcome.seconds:.1f} s "
                f"{one.outcome.missed}{one.outcome.wrong}{one.outcome.error[:300]}"
            )
            done.append(one)
    return done


def _result(outcomes: list[trials.Outcome], figures: dict[str, Any], partial: int) -> Result:
    counted = ("trials", "missed", "wrong_results", "failed_jobs", "committed")
    by_kind: dict[str, dict[str, Any]] = defaultdict(
        lambda: {**dict.fromkeys(counted, 0), "seconds": 0.0}
    )
    typed = 0
    for outcome in outcomes:
        row = by_kind[outcome.trial.kind]
        is_typed = resume_trials.is_typed(outcome)
        typed += is_typed
        row["trials"] += 1
        row["missed"] += bool(outcome.missed)
        row["wrong_results"] += bool(outcome.wrong)
        row["failed_jobs"] += bool(outcome.error) and not is_typed
        row["committed"] += outcome.committed > 0
        row["seconds"] += outcome.seconds
    injected = sum(o.trial.kind in resume_trials.INJECTED and not o.missed for o in outcomes)
    figures |= {
        "trials": len(outcomes),
        "faults_missed": sum(row["missed"] for row in by_kind.values()),
        "wrong_results": sum(row["wrong_results"] for row in by_kind.values()),
        "failed_jobs": sum(row["failed_jobs"] for row in by_kind.values()),
        "typed_errors": typed,
        "injected_losses": injected,
        "typed_share": typed / max(1, injected),
        "partial_reads": partial,
        "by_kind": dict(by_kind),
        "list": [trials.as_row(outcome) for outcome in outcomes],
    }
    missed = [f"{o.trial.name}: {o.missed}" for o in outcomes if o.missed]
    return Result(figures, repeats=len(outcomes), skipped=missed)
