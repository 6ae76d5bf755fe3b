"""The loop: draws batches, runs them, judges each case, confirms and shrinks what is found."""

from __future__ import annotations

import dataclasses
import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.exactness import judge, sql
from tests.exactness.cases import Batch, Case
from tests.exactness.draw import batches
from tests.exactness.engine import BrokenWorkerError, Engine
from tests.exactness.judge import AGAINST, Finding
from tests.exactness.shrink import shrunk
from tests.exactness.worker import RUNS

Say = Callable[[str], None]
DEFECTS = ("wrong", "failed", "internal", "work")
_BATCHES_AT_ONCE = 10
_LOOKS_AT_A_RACE = 5
_TYPED_SHARE = 0.05


@dataclass(slots=True)
class Defect:
    """A finding that came again when its case ran alone (or only beside the others of its
    batch).
    """

    finding: Finding
    batch: Batch
    alone: bool = True

    def text(self) -> str:
        """The smallest form, as lines to read."""
        return f"{described(self.finding)}\n{explained(self.batch)}"


@dataclass(slots=True)
class Report:
    """What a fuzzing run saw.

    ``plain_errors``: pairs whose query fails without the plugin too. ``damaged``: in which a
    checkpoint could not be read when its query ran; ``typed`` of them failed as documented.
    ``left``: threads of the plugin that outlive their application, and what failed at its end.
    ``stopped``: by ``stop_when``. ``counts``: the plugin's counters, over all runs that write.
    """

    pairs: int = 0
    restored: int = 0
    plain_errors: int = 0
    damaged: int = 0
    typed: int = 0
    seconds: float = 0.0
    defects: list[Defect] = field(default_factory=list)
    unconfirmed: list[Defect] = field(default_factory=list)
    left: set[str] = field(default_factory=set)
    stopped: bool = False
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, batch: Report) -> None:
        """Adds what a batch showed; the seconds are those of the whole."""
        self.pairs += batch.pairs
        self.restored += batch.restored
        self.plain_errors += batch.plain_errors
        self.damaged += batch.damaged
        self.typed += batch.typed
        self.defects += batch.defects
        self.unconfirmed += batch.unconfirmed
        self.left |= batch.left
        self.stopped |= batch.stopped
        self.counts.update(batch.counts)

    def count(self, *kinds: str) -> int:
        return sum(d.finding.kind in kinds for d in self.defects)

    @property
    def has_too_many_typed(self) -> bool:
        """One is a coincidence; of many damages one in twenty may end so."""
        return self.typed > 1 and self.typed > _TYPED_SHARE * self.damaged

    @property
    def restored_share(self) -> float | None:
        return self.restored / self.pairs if self.pairs else None


def outcomes_of(found: dict[str, Any], n: int) -> dict[str, dict[str, Any]]:
    return {run: found[run][n] for run in RUNS if run in found}


def needed(finding: Finding) -> tuple[str, ...]:
    """The runs that show a finding."""
    runs = {"write", finding.run, AGAINST[finding.run]}
    return tuple(r for r in RUNS if r in runs)


def failing(engine: Engine, batch: Batch, finding: Finding) -> list[bool]:
    """Which cases of a batch show the finding."""
    found = engine.run(batch, needed(finding))
    return [
        any(f.same_as(finding) for f in judge.findings(case, outcomes_of(found, n), batch.is_held))
        for n, case in enumerate(batch.cases)
    ]


def confirmed(engine: Engine, batch: Batch, n: int, finding: Finding) -> Defect | None:
    """The finding in a batch of its case alone, or in the whole batch; None: not seen again.

    A failure that the plugin has counted needs no second look: which thread came first may decide
    whether it comes again. So it may where something happens while a query runs: once in a few
    looks is enough.
    """
    case = batch.cases[n]
    alone = dataclasses.replace(batch, cases=[case])
    if finding.kind == "internal":
        return Defect(finding, alone)
    if case.mishap.running or case.change.moment in ("running_write", "ran_write"):
        again = any(failing(engine, alone, finding)[0] for _ in range(_LOOKS_AT_A_RACE))
        return Defect(finding, alone) if again else None
    if failing(engine, alone, finding)[0] and failing(engine, alone, finding)[0]:
        return Defect(finding, alone)
    if failing(engine, batch, finding)[n]:
        return Defect(finding, batch, alone=False)
    return None


