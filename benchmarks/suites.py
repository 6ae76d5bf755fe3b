"""Spark's own test suites without the plugin, writing, and restoring.

Each suite runs three times: without the plugin, with every exchange that may be checkpointed
written to an empty store, and again over the store that this left. A test that passes without the
plugin has to pass with it. ``tests/suites/expected.toml`` names those that fail only because they
count or match plan nodes; any other difference is a fault. ``--choice``: ``default`` (a quarter of
an hour), ``all`` (hours: every suite of Spark SQL's, with Spark's clean-up of shuffles both ways),
or names of suites with commas between them.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.frame import Options, Result, fresh
from tests.suites import classes
from tests.suites.choice import choose
from tests.suites.jvm import Chosen, Ran, Run
from tests.suites.jvm import run as run_jvm
from tests.suites.outcomes import Difference, Outcome, Outcomes, differences, judge, read_expected
from tests.support.places import ROOT

TOGETHER = 6  # suites in one JVM
LIMIT_S = 40 * 60.0  # for these
ALONE_S = 15 * 60.0  # for one that did not end among others

# Whether Spark removes a query's shuffle files at its end, while writing and while restoring. By
# default one of each; a checkpoint that outlives its files is read most when it was not so before.
ROUNDS = {"default": ((False, True),), "all": ((False, True), (True, False))}


@dataclass(slots=True)
class Found:
    """What all runs came to so far."""

    plain: dict[str, Outcomes] = field(default_factory=dict)
    differences: list[Difference] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    threads_left: set[str] = field(default_factory=set)
    unfinished: set[str] = field(default_factory=set)
    missing: list[str] = field(default_factory=list)


def run(options: Options) -> Result:
    chosen = choose(options.choice, classes.suites())
    rounds = ROUNDS["all" if options.choice == "all" else "default"]
    found = Found()
    for number, group in enumerate(_groups(chosen)):
        folder = options.work / f"{number}"
        names = ", ".join(suite.name.rsplit(".", 1)[1] for suite in group)
        options.say(f"{number * TOGETHER} of {len(chosen)} suites done; now {names}")
        plain = _plain(group, folder / "plain")
        found.plain |= plain
        found.missing += [suite.name for suite in group if suite.name not in plain]
        group = tuple(suite for suite in group if suite.name in plain)
        if not group:
            continue
        for written_cleanup, restored_cleanup in rounds:
            store = fresh(folder / "store")
            for label, cleanup in (("written", written_cleanup), ("restored", restored_cleanup)):
                where = folder / f"{label}-{'cleaned' if cleanup else 'kept'}"
                ran = run_jvm(Run(label, group, where, store, cleanup, LIMIT_S))
                note(found, options, plain, ran, where.name)
            fresh(store)
    return result(found)


def _groups(chosen: Sequence[Chosen]) -> Iterator[tuple[Chosen, ...]]:
    for start in range(0, len(chosen), TOGETHER):
        yield tuple(chosen[start : start + TOGETHER])


def _plain(group: tuple[Chosen, ...], folder: Path) -> dict[str, Outcomes]:
    """What the suites say without the plugin: run once for a Spark version, and kept."""
    _keep(tuple(suite for suite in group if not _kept(suite).exists()), folder, LIMIT_S)
    for suite in group:
        if not _kept(suite).exists():  # one that hangs takes those after it along
            _keep((suite,), folder, ALONE_S)
    return {
        suite.name: {t: Outcome(**row) for t, row in json.loads(_kept(suite).read_text()).items()}
        for suite in group
        if _kept(suite).exists()
    }


def _keep(suites: tuple[Chosen, ...], folder: Path, limit_s: float) -> None:
    if not suites:
        return
    ran = run_jvm(Run("plain", suites, folder, folder / "store", True, limit_s))
    for suite in suites:
        if suite.name in ran.outcomes:
            rows = {test: asdict(outcome) for test, outcome in ran.outcomes[suite.name].items()}
            _kept(suite).parent.mkdir(parents=True, exist_ok=True)
            _kept(suite).write_text(json.dumps(rows))


def _kept(suite: Chosen) -> Path:
    """Depends on all that a run without the plugin does."""
    ours = ROOT / "listeners/src/test/scala/org/apache/spark/sql/execution/phoebe"
    parts = [*suite.tests, classes.tests_jar().name, (ours / "SuitesPlugin.scala").read_text()]
    parts.append((ROOT / "tests/suites/jvm.py").read_text())
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
    return classes.PLACE / "plain" / f"{suite.name}-{digest}.json"


def note(found: Found, options: Options, plain: dict[str, Outcomes], ran: Ran, label: str) -> None:
    """Adds one run of the suites in ``plain``."""
    differ = [
        d
        for suite, outcomes in plain.items()
        for d in differences(suite, label, outcomes, ran.outcomes.get(suite))
    ]
    found.differences += differ
    found.counts.update(ran.counts)
    found.threads_left.update(ran.threads_left)
    found.unfinished.update(suite for suite in plain if suite not in ran.outcomes)
    committed, restored = (ran.counts.get(f"checkpoints.{c}", 0) for c in ("committed", "restored"))
    options.say(
        f"{label}: {len(differ)} tests differ, {committed} checkpoints committed, {restored} "
        f"restored, {ran.seconds:.0f} s{'' if ran.ended else ', killed at its limit'}"
    )


def result(found: Found) -> Result:
    """The figures, what was found set against the committed list."""
    ran = [suite for suite in found.plain if suite not in found.unfinished]
    judgement = judge(found.differences, read_expected(), ran)
    outcomes = [o for of_suite in found.plain.values() for o in of_suite.values()]
    figures: dict[str, Any] = {
        "suites": len(found.plain),
        "tests": sum(o.passed for o in outcomes),
        "newly_failed": len({(d.suite, d.test) for d in judgement.new}),
        "expected": len({(d.suite, d.test) for d in judgement.expected}),
        "committed": found.counts["checkpoints.committed"],
        "restored": found.counts["checkpoints.restored"],
        "abandoned": found.counts["checkpoints.abandoned"],
        "left_alone": _counted(found, "left_alone."),
        "failed_inside": _counted(found, "failed."),
        "threads_left": sorted(found.threads_left),
        "new": [
            {"suite": d.suite, "test": d.test, "run": d.run, "why": d.why[:400]}
            for d in judgement.new
        ],
    }
    broken = (
        judgement.new
        or found.missing
        or not found.plain
        or figures["failed_inside"]
        or figures["threads_left"]
    )
    return Result(
        figures,
        repeats=1,
        skipped=[
            f"{sum(o.status == 'failed' for o in outcomes)} tests fail without the plugin too",
            *(f"did not end without the plugin: {suite}" for suite in found.missing),
            *(f"expected to differ, and did not: {s}: {t}" for s, t in judgement.stale),
        ],
        broken=bool(broken),
    )


def _counted(found: Found, prefix: str) -> dict[str, int]:
    return {k.removeprefix(prefix): n for k, n in found.counts.items() if k.startswith(prefix)}
