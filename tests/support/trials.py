"""Seeded faults, for real, under one long-lived application: what is killed or harmed, and when.

A trial runs one query with checkpoints forced, does its harm at a moment that the query itself
shows (a pack or a manifest appears in the store, so many seconds have passed), and compares the
result with the plain run's of the same query.
"""

from __future__ import annotations

import errno
import random
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.support import queries, reruns, tpc
from tests.support.cluster import Cluster
from tests.support.compare import compare_results
from tests.support.places import testing_jar
from tests.support.served import Answer, Served
from tests.support.store import clear, committed, data_of

WORK = 900
"""Microseconds for each of ten thousand rows: some seconds for the readers of a shape's last
boundary."""
WAITING = "cast(reflect('phoebe.testing.SlowRows', 'pause', {work}) as bigint) + total % 7"
"""They are waited, and others can have the processors. Above it nothing is checkpointed."""
_BUSY = "aggregate(sequence(1, {work}), total * 0, (a, i) -> a + (i % 7))"
"""Steps of work: what is above may be checkpointed."""
SHAPES: Mapping[str, tuple[str, str, int]] = {
    "one": (
        """
        select o_custkey % 8 as bucket, count(*) as n, sum(total) as total, sum(slow) as slow
        from (
          select *, {slow} as slow
          from (
            select /*+ REPARTITION(8, o_custkey) */ o_custkey, total
            from (
              select o_custkey, cast(sum(l_quantity) as bigint) as total
              from orders join lineitem on o_orderkey = l_orderkey group by o_custkey
            )
          )
        )
        group by o_custkey % 8
        """,
        "e1",
        1,
    ),
    "joined": (
        """
        select c_nationkey % 8 as bucket, count(*) as n, sum(total) as total, sum(slow) as slow
        from (
          select *, {slow} as slow
          from (
            select o_custkey, cast(sum(l_quantity) as bigint) as total
            from orders join lineitem on o_orderkey = l_orderkey group by o_custkey
          ) join (
            select /*+ REPARTITION(8, c_custkey) */ c_custkey, c_nationkey from customer
          ) on o_custkey = c_custkey
        )
        group by c_nationkey % 8
        """,
        "all",
        4,
    ),
    "ranked": (
        """
        select o_custkey % 8 as bucket, sum(place * total) as places, sum(slow) as slow
        from (
          select *, {slow} as slow
          from (
            select *, row_number() over (partition by o_custkey order by total, o_orderkey) as place
            from (
              select o_custkey, o_orderkey, cast(sum(l_quantity) as bigint) as total
              from orders join lineitem on o_orderkey = l_orderkey group by o_custkey, o_orderkey
            )
          )
          where place = 1
        )
        group by o_custkey % 8
        """,
        "all",
        2,
    ),
}
"""Name to SQL, the boundaries that are forced, and how many of these are committed before the stage
of some seconds that each has at its end."""

_TOTALS = """
    select o_custkey, cast(sum(l_quantity) as bigint) as total
    from orders join lineitem on o_orderkey = l_orderkey group by o_custkey
"""
WRITTEN: Mapping[str, tuple[str, str, int]] = {
    "sorted": (
        f"""
        select o_custkey, total, {{slow}} as slow
        from (select o_custkey, total from ({_TOTALS}) order by total, o_custkey)
        """,
        "all",
        4,
    ),
    "spread": (
        f"""
        select o_custkey, total, {{slow}} as slow
        from (select /*+ REPARTITION(8) */ o_custkey, total from ({_TOTALS}))
        """,
        "all",
        4,
    ),
}
"""As ``SHAPES``; here the tasks that read the last boundary write the result, one after the other,
and computed again it would place rows in other partitions."""
ALL_SHAPES = {**SHAPES, **WRITTEN}

CONF: Mapping[str, str] = {
    **queries.SHUFFLE_CONF,
    "spark.sql.shuffle.partitions": "8",
    "spark.sql.autoBroadcastJoinThreshold": "-1",
    "spark.sql.adaptive.coalescePartitions.enabled": "false",
    "spark.executor.memory": "700m",
    "spark.network.timeout": "60s",
    "spark.phoebe.mode": "apply",
    "spark.phoebe.checkpoint.read_timeout_ms": "2000",
}
PLAIN: Mapping[str, str] = {"spark.phoebe.mode": "off", "spark.phoebe.force": "none"}

