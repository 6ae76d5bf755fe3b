"""Seeded faults on one cluster: results are the plain run's, nothing fails, what lies below a
committed boundary does not run again after the loss of an executor, killed drivers' jobs resume.

The bench ``faults`` runs more of the same, the nightly run more still.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.faults import HOSTS, small_disk
from tests.support import reruns, resume_trials, trials
from tests.support.cluster import Cluster, standalone
from tests.support.resume_trials import ResumeBench
from tests.support.store import clear, wait_for_commits

SEED = 20210711
DRAWN = [
    *trials.draw(len(trials.KINDS), SEED),
    trials.Trial("t11-executor_read", "executor_read", "one", SEED),
]
# `test_damaged_checkpoints` has these in every run, without executors that are far.
RARELY = ("delete", "truncate")
# Also where a disk of its own could be filled: it is filled elsewhere then.
SAYS_FULL = trials.Trial("t12-disk_full", "disk_full", "one", SEED)

CONTROL = "lost"
"""The query of which stages do run again."""
MOMENTS = 3
"""Moments that are tried at most for a fault whose query was over before it came."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("trials")


@pytest.fixture(scope="module")
def cluster(folder: Path) -> Iterator[Cluster]:
    with standalone(folder / "cluster", hosts=HOSTS) as found:
        yield found


@pytest.fixture(scope="module")
def disk(folder: Path) -> Iterator[Path]:
    with small_disk(folder / "disk") as found:
        yield found


def _moments(trial: trials.Trial) -> Iterator[trials.Trial]:
    """The trial, and again at other moments: should its query be over before the fault comes."""
    yield trial
    for number in range(1, MOMENTS):
        yield replace(trial, name=f"{trial.name}-{number}", seed=trial.seed + number)


@pytest.fixture(scope="module")
def plain() -> dict[str, tuple[Path, float]]:
    """The plain runs so far."""
    return {}


@pytest.mark.parametrize("troubled", [False, True], ids=["files", "troubled"])
def test_faults_change_no_result(
    folder: Path,
    cluster: Cluster,
    disk: Path,
    plain: dict[str, tuple[Path, float]],
    troubled: bool,
) -> None:
    place = folder / f"app{troubled:d}"
    bench = trials.Bench(place, cluster, disk, troubled, plain=plain)
    kinds = trials.troubled_kinds(disk)
    drawn = [t for t in DRAWN if (t.kind in kinds) == troubled and t.kind not in RARELY]
    judged = _none_changes(bench, [*drawn, *([SAYS_FULL] * troubled)], control=not troubled)
    plain |= bench.plain
    assert judged
    if not troubled:
        # Some of them were killed after a commit, or the above says nothing.
        assert any(found.lost_executors and found.committed_before for found in judged.values())


@pytest.mark.nightly(
    guarded_by="tests/faults/test_damaged_checkpoints.py::test_damage_before_a_restore_is_computed_around"
)
def test_files_that_are_gone_or_cut_off_change_no_result(
    folder: Path, cluster: Cluster, disk: Path
) -> None:
    bench = trials.Bench(folder / "rarely", cluster, disk, troubled=False)
    _none_changes(bench, [t for t in DRAWN if t.kind in RARELY])


def _none_changes(
    bench: trials.Bench, drawn: Sequence[trials.Trial], *, control: bool = False
) -> dict[str, reruns.Losses]:
    """What was lost, by trial. ``control`` adds a loss that makes stages run again."""
    outcomes = []
    with bench.start() as served:
        for trial in drawn:
            for attempt in _moments(trial):
                outcome = bench.run(attempt)
                if not outcome.missed:
                    break
            assert not outcome.missed, outcome
            assert not outcome.wrong, outcome
            assert not outcome.error or bench.fails_without(outcome), outcome
            outcomes.append(outcome)
        if control:
            _lose_executor_and_checkpoint(bench)
        served.stop()
    judged = trials.upstream_reruns(served, outcomes)
    assert not {name: found for name, found in judged.items() if found.reruns}
    if control:
        lost = reruns.read(next((served.folder / "events").iterdir()))[CONTROL]
        assert lost.committed_before == 1
        assert lost.reruns
    return judged


def _lose_executor_and_checkpoint(bench: trials.Bench) -> None:
    """Where the store cannot help, stages do run again: the judge above can tell."""
    bench.cluster.wait_for_executors()
    forced = {"spark.phoebe.mode": "apply", "spark.phoebe.force": "e1"}
    asked = bench.served.ask(CONTROL, trials.sql_of("one"), forced)
    manifest = wait_for_commits(bench.store, 1)[0]
    for file in (*manifest.parents[1].glob("data/*/*/*.pack"), manifest):
        file.unlink()
    bench.cluster.workers[0].kill_executors()
    assert bench.served.answer(asked).error is None
    clear(bench.store)


# In every run: drivers that are killed in a commit, and while it is restored. Those of
# `test_applications` are killed between two queries; what cannot be read any more has its tests in
# `test_unreadable_checkpoints`, and a store that is gone below.
ALWAYS = ("driver_commit", "driver_restore")


def _resumes(bench: ResumeBench, kinds: tuple[str, ...]) -> None:
    restored = 0
    for number, kind in enumerate(kinds):
        for attempt in _moments(trials.Trial(f"r{number}-{kind}", kind, "one", SEED + number)):
            one = bench.run(attempt)
            if not one.outcome.missed:
                break
        assert not one.outcome.missed, one
        assert not one.outcome.wrong, one
        assert not one.partial, one
        assert not one.outcome.error or resume_trials.is_typed(one.outcome), one
        restored += bool(one.restored)
    assert restored, "nothing was restored: the above says nothing"


@pytest.fixture(scope="module")
def resuming(folder: Path, cluster: Cluster, disk: Path) -> Iterator[ResumeBench]:
    """The last driver of a test is the next one's first."""
    with ResumeBench(folder / "resume", cluster, disk) as bench:
        yield bench


def test_a_killed_driver_resumes(resuming: ResumeBench) -> None:
    _resumes(resuming, ALWAYS)


def test_a_result_is_whole_although_the_store_went_when_a_part_of_it_was_written(
    resuming: ResumeBench,
) -> None:
    trial = trials.Trial("r-gone", "restore_gone", "spread", SEED)
    found = (resuming.run(attempt) for attempt in _moments(trial))
    one = next((one for one in found if not one.outcome.missed), None)
    assert one is not None
    assert not one.outcome.wrong, one
    assert not one.outcome.error, one
    assert one.restored


@pytest.mark.nightly(guarded_by="tests/faults/test_trials.py::test_a_killed_driver_resumes")
def test_every_fault_of_resuming(folder: Path, cluster: Cluster, disk: Path) -> None:
    with ResumeBench(folder / "resume-all", cluster, disk) as bench:
        _resumes(bench, tuple(kind for kind in resume_trials.KINDS if kind not in ALWAYS))
