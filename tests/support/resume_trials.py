"""Seeded faults of resuming: a driver is SIGKILLed, the same query is submitted again, and
something happens to that run too.

A trial takes two or three drivers: the one that is killed, the one that resumes (and may be killed
in its turn), and where that was to fail or was killed, one more. The last one goes on as the first
one of the next trial, so a trial costs about one start of Spark. The result is compared with the
plain run's; what was restored is what the driver's log says.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from phoebe_spark.checkpoints.catalogue import collect
from tests.support import tpc, trials
from tests.support.cluster import Cluster
from tests.support.compare import compare_results
from tests.support.places import testing_jar
from tests.support.served import Answer, Served
from tests.support.store import clear, committed, data_of, incomplete, read_manifest
from tests.support.trials import MissedError, Outcome, Trial, await_moment, still_runs

FIRST = ("driver_map", "driver_copy", "driver_commit", "driver_free", "driver_between")
"""When the first driver is killed; in all others it is when everything is committed."""
AGAIN = ("driver_restore", "driver_resumed")
"""When the resuming driver is killed too."""
SECOND = (
    *AGAIN,
    "restore_executor",
    "restore_worker",
    "restore_gc",
    "restore_late",
    "restore_gone",
)
"""When something happens while the query resumes."""
INJECTED = ("restore_flip", "restore_late", "restore_gone")
"""When what a query restores cannot be read, or not all of it, once it is in the plan."""
HARM = (
    "restore_delete",
    "restore_truncate",
    "restore_flip",
    "restore_late",
    "restore_gone",
    "restore_full",
)
PAUSED = "driver_paused"
"""The first driver is stopped for longer than its lease, and goes on when the second is done."""
KINDS: tuple[str, ...] = (
    *FIRST,
    PAUSED,
    *AGAIN,
    "restore_executor",
    "restore_worker",
    "restore_gc",
    "restore_again",
    *HARM,
)
LATE = ("restore_late", "restore_gone")
"""Of these, when it is whole until it is read."""
_RESTORED = re.compile(r"phoebe: restores \d+ bytes that .*?/data/([0-9a-f]+/[0-9a-f]{32})\b")
_COMPUTED = re.compile(
    r"phoebe: the restored checkpoint \S*?/data/([0-9a-f]+/[0-9a-f]{32})\S* cannot be read, its"
)
_APP_ID = re.compile(r"Connected to Spark cluster with app ID (app-\d+-\d+)")
AGAIN_FAILED = "the next submission failed too: "
_JOIN = "on o_orderkey = l_orderkey"


@dataclass(frozen=True, slots=True)
class Resumed:
    """An outcome, and what was restored (``<fingerprint>/<attempt>``); ``partial`` of these were
    half written or harmed before the run began that restored them; ``computed``: how many could not
    be read then, and were computed."""

    outcome: Outcome
    restored: frozenset[str]
    partial: int
    computed: int = 0


def is_typed(outcome: Outcome) -> bool:
    """Whether a trial failed only as the documentation says: where a part of a result was handed
    out that would be another one, a checkpoint that cannot be read is a typed error, once."""
    typed = "DamagedCheckpointException" in outcome.error and AGAIN_FAILED not in outcome.error
    return outcome.trial.kind in INJECTED and typed


def sql_of(trial: Trial) -> str:
    """The shape's query with a condition that is always true and never the same: other
    fingerprints for each trial, the same rows."""
    salted = trials.sql_of(trial.shape).replace(_JOIN, f"{_JOIN} and o_orderkey > -{trial.seed}")
    assert str(trial.seed) in salted
    return salted


class ResumeBench:
    """A store, and one driver at a time."""

    def __init__(self, folder: Path, cluster: Cluster, disk: Path) -> None:
        self.folder = folder
        self.cluster = cluster
        self.disk = disk
        self.store = disk / "resume"
        self.control = folder / "control"
        # What has no disk of its own cannot be filled: there the store says that it is full.
        self.scheme = "file" if disk.is_mount() else "faulty"
        self.plain: dict[str, tuple[Path, float]] = {}
        # Of one trial, as <fingerprint>/<attempt>: what no run that begins now may restore, what
        # becomes so under a run that has restored it, what was restored, and what should not have.
        self.harmed: set[str] = set()
        self.spoilt: set[str] = set()
        self.restored: set[str] = set()
        self.partial: set[str] = set()
        self.computed: set[str] = set()
        self._count = 0
        self._more: dict[str, str] = {}
        self._served: Served | None = None

    def __enter__(self) -> ResumeBench:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    @property
    def served(self) -> Served:
        """The driver that runs now, started if there is none."""
        if self._served is None:
            conf = {
                **trials.CONF,
                "spark.phoebe.home": str(self.folder / "home"),
                "spark.phoebe.checkpoint.dir": f"{self.scheme}://{self.store}",
                "spark.hadoop.fs.faulty.impl": "phoebe.testing.FaultyFileSystem",
                "spark.hadoop.fs.faulty.control": str(self.control),
                **self._more,
            }
            self._count += 1
            made = Served(
                self.folder / f"driver{self._count}",
                tpc.data("tpch", 0.1),
                master=self.cluster.master,
                conf=conf,
                plugin="jars",
                packages_jars=[testing_jar()],
                with_event_log=False,
            )
            made.__enter__()
            self._served = made
        return self._served

    def _end(self) -> None:
        if self._served is not None:
            self._served.app.close()
            self._served = None

    def _kill(self) -> None:
        """SIGKILL to the driver, as when its machine is lost: the companion goes as well."""
        if self._served is not None:
            self._served.app.kill_driver()
            self._end()

    def expected(self, shape: str) -> Path:
        if shape not in self.plain:
            name = f"plain-{shape}"
            answer = self.served.run(name, trials.sql_of(shape), trials.PLAIN)
            assert answer.error is None, f"the plain run of {shape} failed: {answer.error}"
            self.plain[shape] = (self.served.output(name), answer.ended - answer.started)
        return self.plain[shape][0]

    def run(self, trial: Trial) -> Resumed:
        """One trial; afterwards the store is empty."""
        expected = self.expected(trial.shape)
        rng = random.Random(trial.seed)
        if trial.kind == PAUSED:
            return self._pause(trial, rng, expected)
        started = time.monotonic()
        did: list[str] = []
        missed: list[str] = []

        def attempt(step: Callable[[], str]) -> None:
            try:
                did.append(step())
            except MissedError as e:
                did.append("nothing")
                missed.append(str(e))

        attempt(lambda: self._first(trial, rng))
        at_s = time.monotonic() - started
        found = len(committed(self.store))
        self.harmed = set(incomplete(self.store))
        self.spoilt, self.restored, self.partial = set(), set(), set()
        self.computed = set()
        error = ""
        try:
            if trial.kind in ("restore_delete", "restore_truncate", "restore_flip"):
                attempt(lambda: self._damage(trial.kind.removeprefix("restore_"), rng))
            elif trial.kind == "restore_full":
                attempt(self._fill)
            again = trial.kind == "restore_again"
            number = self.served.ask(trial.name, sql_of(trial), self._conf(trial), again=again)
            if trial.kind in SECOND:
                attempt(lambda: self._second(trial, rng, number))
            if trial.kind in AGAIN:
                number = self._again(trial)
            answer = self._answer(number)
            error = answer.error or ""
            if trial.kind in INJECTED and "DamagedCheckpoint" in error:
                # It left word of it: the next submission computes.
                did.append(f"{len(list(self.store.glob('catalog/*.damaged')))} tombstones")
                answer = self._answer(self._again(trial))
                if answer.error is not None:
                    error = AGAIN_FAILED + answer.error
            self._note()
            wrong = ""
            if answer.error is None:
                wrong = compare_results(expected, self.served.output(trial.name)).message
        finally:
            (self.disk / "filler").unlink(missing_ok=True)
            self.control.unlink(missing_ok=True)
        if trial.kind == "restore_gone":
            self._end()  # it writes into no other store than the one that it opened
            # An upload under way may have made the directory anew; without a marker nobody uses it.
            shutil.rmtree(self.store, ignore_errors=True)
        else:
            clear(self.store)
        seconds = time.monotonic() - started
        outcome = Outcome(
            trial, seconds, "; ".join(did), at_s, found, wrong, error, "; ".join(missed)
        )
        return Resumed(outcome, frozenset(self.restored), len(self.partial), len(self.computed))

    def _pause(self, trial: Trial, rng: random.Random, expected: Path) -> Resumed:
        """As `run`. Beside its result, what counts is that the driver which was stopped adds
        nothing to the store, and takes nothing away."""
        started = time.monotonic()
        self.spoilt, self.restored, self.partial, self.harmed = set(), set(), set(), set()
        self._end()
        lease_ms = 3000
        # Two drivers share the cluster's two cores.
        self._more = {"spark.phoebe.lease_ms": str(lease_ms), "spark.cores.max": "1"}
        did, missed, wrong, error, kept = "nothing", "", "", "", set[Path]()
        paused, self._served = self.served, None
        try:
            asked = paused.ask(trial.name, sql_of(trial), self._conf(trial))
            wanted = rng.randrange(trials.ALL_SHAPES[trial.shape][2] + 1)
            try:
                await_moment(
                    paused,
                    asked,
                    lambda: (
                        any(self.store.glob("data/*/*/*.pack"))
                        and len(committed(self.store)) >= wanted
                    ),
                )
                time.sleep(rng.uniform(0.0, 0.1))
                still_runs(paused, asked)
            except MissedError as e:
                missed = str(e)
            os.kill(paused.app.pid, signal.SIGSTOP)
            stopped = time.monotonic()
            self.harmed = set(incomplete(self.store))
            try:
                # Whether the successor shuts it out or not, it is to find out.
                if rng.random() < 0.5:
                    del self._more["spark.phoebe.lease_ms"]
                found = self.served.run(trial.name, sql_of(trial), self._conf(trial))
                error = found.error or ""
                if found.error is None:
                    wrong = compare_results(expected, self.served.output(trial.name)).message
                self._note()
                time.sleep(max(0.0, stopped + 1.5 * lease_ms / 1000 - time.monotonic()))
                kept = set(self._of(paused, committed(self.store)))
            finally:
                os.kill(paused.app.pid, signal.SIGCONT)
            answer = paused.answer(asked, 180)
            if answer.error is not None:
                error = error or f"the paused driver's query failed: {answer.error}"
            else:
                wrong = wrong or compare_results(expected, paused.output(trial.name)).message
            paused.stop()  # well, so that it would remove what is its
            after = set(self._of(paused, committed(self.store)))
            if after != kept:
                error = error or f"a paused driver changed the store: {len(kept)} to {len(after)}"
            did = f"paused with {len(kept)} committed"
        finally:
            paused.app.close()
            self._end()
            self._more = {}
            clear(self.store)
        seconds = time.monotonic() - started
        outcome = Outcome(trial, seconds, did, seconds, len(kept), wrong, error, missed)
        return Resumed(outcome, frozenset(self.restored), len(self.partial))

    def _of(self, served: Served, manifests: list[Path]) -> list[Path]:
        """Those that a driver has committed."""
        app = _APP_ID.findall(served.log)[-1]
        found = []
        for manifest in manifests:
            with suppress(FileNotFoundError):
                if read_manifest(manifest)["app_id"] == app:
                    found.append(manifest)
        return found

    def _again(self, trial: Trial) -> int:
        """Kills the driver and submits the query again; what is half written or harmed by now is
        nothing to restore."""
        self._note()
        self._kill()
        self.harmed |= incomplete(self.store) | self.spoilt
        return self.served.ask(trial.name, sql_of(trial), self._conf(trial))

    def _note(self) -> None:
        """What the driver that runs now has restored."""
        found = self._restored()
        self.restored |= found
        self.computed |= set(_COMPUTED.findall(self.served.log))
        self.partial |= found & self.harmed

    def _conf(self, trial: Trial) -> dict[str, str]:
        force = trials.ALL_SHAPES[trial.shape][1]
        return {"spark.phoebe.mode": "apply", "spark.phoebe.force": force}

    def _answer(self, number: int) -> Answer:
        try:
            return self.served.answer(number, 180)
        except TimeoutError as e:
            self._kill()
            return Answer(f"hangs: {e}", 0.0, 0.0)

    def _first(self, trial: Trial, rng: random.Random) -> str:
        """Runs the query and kills its driver; says when. ``MissedError`` if the query was over."""
        number = self.served.ask(trial.name, sql_of(trial), self._conf(trial))
        try:
            delay = self._moment(trial, rng, number)
            time.sleep(delay)
            if trial.kind != "driver_between":
                still_runs(self.served, number)
        finally:
            self._kill()
        return f"{trial.kind if trial.kind in FIRST else 'driver_all'} + {delay:.2f} s"

    def _moment(self, trial: Trial, rng: random.Random, number: int) -> float:
        """Waits for the first driver's end, but for so many seconds."""
        match trial.kind:
            case "driver_map":
                return rng.uniform(0.05, 0.4) * self.plain[trial.shape][1]
            case "driver_copy":
                await_moment(self.served, number, lambda: any(self.store.glob("data/*/*/*.pack")))
                return rng.uniform(0.0, 0.05)
            case "driver_commit":
                names = ("data/*/*/manifest.tmp", "catalog/*.manifest")
                await_moment(
                    self.served, number, lambda: any(p for n in names for p in self.store.glob(n))
                )
            case "driver_free":
                await_moment(self.served, number, lambda: bool(committed(self.store)))
                return rng.uniform(0.0, 0.3)
            case "driver_between":
                self._answer(number)
            case _:
                wanted = trials.ALL_SHAPES[trial.shape][2]
                await_moment(self.served, number, lambda: len(committed(self.store)) >= wanted)
        return 0.0

    def _second(self, trial: Trial, rng: random.Random, number: int) -> str:
        """What happens while the query resumes; ``MissedError`` if nothing does."""
        if trial.kind in ("driver_restore", "restore_gc"):
            await_moment(self.served, number, lambda: any(self.store.glob("catalog/*.reader-*")))
        else:
            await_moment(self.served, number, lambda: bool(self._restored()))
            if trial.shape in trials.WRITTEN:  # a part of the result is out
                done = self.served.output(trial.name) / "_temporary/0"
                await_moment(self.served, number, lambda: any(done.glob("task_*")))
        delay = rng.uniform(0.0, 2.0 if trial.kind == "driver_resumed" else 0.4)
        time.sleep(delay)
        still_runs(self.served, number)
        worker = rng.randrange(len(self.cluster.workers))
        match trial.kind:
            case "restore_executor":
                killed = self.cluster.workers[worker].kill_executors()
                if not killed:
                    raise MissedError(f"worker {worker} had no executor")
                return f"{len(killed)} executors of worker {worker} killed after {delay:.2f} s"
            case "restore_worker":
                self.cluster.restart_worker(worker, down_s=rng.uniform(0, 2))
                return f"worker {worker} killed after {delay:.2f} s"
            case "restore_gc":
                gone = [c for c in collect(str(self.store), max_store_bytes=0) if c.remove]
                return f"{len(gone)} checkpoints collected"
            case "restore_late":
                late = min(self._restored())
                packs = list((self.store / "data" / late).glob("*.pack"))
                if not packs:
                    raise MissedError("what was restored has no packs")
                self.spoilt = {late}
                for pack in packs:
                    trials.harm(pack, rng.choice(("delete", "truncate", "flip")), rng)
                return f"{len(packs)} packs harmed after {delay:.2f} s"
            case "restore_gone":
                self.spoilt = self._restored()
                self.store.rename(self.store.with_name("gone"))
                shutil.rmtree(self.store.with_name("gone"))
                return f"the store is gone after {delay:.2f} s"
        return f"killed again after {delay:.2f} s"

    def _restored(self) -> set[str]:
        return set(_RESTORED.findall(self.served.log))

    def _damage(self, kind: str, rng: random.Random) -> str:
        """Harms one file of each of some checkpoints, at least of one."""
        manifests = committed(self.store)
        if not manifests:
            raise MissedError("nothing was committed")
        chosen = rng.sample(manifests, rng.randint(1, len(manifests)))
        for manifest in chosen:
            files = [*sorted(data_of(manifest).glob("*.pack")), manifest]
            trials.harm(rng.choice(files), kind, rng)
        self.harmed |= {f"{data_of(m).parent.name}/{data_of(m).name}" for m in chosen}
        return f"{len(chosen)} of {len(manifests)} checkpoints harmed"

    def _fill(self) -> str:
        if self.scheme == "faulty":
            self.control.write_text("write full\n")
            return "the store says that it is full"
        with suppress(OSError), (self.disk / "filler").open("wb", buffering=0) as out:
            while True:
                out.write(b"\0" * 4096)
        return "the store's disk is full"