KILLS = (
    "executor_map",
    "executor_copy",
    "executor_commit",
    "executor_read",
    "worker",
)
MOVES = ("decommission",)
HARM = ("disk_full", "store_fails", "store_hangs", "delete", "truncate", "flip")
KINDS: tuple[str, ...] = (*KILLS, *HARM, *MOVES)
TROUBLED: frozenset[str] = frozenset({"executor_copy", "store_fails", "store_hangs"})
"""Kinds that need the store whose troubles a control file says; the others use plain files."""


def troubled_kinds(disk: Path) -> frozenset[str]:
    """As ``TROUBLED``; what has no disk of its own cannot be filled, the store says that it is."""
    return TROUBLED if disk.is_mount() else TROUBLED | {"disk_full"}


def decommissioning(fallback: Path) -> dict[str, str]:
    """Executors that are told to go move their shuffle files to others, or to ``fallback``."""
    return {
        "spark.decommission.enabled": "true",
        "spark.storage.decommission.enabled": "true",
        "spark.storage.decommission.shuffleBlocks.enabled": "true",
        "spark.storage.decommission.fallbackStorage.path": f"{fallback.as_uri()}/",
    }


class MissedError(Exception):
    """A trial's fault did not come to pass: there was nothing to harm, or the query was over."""


