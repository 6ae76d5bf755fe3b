"""Seeded faults of resuming: a driver is SIGKILLed, the same query is submitted again, and
something happens to that run too.

A trial takes two or three drivers: the one that is killed, the one that resumes (and may be killed
in its turn), and where that was to fail or was killed, one more. The last one goes on as the first
one of the next trial, so a trial costs about one start of Spark. The result is compared with the
plain run's; what was restored is what the driver's log says.
"""

from __future__ import annotations

import random
import re
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from phoebe_spark.checkpoints import look
from tests.support import tpc, trials
from tests.support.cluster import Cluster
from tests.support.compare import compare_results
from tests.support.served import Answer, Served
from tests.support.store import committed, data_of
from tests.support.trials import SHAPES, Outcome, Trial

FIRST = ("driver_map", "driver_copy", "driver_commit", "driver_free", "driver_between")
"""When the first driver is killed; in all others it is when everything is committed."""
AGAIN = ("driver_restore", "driver_resumed")
"""When the resuming driver is killed too."""
HARM = ("restore_delete", "restore_truncate", "restore_flip", "restore_late", "restore_full")
KINDS: tuple[str, ...] = (
    *FIRST,
    *AGAIN,
    "restore_executor",
    "restore_worker",
    "restore_gc",
    *HARM,
)
WORK = 1500
_RESTORED = re.compile(r"phoebe: restores \d+ bytes that .*?/data/([0-9a-f]+/[0-9a-f]{32})\b")
_JOIN = "on o_orderkey = l_orderkey"


@dataclass(frozen=True, slots=True)
class Resumed:
    """An outcome, and what was restored (``<fingerprint>/<attempt>``) by the runs that were judged;
    ``partial`` of these had been harmed before."""

    outcome: Outcome
    restored: frozenset[str]
    partial: int


def sql_of(trial: Trial) -> str:
    """The shape's query with a condition that is always true and never the same: other
    fingerprints for each trial, the same rows."""
    salted = trials.sql_of(trial.shape, WORK).replace(
        _JOIN, f"{_JOIN} and o_orderkey > -{trial.seed}"
    )
    assert str(trial.seed) in salted
    return salted


