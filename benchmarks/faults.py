"""Seeded faults on a standalone cluster with two workers: nothing may be wrong, fail, or run twice.

Executors and workers are SIGKILLed while map tasks run, while their outputs are uploaded, right
after a commit and while readers run; the store's disk is filled; the store fails or hangs; files of
committed checkpoints are deleted, cut short or have bits flipped. Trials share two applications
(one with its store on plain files, one behind a file system with troubles), so that each costs
seconds. Damage that a later application meets when it restores is tried in a third and fourth.

A failed trial with a kill in it is tried again in the same way without the plugin, and does not
count if that fails too. Upstream re-runs are read from the event logs (``tests/support/reruns``).
``--repeats`` is the number of trials, ``--seed`` draws others.
"""

from __future__ import annotations

import random
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.frame import Options, Result, fresh
from tests.support import home, tpc, trials
from tests.support.cluster import Cluster, standalone
from tests.support.compare import compare_results
from tests.support.served import Served
from tests.support.store import committed, data_of

TRIALS = 40
RESTORED_OF = 10  # every tenth trial harms a checkpoint before it is restored
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
    restored = total // RESTORED_OF
    drawn = trials.draw(total - restored, options.seed)
    skipped: list[str] = []
    outcomes: list[trials.Outcome] = []
    figures: dict[str, Any] = {"upstream_reruns": 0, "losses_judged": 0}
    with (
        standalone(options.work / "cluster", hosts=HOSTS) as cluster,
        small_disk(options.work / "disk") as disk,
    ):
        if not disk.is_mount():
            skipped.append("disk_full: no file system could be mounted")
            drawn = [t for t in drawn if t.kind != "disk_full"]
        for troubled in (False, True):
            mine = [t for t in drawn if (t.kind in trials.TROUBLED) == troubled]
            bench = trials.Bench(options.work / f"app{troubled:d}", cluster, disk, troubled)
            done = _group(options, bench, mine)
            outcomes += done
            for name, losses in trials.upstream_reruns(bench.served, done).items():
                figures["losses_judged"] += losses.committed_before > 0
                if losses.reruns:
                    figures["upstream_reruns"] += len(losses.reruns)
                    options.say(f"{name}: stages of committed boundaries ran again: {losses}")
        later, partial = _restored(options, cluster, restored) if restored else ([], 0)
        outcomes += later
    return _result(outcomes, figures, partial, skipped)


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
                f"{outcome.seconds:.1f} s {outcome.wrong}{outcome.error[:300]}"
            )
            if outcome.error and bench.fails_without(outcome):
                options.say(f"{trial.name} fails without the plugin too, it does not count")
                continue
            done.append(outcome)
        served.stop()
    return done


def _restored(options: Options, cluster: Cluster, count: int) -> tuple[list[trials.Outcome], int]:
    """Checkpoints that one application left are harmed, and another one restores what is whole.

    Returns the outcomes, and how many checkpoints were restored although they were harmed.
    """
    rng = random.Random(options.seed + 1)
    folder = fresh(options.work / "restored")
    store = folder / "home" / "checkpoints"
    conf = {
        **trials.CONF,
        "spark.phoebe.home": str(folder / "home"),
        "spark.phoebe.force": "all",
        "spark.phoebe.checkpoint.retain": "always",
    }
    kinds = ("delete", "truncate", "flip")
    drawn = [
        trials.Trial(f"r{i}-{kinds[i % 3]}", f"restore_{kinds[i % 3]}", "joined", rng.randrange(99))
        for i in range(count)
    ]

    def served(name: str) -> Served:
        data = tpc.data("tpch", 0.1)
        return Served(folder / name, data, master=cluster.master, conf=conf, plugin="jars")

    forced = {"spark.phoebe.mode": "apply", "spark.phoebe.force": "all"}
    works = {trial.name: 20 + i for i, trial in enumerate(drawn)}  # so each has its own checkpoints
    with served("first") as first:
        for trial in drawn:
            sql = trials.sql_of("joined", works[trial.name])
            first.run(f"plain-{trial.name}", sql, trials.PLAIN)
            first.run(trial.name, sql, forced)
        first.stop()
    harmed: set[Path] = set()
    did: dict[str, str] = {}
    manifests = committed(store)
    for trial in drawn:
        manifest = manifests.pop(rng.randrange(len(manifests)))
        files = [*sorted(data_of(manifest).glob("*.pack")), manifest]
        file = rng.choice(files)
        trials.harm(file, trial.kind.removeprefix("restore_"), rng)
        harmed.add(data_of(manifest))
        did[trial.name] = f"{file.suffix} of one checkpoint"
    outcomes = []
    with served("second") as second:
        for trial in drawn:
            answer = second.run(trial.name, trials.sql_of("joined", works[trial.name]), forced)
            wrong = ""
            if answer.error is None:
                expected = folder / "first" / "out" / f"plain-{trial.name}"
                wrong = compare_results(expected, second.output(trial.name)).message
            seconds = answer.ended - answer.started
            options.say(f"{trial.name}: {did[trial.name]}, {seconds:.1f} s {wrong}")
            outcomes.append(
                trials.Outcome(
                    trial, seconds, did[trial.name], 0.0, len(harmed), wrong, answer.error or ""
                )
            )
        second.stop()
    rows = home.records(folder / "home", "checkpoints")
    restored = {Path(str(r["path"])).name for r in rows if r["event"] == "restored"}
    options.say(f"{len(restored)} restored, {len(harmed)} had been harmed")
    return outcomes, len(restored & {p.name for p in harmed})


def _result(
    outcomes: list[trials.Outcome], figures: dict[str, Any], partial: int, skipped: list[str]
) -> Result:
    by_kind: dict[str, dict[str, Any]] = defaultdict(
        lambda: {"trials": 0, "wrong_results": 0, "failed_jobs": 0, "committed": 0, "seconds": 0.0}
    )
    typed = 0
    for outcome in outcomes:
        row = by_kind[outcome.trial.kind]
        is_typed = "DamagedCheckpointException" in outcome.error
        typed += is_typed
        row["trials"] += 1
        row["wrong_results"] += bool(outcome.wrong)
        row["failed_jobs"] += bool(outcome.error) and not is_typed
        row["committed"] += outcome.committed > 0
        row["seconds"] += outcome.seconds
    figures |= {
        "trials": len(outcomes),
        "wrong_results": sum(row["wrong_results"] for row in by_kind.values()),
        "failed_jobs": sum(row["failed_jobs"] for row in by_kind.values()),
        "typed_errors": typed,
        "partial_reads": partial,
        "by_kind": dict(by_kind),
        "list": [trials.as_row(outcome) for outcome in outcomes],
    }
    return Result(figures, repeats=len(outcomes), skipped=skipped)