@dataclass(frozen=True, slots=True)
class Trial:
    name: str
    kind: str
    shape: str
    seed: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a trial ended; ``wrong``, ``error`` and ``missed`` are empty where all is well.

    ``did`` says what was done, ``at_s`` seconds after the query was asked for; ``committed`` is how
    many checkpoints there were then. ``missed`` says why the fault did not come to pass: such a
    trial shows nothing.
    """

    trial: Trial
    seconds: float
    did: str
    at_s: float
    committed: int
    wrong: str = ""
    error: str = ""
    missed: str = ""


def draw(
    count: int,
    seed: int,
    kinds: tuple[str, ...] = KINDS,
    shapes: tuple[str, ...] = tuple(SHAPES),
) -> list[Trial]:
    """``count`` trials, every kind about as often, shapes and moments at random."""
    rng = random.Random(seed)
    return [
        Trial(f"t{i}-{kind}", kind, rng.choice(shapes), rng.randrange(2**31))
        for i, kind in ((i, kinds[i % len(kinds)]) for i in range(count))
    ]


def await_moment(served: Served, asked: int, condition: Callable[[], bool]) -> None:
    """Waits for a moment of a query; ``MissedError`` if the query ends before it comes."""
    while not served.is_answered(asked) and served.app.running:
        with suppress(OSError):  # what is listed may be removed meanwhile
            if condition():
                return
        time.sleep(0.005)
    raise MissedError("the query ended before the moment came")


def still_runs(served: Served, asked: int) -> None:
    """``MissedError`` if a query was over."""
    if served.is_answered(asked):
        raise MissedError("the query was over")


class Bench:
    """One application on a cluster, for trials one after the other."""

    def __init__(
        self,
        folder: Path,
        cluster: Cluster,
        disk: Path,
        troubled: bool,
        *,
        plain: Mapping[str, tuple[Path, float]] | None = None,
    ) -> None:
        """``disk`` holds the store; ``troubled`` puts the file system with troubles before it.
        ``plain``: what another bench has found."""
        self.folder = folder
        self.cluster = cluster
        self.store = disk / "store"
        self.disk = disk
        self.control = folder / "control"
        self.troubled = troubled
        # Each shape's plain run: where its result is, and its seconds.
        self.plain: dict[str, tuple[Path, float]] = dict(plain or {})
        self._served: Served | None = None

    def start(self) -> Served:
        scheme = "faulty" if self.troubled else "file"
        conf = {
            **CONF,
            **decommissioning(self.folder / "fallback"),
            "spark.phoebe.home": str(self.folder / "home"),
            "spark.phoebe.checkpoint.dir": f"{scheme}://{self.store}",
            "spark.hadoop.fs.faulty.impl": "phoebe.testing.FaultyFileSystem",
            "spark.hadoop.fs.faulty.control": str(self.control),
        }
        self._served = Served(
            self.folder,
            tpc.data("tpch", 0.1),
            master=self.cluster.master,
            conf=conf,
            plugin="jars",
            packages_jars=[testing_jar()],
        )
        return self._served

    @property
    def served(self) -> Served:
        assert self._served is not None, "not started"
        return self._served

    def expected(self, shape: str) -> Path:
        """The plain run's result of a shape, made when it is first asked for."""
        if shape not in self.plain:
            name, sql = f"plain-{shape}", sql_of(shape)
            if not self.plain:  # the first query takes what a cold JVM takes, no other one does
                self.served.run("warm-up", sql, PLAIN)
            answer = self.served.run(name, sql, PLAIN)
            if answer.error:
                raise AssertionError(f"the plain run of {shape} failed: {answer.error}")
            self.plain[shape] = (self.served.output(name), answer.ended - answer.started)
        return self.plain[shape][0]

    def run(self, trial: Trial) -> Outcome:
        """One trial; afterwards the store is empty and every worker has an executor again."""
        expected = self.expected(trial.shape)
        self.cluster.wait_for_executors()
        rng = random.Random(trial.seed)
        settings = {"spark.phoebe.mode": "apply", "spark.phoebe.force": SHAPES[trial.shape][1]}
        did, missed = self._harm_before(trial, rng), ""
        asked = self.served.ask(trial.name, sql_of(trial.shape), settings)
        started = time.monotonic()
        filler = self.disk / "filler"
        try:
            try:
                did = did or self._harm(trial, rng, asked)
            except MissedError as e:
                did, missed = "nothing", str(e)
            at_s = time.monotonic() - started
            found = len(committed(self.store))
            try:
                answer = self.served.answer(asked, 180)
            except TimeoutError as e:
                seconds = time.monotonic() - started
                return Outcome(trial, seconds, did, at_s, found, error=str(e), missed=missed)
        finally:
            self.control.unlink(missing_ok=True)
            filler.unlink(missing_ok=True)
        return replace(self._judged(trial, answer, expected, did, at_s, found), missed=missed)

    def fails_without(self, outcome: Outcome) -> bool:
        """Whether the same kill at the same time fails the query without checkpoints too."""
        if outcome.trial.kind not in KILLS:
            return False
        self.cluster.wait_for_executors()
        name = f"again-{outcome.trial.name}"
        asked = self.served.ask(name, sql_of(outcome.trial.shape), PLAIN)
        time.sleep(outcome.at_s)
        if outcome.trial.kind == "worker":
            self.cluster.restart_worker(0, down_s=1)
        else:
            self.cluster.workers[0].kill_executors()
        return self.served.answer(asked).error is not None

    def _judged(
        self, trial: Trial, answer: Answer, expected: Path, did: str, at_s: float, found: int
    ) -> Outcome:
        wrong = ""
        if answer.error is None:
            wrong = compare_results(expected, self.served.output(trial.name)).message
            shutil.rmtree(self.served.output(trial.name), ignore_errors=True)
        clear(self.store)
        seconds = answer.ended - answer.started
        return Outcome(trial, seconds, did, at_s, found, wrong, answer.error or "")

    def _harm_before(self, trial: Trial, rng: random.Random) -> str:
        """What is done before the query begins, if that is all; the store's troubles begin here."""
        match trial.kind:
            case "executor_copy":
                self.control.write_text("write 1500\n")
            case "disk_full":
                if rng.random() < 0.5:
                    return self._fill(rng)
            case "store_fails" | "store_hangs":
                if rng.random() < 0.5:
                    line = f"{rng.choice(('*', 'write', 'list', 'status'))} {self._trouble(trial)}"
                    self.control.write_text(line + "\n")
                    return f"{line} from the beginning"
        return ""

    def _harm(self, trial: Trial, rng: random.Random, asked: int) -> str:
        """Waits for the moment, does the harm, says what was done; ``MissedError`` if nothing."""
        at = round(rng.uniform(0.0, 0.5), 2)
        match trial.kind:
            case "executor_map" | "worker":
                # A quarter of the plain run is enough for the first map stages to be under way.
                share = rng.uniform(0.05, 0.4 if trial.kind == "executor_map" else 0.9)
                time.sleep(share * self.plain[trial.shape][1])
                at = round(share, 2)
            case "executor_copy":
                await_moment(
                    self.served, asked, lambda: any((self.store / "data").glob("*/*/*.pack"))
                )
                time.sleep(at)
            case "decommission":
                # While it uploads, or while locations switch: it moves its files at the same time.
                packs = rng.random() < 0.5
                await_moment(
                    self.served,
                    asked,
                    lambda: bool(
                        any((self.store / "data").glob("*/*/*.pack"))
                        if packs
                        else committed(self.store)
                    ),
                )
                time.sleep(at)
            case "executor_commit":
                await_moment(self.served, asked, lambda: bool(committed(self.store)))
            case "executor_read":
                await_moment(self.served, asked, lambda: self._all_committed(trial))
                at = round(at + rng.uniform(0.2, 1.0), 2)
                time.sleep(at)
            case "store_fails" | "store_hangs":
                await_moment(self.served, asked, lambda: self._all_committed(trial))
                line = f"{rng.choice(('*', 'read'))} {self._trouble(trial)}"
                self.control.write_text(line + "\n")
                return f"{line} after commit"
            case "disk_full":
                time.sleep(at)
                still_runs(self.served, asked)
                return self._fill(rng)
            case _:
                await_moment(self.served, asked, lambda: self._all_committed(trial))
                time.sleep(at)
                still_runs(self.served, asked)
                return self._damage(trial.kind, rng)
        still_runs(self.served, asked)
        number = rng.randrange(len(self.cluster.workers))
        if trial.kind == "worker":
            self.cluster.restart_worker(number, down_s=rng.uniform(0, 2))
            return f"worker {number} at {at} of the plain run"
        if trial.kind == "decommission":
            # In half of the trials nobody is left to take the files but the fallback storage.
            told = [number] if rng.random() < 0.5 else range(len(self.cluster.workers))
            for each in told:
                self.cluster.workers[each].decommission_executors()
            return f"executors of {len(told)} workers, at {at}"
        killed = self.cluster.workers[number].kill_executors()
        if not killed:
            raise MissedError(f"worker {number} had no executor")
        return f"{len(killed)} executors of worker {number}, at {at}"

    def _all_committed(self, trial: Trial) -> bool:
        return len(committed(self.store)) >= SHAPES[trial.shape][2]

    def _trouble(self, trial: Trial) -> str:
        return "fail" if trial.kind == "store_fails" else "hang"

    def _fill(self, rng: random.Random) -> str:
        """Leaves a little room on the store's disk, or has a troubled store say that it is full."""
        room = rng.choice((0, 4, 64, 512)) << 10
        if self.troubled:
            self.control.write_text("write full\n")
            return "the store says that it is full"
        assert self.disk.is_mount(), "no disk of its own to fill: see troubled_kinds"
        try:
            with (self.disk / "filler").open("wb", buffering=0) as filler:
                # Others write there too: how much is free changes meanwhile.
                while (left := shutil.disk_usage(self.disk).free - room) > 0:
                    filler.write(bytes(min(left, 1 << 20)))
        except OSError as e:
            if e.errno != errno.ENOSPC:
                raise
        return f"{shutil.disk_usage(self.disk).free} bytes left on the store's disk"

    def _damage(self, kind: str, rng: random.Random) -> str:
        manifests = committed(self.store)
        if not manifests:
            raise MissedError("nothing was committed")
        manifest = rng.choice(manifests)
        files = [*sorted(data_of(manifest).glob("*.pack")), manifest]
        # In a third of the cases all packs: more than one failure for their readers.
        several = files[:-1] if rng.random() < 0.33 else [rng.choice(files)]
        for file in several:
            harm(file, kind, rng)
        return f"{kind} {len(several)} of {len(files)} files of one of {len(manifests)} checkpoints"