def fuzz(
    engines: Sequence[Engine],
    seed: int,
    pairs: int,
    seconds: float,
    say: Say,
    shrink_s: float = 120,
    most_defects: int = 20,
    kinds: Sequence[str] = DEFECTS,
    stop_when: Callable[[Defect], bool] | None = None,
) -> Report:
    """Runs ``pairs`` random cases, or as many as fit into the time; each engine takes the next
    batch when it is done with one.

    ``stop_when`` ends it at the first defect of which it says so. ``shrink_s`` is for each defect.
    """
    report = Report()
    lock = threading.Lock()
    drawn = _drawn(seed, pairs)
    began = time.monotonic()

    def work(engine: Engine) -> None:
        while True:
            with lock:
                done = report.stopped or time.monotonic() - began > seconds
                batch = None if done else next(drawn, None)
            if batch is None:
                return
            seen = _one(engine, batch, kinds, say)
            if stop_when is not None:
                for n, defect in enumerate(seen.defects, 1):
                    if stop_when(defect):
                        seen.stopped = True
                        del seen.defects[n:]
                        break
            else:
                for defect in seen.defects[: max(0, most_defects - len(report.defects))]:
                    if defect.alone and defect.finding.kind != "internal":
                        _shrink(engine, defect, shrink_s, say)
            with lock:
                if report.stopped:
                    return  # what stopped it stays the last defect
                report.add(seen)
                report.seconds = time.monotonic() - began
                for n, defect in enumerate(seen.defects, len(report.defects) - len(seen.defects)):
                    say(f"DEFECT {n + 1}: {defect.text()}")
                rate = 60 * report.pairs / max(report.seconds, 1e-9)
                say(
                    f"{report.pairs} pairs, {report.restored} restored, {report.plain_errors} fail"
                    f" plainly, {report.typed} of {report.damaged} damages typed,"
                    f" {len(report.defects)} defects, {rate:.0f} a minute"
                    f" (seconds of this batch: {seen.seconds:.0f})"
                )

    with ThreadPoolExecutor(len(engines)) as pool:
        for running in [pool.submit(work, engine) for engine in engines]:
            running.result()
    report.seconds = time.monotonic() - began
    return report


def _drawn(seed: int, pairs: int) -> Iterator[Batch]:
    """Batches of ``pairs`` cases in all."""
    for chunk in itertools.count():
        for batch in batches(seed + 1000 * chunk, _BATCHES_AT_ONCE):
            if pairs <= 0:
                return
            yield dataclasses.replace(batch, cases=batch.cases[:pairs])
            pairs -= len(batch.cases)


def _one(engine: Engine, batch: Batch, kinds: Sequence[str], say: Say) -> Report:
    """What one batch shows."""
    report = Report(pairs=len(batch.cases))
    began = time.monotonic()
    try:
        found = engine.run(batch)
    except BrokenWorkerError as error:
        say(f"the worker broke: {error}")
        report.defects.append(Defect(Finding("broken", "write", str(error)), batch, alone=False))
        return report
    finally:
        report.seconds = time.monotonic() - began
    say("start, cases, stop of each run: " + str(list(found["seconds"].values())))
    report.left.update(found["left"])
    for n, case in enumerate(batch.cases):
        outcomes = outcomes_of(found, n)
        report.restored += judge.restored(outcomes)
        report.plain_errors += "error" in outcomes["plain"]
        report.counts.update(outcomes["write"]["counts"])
        report.damaged += bool(
            outcomes.get("second", {}).get("counts", {}).get("checkpoints.damaged")
        )
        all_found = judge.findings(case, outcomes, batch.is_held)
        report.typed += any(f.kind == "typed" for f in all_found)
        mine = [f for f in all_found if f.kind in kinds]
        for finding in mine[:1]:
            try:
                defect = confirmed(engine, batch, n, finding)
            except BrokenWorkerError as error:
                defect = Defect(Finding("broken", finding.run, str(error)), batch, alone=False)
            if defect is not None:
                report.defects.append(defect)
            else:
                report.unconfirmed.append(Defect(finding, dataclasses.replace(batch, cases=[case])))
                say(f"not seen again: {report.unconfirmed[-1].text()}")
    return report


