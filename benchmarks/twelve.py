"""What `temp_storage` and `restart` share: the twelve queries, their true values, a trained home.

``prepare`` runs the twelve at three smaller scale factors in mode `observe` and trains on those
alone. The bench's own scale factor runs into a home of its own, in mode `advise` without a model,
which changes nothing in a run and says which boundaries are eligible; it gives the true values for
the oracle, and no training sees it, or advice would be scored on what its model was shown. Kept
under ``build/bench/cache`` for one jar and one Python tree; remove the folder to measure again.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.frame import Options
from benchmarks.oracle import Best, Objective, OracleError, TrueStage, best
from tests.support import home as homes
from tests.support import queries, tpc
from tests.support.places import BUILD, ROOT, plugin_jar, spark_environment

SCALE_FACTOR = 3.0
HISTORY: tuple[float, ...] = (1 / 6, 1 / 2, 1 / 3)
"""Scale factors of the observed history, as fractions of the bench's; never the bench's own."""

_KEPT_CODE = {"spark.sql.codegen.cache.maxEntries": "5000"}
"""Generated code is compiled, and by and by optimised, once in an application. With the default of
100 classes each query would begin anew, and the first of its variants in a row would pay."""

BUDGET_FRACTION = 0.2
MAX_CUTS = 3


@dataclass(frozen=True, slots=True)
class Query:
    """One of the twelve: its true stages, and each shuffle stage's fingerprint."""

    name: str
    seconds: float
    stages: tuple[TrueStage, ...]
    fingerprints: dict[int, str]

    @property
    def shuffle_bytes(self) -> float:
        return sum(s.output_bytes for s in self.stages)

    def oracle(
        self, objective: Objective, budget: float = BUDGET_FRACTION, last: float = 1.0
    ) -> Best:
        """The best cuts within ``budget``, a share of the query's shuffle bytes; ``last`` as of
        :func:`benchmarks.oracle.value`. Raises ``OracleError`` without a proof."""
        return best(self.stages, objective, budget * self.shuffle_bytes, MAX_CUTS, last=last)

    def upstream(self, fingerprint: str) -> int:
        """How many stages ran before the boundary of ``fingerprint``, for it; 0 if unknown."""
        parents = {s.stage_id: s.parents for s in self.stages}
        most = 0
        for stage_id in (u for u, f in self.fingerprints.items() if f == fingerprint):
            found: set[int] = set()
            ahead = list(parents.get(stage_id, ()))
            while ahead:
                parent = ahead.pop()
                if parent not in found:
                    found.add(parent)
                    ahead += parents.get(parent, ())
            most = max(most, len(found))
        return most

    def force(self, answer: Best) -> str:
        """The value of ``spark.phoebe.force`` that checkpoints the oracle's stages."""
        return ",".join(sorted(self.fingerprints[u] for u in answer.checkpointed)) or "none"


@dataclass(frozen=True, slots=True)
class Judged:
    """The oracle's answers by query, and the queries that have none: with the reason of each."""

    answers: dict[str, Best]
    skipped: list[str]

    def queries(self, listed: Iterable[Query]) -> tuple[Query, ...]:
        """Those of ``listed`` that the oracle answered with a proof; sums are over these."""
        return tuple(q for q in listed if q.name in self.answers)


def judge(
    listed: Iterable[Query],
    objective: Objective,
    budget: float = BUDGET_FRACTION,
    last: float = 1.0,
) -> Judged:
    """Asks the oracle for each query; a query without a proven answer leaves all sums."""
    judged = Judged({}, [])
    for query in listed:
        try:
            judged.answers[query.name] = query.oracle(objective, budget, last)
        except OracleError as e:
            judged.skipped.append(f"{query.name}: not in any figure, the oracle has no proof: {e}")
    return judged


@dataclass(frozen=True, slots=True)
class Prepared:
    """A home with history and a promoted bundle, and the true values of the twelve."""

    home: Path
    scale_factor: float
    queries: tuple[Query, ...]


def items(scale_factor: float, names: Iterable[str] = tpc.THE_TWELVE) -> list[queries.Item]:
    """The twelve as items that write their results."""
    return [queries.Item(n, data_of(n, scale_factor)) for n in names]


def data_of(name: str, scale_factor: float) -> Path:
    """The data that a query reads."""
    return tpc.data("tpch" if name.startswith("tpch/") else "tpcds", scale_factor)


def conf(home: Path, mode: str, **more: str) -> dict[str, str]:
    """The benches' fixed settings with the plugin's; ``more`` without ``spark.phoebe.``, and with
    ``__`` for dots."""
    settings = {
        **queries.SHUFFLE_CONF,
        **_KEPT_CODE,
        "spark.phoebe.home": str(home),
        "spark.phoebe.mode": mode,
    }
    settings["spark.phoebe.min_duration_ms"] = "2000"
    settings.update({f"spark.phoebe.{k.replace('__', '.')}": v for k, v in more.items()})
    return settings