def harm(file: Path, kind: str, rng: random.Random) -> None:
    """Deletes a file, cuts off its end, or flips bits in up to eight of its bytes."""
    content = bytearray(file.read_bytes())
    match kind:
        case "delete":
            file.unlink()
            return
        case "truncate":
            content = content[: rng.randrange(len(content))]
        case "flip":
            for _ in range(rng.randint(1, 8)):
                content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        case _:
            raise ValueError(kind)
    # In place, as a bad disk would: open files see it too.
    with file.open("r+b") as out:
        out.write(content)
        out.truncate()


def sql_of(shape: str, work: int = WORK) -> str:
    return ALL_SHAPES[shape][0].format(slow=WAITING.format(work=work))


def busy_sql_of(shape: str, steps: int) -> str:
    """A query all of whose boundaries can be checkpointed; its last stage works for its time."""
    return ALL_SHAPES[shape][0].format(slow=_BUSY.format(work=steps))


def upstream_reruns(served: Served, outcomes: list[Outcome]) -> dict[str, reruns.Losses]:
    """What the event log says of the trials that killed something, by trial name."""
    log = next((served.folder / "events").iterdir())
    losses = reruns.read(log)
    names = {o.trial.name for o in outcomes if o.trial.kind in KILLS}
    return {name: found for name, found in losses.items() if name in names}


def as_row(outcome: Outcome) -> dict[str, Any]:
    """For a bench's list of trials."""
    trial = outcome.trial
    return {
        "name": trial.name,
        "shape": trial.shape,
        "did": outcome.did,
        "missed": outcome.missed,
        "committed": outcome.committed,
        "seconds": outcome.seconds,
        "wrong": outcome.wrong,
        "error": outcome.error,
    }