def _shrink(engine: Engine, defect: Defect, seconds: float, say: Say) -> None:
    say(f"found {described(defect.finding)[:300]}; making it smaller")
    try:
        defect.batch = shrunk(defect.batch, lambda b: failing(engine, b, defect.finding), seconds)
        found = engine.run(defect.batch, needed(defect.finding))
        again = judge.findings(defect.batch.cases[0], outcomes_of(found, 0), defect.batch.is_held)
        defect.finding = next((f for f in again if f.same_as(defect.finding)), defect.finding)
    except BrokenWorkerError as error:
        say(f"the worker broke while shrinking: {error}")


def described(finding: Finding) -> str:
    where = {
        "write": "in the application that writes",
        "restore": "in the same application again, which restores",
        "second": "in the second application, after the change",
    }[finding.run]
    what = {
        "wrong": "other rows than plain Spark",
        "failed": "a failure that plain Spark does not have",
        "typed": "a failure that the documentation names",
        "internal": "a failure of the plugin's own, which the query survived",
        "order": "the same rows in another order than plain Spark",
        "work": "more work than plain Spark",
        "broken": "a worker that hung or died",
    }[finding.kind]
    return f"{what}, {where}: {finding.message[:1200]}"


def explained(batch: Batch) -> str:
    """A batch as lines to read; `Batch.to_json` is the form to replay."""
    lines = [
        f"local[{batch.cores[0]}], then local[{batch.cores[1]}]"
        + (f"; {batch.conf}" if batch.conf else "")
    ]
    for case in batch.cases:
        lines += _case_lines(case)
    return "\n".join("  " + line for line in lines)


def _case_lines(case: Case) -> list[str]:
    lines = []
    for t in case.tables:
        lines.append(
            f"{t.name}: {t.format} by {t.made_by} ({t.schema or 'inferred'}) {t.options or ''}"
        )
        for n, f in enumerate(t.files):
            lines.append(
                f"  {f.part or 'file'} {n}: {f.rows} {('bad: ' + str(f.bad)) if f.bad else ''}"
            )
    runs = [("first", case.first), ("second", case.second)]
    for name, run in runs[:1] if case.first == case.second else runs:
        maker = f", relations made under {run.maker}" if run.maker else ""
        post = f" on {run.post}" if run.post else ""
        lines.append(f"{name}: {run.settings}{maker}, {run.action}{post}, force={run.force}")
        lines.append(f"  {sql.query(run.query)}")
    if case.change.kind != "none":
        lines.append(f"change: {dataclasses.asdict(case.change)}")
    if case.mishap.kind != "none":
        lines.append(f"store: {dataclasses.asdict(case.mishap)}")
    return lines


def store(defects: Sequence[Defect], folder: Path) -> list[Path]:
    """Writes each defect's batch to a file that `replay` takes."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("[0-9][0-9][0-9]-*"):
        old.unlink()
    paths = []
    for n, defect in enumerate(defects, 1):
        path = folder / f"{n:03d}-{defect.finding.kind}-{defect.finding.run}.json"
        path.write_text(defect.batch.to_json() + "\n")
        path.with_suffix(".txt").write_text(defect.text() + "\n")
        paths.append(path)
    return paths