def prepare(options: Options) -> Prepared:
    """History, true values and a trained model; from the cache where it is current."""
    scale_factor = options.scale_factor or SCALE_FACTOR
    folder = BUILD / "bench" / "cache" / f"twelve-sf{scale_factor:g}-{_version()}"
    if not (folder / "done").exists():
        shutil.rmtree(folder, ignore_errors=True)
        for number, share in enumerate(HISTORY):
            options.say(f"history, scale factor {share * scale_factor:g}")
            observed = conf(folder / "home", "observe")
            _run(folder / f"history{number}", folder / "home", share * scale_factor, observed)
        options.say(f"true values, scale factor {scale_factor:g}")
        # Nothing is too short to be looked at: a boundary that gets no look has no fingerprint.
        truth = conf(folder / "truth-home", "advise", min_duration_ms="0")
        # Warm, as are the runs of temp_storage; those of restart are applications of their own.
        app_id = _run(folder / "truth", folder / "truth-home", scale_factor, truth, warm=True)
        options.say("training")
        train(folder / "home", folder / "train.log")
        (folder / "done").write_text(app_id)
    app_id = (folder / "done").read_text()
    found = tuple(true_query(folder / "truth-home", app_id, name) for name in tpc.THE_TWELVE)
    return Prepared(folder / "home", scale_factor, found)


def train(home: Path, log: Path) -> None:
    """Trains and promotes from the home's tables; raises ``CalledProcessError``."""
    with log.open("wb") as out:
        subprocess.run(
            [sys.executable, "-m", "phoebe_training", "--home", str(home)],
            check=True,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=spark_environment(),
            cwd=ROOT,
        )


def true_query(home: Path, app_id: str, name: str) -> Query:
    """The measured stages of ``name``'s one execution in an application."""
    executions = [r for r in homes.records(home, "executions", app_id) if r["description"] == name]
    if len(executions) != 1 or executions[0]["status"] != "succeeded":
        raise LookupError(f"{app_id}: {len(executions)} executions of {name} that succeeded")
    execution = executions[0]
    own = execution["execution_id"]
    prints = {
        int(b["stage_id"]): str(b["fingerprint"])
        for b in homes.boundaries(home, app_id, name)
        if b["stage_id"] == b["stage_id"] and b["stage_id"] is not None and b["fingerprint"]
    }
    rows = [
        r
        for r in homes.records(home, "stages", app_id)
        if r["execution_id"] == own and r["status"] == "succeeded"
    ]
    stages = tuple(_true_stage(r, prints) for r in sorted(rows, key=lambda r: r["stage_id"]))
    return Query(name, execution["duration_ms"] / 1000, stages, prints)


def _true_stage(row: dict[Any, Any], prints: dict[int, str]) -> TrueStage:
    stage_id = int(row["stage_id"])
    return TrueStage(
        stage_id=stage_id,
        parents=tuple(int(p) for p in row["parents"]) if row["parents"] is not None else (),
        output_bytes=float(row["shuffle_write_bytes"]),
        start_s=row["start_ms"] / 1000,
        end_s=row["end_ms"] / 1000,
        ttl_s=row["ttl_ms"] / 1000,
        eligible=stage_id in prints,
        carries="shuffle" if row["shuffle_write_bytes"] else "other",
    )


def warm_items(scale_factor: float, conf: Mapping[str, str]) -> list[queries.Item]:
    """The twelve on less data, under names of their own: for what is slow only the first time."""
    small = scale_factor * HISTORY[1]
    return [queries.Item(f"{n} warm", data_of(n, small), text=n, conf=conf) for n in tpc.THE_TWELVE]


def _run(
    folder: Path, home: Path, scale_factor: float, settings: dict[str, str], *, warm: bool = False
) -> str:
    with queries.submit_queries(
        [*(warm_items(scale_factor, {}) if warm else []), *items(scale_factor)],
        folder=folder,
        app_name="the-twelve",
        conf=settings,
        plugin="jars",
        driver_memory="4g",
        settle_s=0.3,
    ) as app:
        started_at = time.time()
        app.wait(timeout_s=1500).check()
        app.close(grace_s=15)
    return homes.app_started_after(home, started_at)


def _version() -> str:
    digest = hashlib.sha256(plugin_jar().read_bytes())
    digest.update(Path(__file__).read_bytes())
    for folder in ("phoebe_spark", "training/phoebe_training"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            digest.update(file.read_bytes())
    return digest.hexdigest()[:12]