class ResumeBench:
    """A store, and one driver at a time."""

    def __init__(self, folder: Path, cluster: Cluster, disk: Path) -> None:
        self.folder = folder
        self.cluster = cluster
        self.disk = disk
        self.store = disk / "resume"
        self.plain: dict[str, tuple[Path, float]] = {}
        self._count = 0
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
                "spark.phoebe.checkpoint.dir": str(self.store),
            }
            self._count += 1
            made = Served(
                self.folder / f"driver{self._count}",
                tpc.data("tpch", 0.1),
                master=self.cluster.master,
                conf=conf,
                plugin="jars",
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
            answer = self.served.run(name, trials.sql_of(shape, WORK), trials.PLAIN)
            assert answer.error is None, f"the plain run of {shape} failed: {answer.error}"
            self.plain[shape] = (self.served.output(name), answer.ended - answer.started)
        return self.plain[shape][0]

    def run(self, trial: Trial) -> Resumed:
        """One trial; afterwards the store is empty."""
        expected = self.expected(trial.shape)
        rng = random.Random(trial.seed)
        started = time.monotonic()
        did = [self._first(trial, rng)]
        at_s = time.monotonic() - started
        found = len(committed(self.store))
        harmed: frozenset[str] = frozenset()
        filler = self.disk / "filler"
        errors = []
        restored: set[str] = set()
        try:
            if trial.kind in ("restore_delete", "restore_truncate", "restore_flip"):
                harmed = self._damage(trial.kind.removeprefix("restore_"), rng)
                did.append(f"{len(harmed)} of {found} checkpoints harmed")
            elif trial.kind == "restore_full":
                did.append(self._fill(filler))
            number = self.served.ask(trial.name, sql_of(trial), self._conf(trial))
            word = self._second(trial, rng, number)
            if word is not None:
                did.append(word)
            if trial.kind in AGAIN:
                self._kill()
                number = self.served.ask(trial.name, sql_of(trial), self._conf(trial))
            answer = self._answer(number)
            restored |= self._restored()
            if answer.error is not None:
                errors.append(answer.error)
            if trial.kind == "restore_late" and "DamagedCheckpoint" in (answer.error or ""):
                # It left word of it: the next submission computes.
                did.append(f"{len(list(self.store.glob('catalog/*.damaged')))} tombstones")
                self._kill()
                answer = self._answer(self.served.ask(trial.name, sql_of(trial), self._conf(trial)))
                if answer.error is not None:
                    errors = [answer.error]
            wrong = ""
            if answer.error is None:
                wrong = compare_results(expected, self.served.output(trial.name)).message
        finally:
            filler.unlink(missing_ok=True)
        self._clear()
        seconds = time.monotonic() - started
        words = "; ".join(did)
        outcome = Outcome(trial, seconds, words, at_s, found, wrong, "".join(errors))
        return Resumed(outcome, frozenset(restored), len(restored & harmed))

    def _conf(self, trial: Trial) -> dict[str, str]:
        return {"spark.phoebe.mode": "apply", "spark.phoebe.force": SHAPES[trial.shape][1]}

    def _answer(self, number: int) -> Answer:
        try:
            return self.served.answer(number, 180)
        except TimeoutError as e:
            self._kill()
            return Answer(f"hangs: {e}", 0.0, 0.0)

    def _first(self, trial: Trial, rng: random.Random) -> str:
        """Runs the query and kills its driver; says when."""
        number = self.served.ask(trial.name, sql_of(trial), self._conf(trial))
        moment = trial.kind if trial.kind in FIRST else "driver_all"
        delay = 0.0
        match moment:
            case "driver_map":
                delay = rng.uniform(0.05, 0.4) * self.plain[trial.shape][1]
            case "driver_copy":
                self._await(number, lambda: any(self.store.glob("data/*/*/*.pack")))
                delay = rng.uniform(0.0, 0.05)
            case "driver_commit":
                names = ("data/*/*/manifest.tmp", "catalog/*.manifest")
                self._await(number, lambda: any(p for n in names for p in self.store.glob(n)))
            case "driver_free":
                self._await(number, lambda: bool(committed(self.store)))
                delay = rng.uniform(0.0, 0.3)
            case "driver_between":
                self._answer(number)
            case _:
                wanted = SHAPES[trial.shape][2]
                self._await(number, lambda: len(committed(self.store)) >= wanted)
        time.sleep(delay)
        self._kill()
        return f"{moment} + {delay:.2f} s"

    def _second(self, trial: Trial, rng: random.Random, number: int) -> str | None:
        """What happens while the query resumes."""
        match trial.kind:
            case "driver_restore" | "restore_gc":
                self._await(number, lambda: any(self.store.glob("catalog/*.reader-*")))
            case "driver_resumed" | "restore_executor" | "restore_worker" | "restore_late":
                self._await(number, lambda: bool(self._restored()))
            case _:
                return None
        if self.served.answered(number) is not None:
            return "it was over before"
        delay = rng.uniform(0.0, 2.0 if trial.kind == "driver_resumed" else 0.4)
        time.sleep(delay)
        worker = rng.randrange(len(self.cluster.workers))
        match trial.kind:
            case "restore_executor":
                killed = self.cluster.workers[worker].kill_executors()
                return f"{len(killed)} executors of worker {worker} killed after {delay:.2f} s"
            case "restore_worker":
                self.cluster.restart_worker(worker, down_s=rng.uniform(0, 2))
                return f"worker {worker} killed after {delay:.2f} s"
            case "restore_gc":
                gone = [c for c in look("gc", str(self.store), [None, 0]) if c.remove]
                return f"{len(gone)} checkpoints collected"
            case "restore_late":
                packs = list((self.store / "data" / min(self._restored())).glob("*.pack"))
                for pack in packs:
                    trials.harm(pack, rng.choice(("delete", "truncate", "flip")), rng)
                return f"{len(packs)} packs harmed after {delay:.2f} s"
        return f"killed again after {delay:.2f} s"

    def _restored(self) -> set[str]:
        return set(_RESTORED.findall(self.served.log))

    def _damage(self, kind: str, rng: random.Random) -> frozenset[str]:
        """Harms one file of each of some checkpoints, at least of one."""
        manifests = committed(self.store)
        chosen = rng.sample(manifests, rng.randint(1, len(manifests))) if manifests else []
        for manifest in chosen:
            files = [*sorted(data_of(manifest).glob("*.pack")), manifest]
            trials.harm(rng.choice(files), kind, rng)
        return frozenset(f"{data_of(m).parent.name}/{data_of(m).name}" for m in chosen)

    def _fill(self, filler: Path) -> str:
        if not self.disk.is_mount():
            return "no disk of its own to fill"
        with suppress(OSError), filler.open("wb", buffering=0) as out:
            while True:
                out.write(b"\0" * 4096)
        return "the store's disk is full"

    def _await(self, number: int, condition: Callable[[], bool]) -> None:
        """Waits for a moment of the query, or for the query's end if it never comes."""
        while self.served.answered(number) is None and self.served.app.running:
            with suppress(OSError):
                if condition():
                    return
            time.sleep(0.005)

    def _clear(self) -> None:
        """Empties the store; what the running driver says of itself stays."""
        shutil.rmtree(self.store / "data", ignore_errors=True)
        for file in (self.store / "catalog").glob("*"):
            if file.suffix != ".lease":
                file.unlink(missing_ok=True)
