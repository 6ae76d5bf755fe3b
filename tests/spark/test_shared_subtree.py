"""One subtree is restored for all its consumers or for none, whenever each of them is planned.

Three subtrees are in the store; two of them occur in a subquery and in the main plan. Subqueries
are planned first, as fragments of their own. Once the store's catalogue is held back until both
have been planned, and once the checkpoint of one of them is damaged.
"""

from __future__ import annotations

import json
import random
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support import apps, eventlog, home, places
from tests.support.store import committed, data_of, read_manifest

NAMES = ("small", "large", "single")
KEYS = {"small": 50, "large": 60, "single": 70}
"""Groups of each table, by which its checkpoint is known: a row for each, of one map task."""

APP = """
import contextlib, json, os, signal, sys, threading, time
from pathlib import Path
import phoebe_spark, psutil
from pyspark.sql import SparkSession

tables, sql, control, result = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), sys.argv[4]
spark = SparkSession.builder.getOrCreate()
for table in tables.iterdir():
    spark.read.parquet(str(table)).createOrReplaceTempView(table.name)
said, problems = {}, []

def until(what, holds, timeout_s=120):
    deadline = time.monotonic() + timeout_s
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError(what)
        time.sleep(0.01)

def companions():
    for process in psutil.Process(os.getppid()).children():
        with contextlib.suppress(psutil.ZombieProcess, psutil.NoSuchProcess):
            if "phoebe_spark.companion" in process.cmdline():
                yield process

def waits_for_advice(thread):
    frames = [f"{f.getClassName()}.{f.getMethodName()}" for f in list(thread.getStackTrace())[:25]]
    return any(frame.endswith(".Companion.ask") for frame in frames)

def lead(planning, companion):
    # The second subquery's fragment, which is expected to be long, waits for advice while the
    # companion does not move: the catalogue arrives meanwhile.
    try:
        until("a fragment waits for advice", lambda: waits_for_advice(planning))
        said["planned_before"] = phoebe_spark.status(spark)["planning"]["last"]["boundaries"]
        control.unlink()
        plugin = spark._jvm.phoebe.plugin
        runtime = plugin.PhoebeRuntime.active().get()
        until("the catalogue", lambda: runtime.slot().get().known().size() > 0)
        said["still_waits"] = waits_for_advice(planning)
    except Exception as error:
        problems.append(repr(error))
    finally:
        control.unlink(missing_ok=True)
        companion.send_signal(signal.SIGCONT)

leader = None
if control.exists():
    until("the companion", lambda: phoebe_spark.status(spark)["companion"] == "ready")
    (companion,) = companions()
    companion.send_signal(signal.SIGSTOP)
    planning = spark._jvm.java.lang.Thread.currentThread()
    leader = threading.Thread(target=lead, args=(planning, companion))
    leader.start()
spark.sparkContext.setJobDescription("shared")
said["rows"] = sorted(list(r) for r in spark.sql(sql).collect())
if leader:
    leader.join()
said["problems"] = problems
Path(result).write_text(json.dumps(said))
spark.stop()
"""

SHARED = """
select '{name}' as t, k, n from {name}_n where n > (select k from {name}_n where n = {n})
"""


@dataclass(frozen=True)
class Ran:
    said: dict[str, Any]
    log: eventlog.AppRun
    boundaries: list[dict[Any, Any]]
    checkpoints: list[dict[Any, Any]]

    def scanned(self) -> set[str]:
        """The tables that were read."""
        (execution,) = (e for e in self.log.executions.values() if e.description == "shared")
        scans = [n.description for n in execution.nodes_that_ran() if n.name.startswith("Scan")]
        return {name for name in NAMES if any(f"/tables/{name}]" in s for s in scans)}

    def decided(self, fingerprint: str | None) -> list[tuple[str, str]]:
        return [
            (b["decision"], b["reason_code"])
            for b in self.boundaries
            if b["fingerprint"] == fingerprint
        ]

    def restored(self) -> set[str]:
        return {c["fingerprint"] for c in self.checkpoints if c["event"] == "restored"}


class Job:
    """Tables, a query over them, and a store that its first run has filled."""

    def __init__(self, folder: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.folder = folder
        rng = random.Random(20210711)
        sums: dict[str, Counter[int]] = {}
        for name, keys in KEYS.items():
            # Some hundred KB make a query long, by spark.phoebe.min_duration_ms.
            count = 100_000 if name == "large" else 1000
            ks = [i % keys for i in range(count)]
            vs = [rng.randrange(10**6) for _ in ks]
            sums[name] = Counter()
            for k, v in zip(ks, vs, strict=True):
                sums[name][k] += v
            (folder / "tables" / name).mkdir(parents=True)
            table = pa.table({"k": ks, "v": vs, "more": [rng.random() for _ in ks]})
            pq.write_table(table, folder / "tables" / name / "0.parquet")
        named = ", ".join(
            f"{name}_n as (select k, sum(v) as n from {name} group by k)" for name in NAMES
        )
        parts = [SHARED.format(name=n, n=sums[n][KEYS[n] // 2]) for n in ("small", "large")]
        parts.append("select 'single', k, n from single_n")
        self.sql = f"with {named} {' union all '.join(parts)}"
        self.rows = sorted([name, k, n] for name in NAMES for k, n in sums[name].items())

    def run(self, name: str, store: Path, force: str = "none", held: bool = False) -> Ran:
        here = self.folder / name
        here.mkdir()
        (here / "app.py").write_text(APP)
        control = here / "control"
        if held:
            control.write_text("list hang\n")
        conf = {
            "spark.phoebe.home": str(here / "home"),
            "spark.phoebe.checkpoint.dir": f"faulty://{store}",
            "spark.phoebe.checkpoint.retain": "always",
            "spark.phoebe.mode": "apply",
            "spark.phoebe.force": force,
            "spark.phoebe.min_duration_ms": "1",
            # A fragment waits so long for the catalogue in vain, and the next one for advice.
            "spark.phoebe.advice.timeout_ms": "4000",
            "spark.hadoop.fs.faulty.impl": "phoebe.testing.FaultyFileSystem",
            "spark.hadoop.fs.faulty.control": str(control),
            "spark.sql.shuffle.partitions": "2",
            "spark.sql.maxMetadataStringLength": "1000",
        }
        result = here / "said.json"
        with apps.submit(
            here / "app.py",
            [str(self.folder / "tables"), self.sql, str(control), str(result)],
            folder=here / "app", conf=conf, plugin="jars", packages_jars=[places.testing_jar()],
        ) as app:  # fmt: skip
            finished = app.wait().check()
        log = eventlog.read(finished.event_log)
        tables = (home.records(here / "home", t, log.app_id) for t in ("boundaries", "checkpoints"))
        return Ran(json.loads(result.read_text()), log, *tables)


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    return Job(tmp_path_factory.mktemp("shared"))


@pytest.fixture(scope="module")
def store(job: Job) -> Path:
    """What the first run left: a checkpoint of each subtree."""
    place = job.folder / "store"
    wrote = job.run("writes", place, force="all")
    assert wrote.said["rows"] == job.rows
    return place


@pytest.fixture(scope="module")
def prints(store: Path) -> dict[str, str]:
    """The fingerprint of each subtree."""
    by_rows = {m["rows"]: str(m["fingerprint"]) for m in map(read_manifest, committed(store))}
    assert set(by_rows) == set(KEYS.values())
    return {name: by_rows[keys] for name, keys in KEYS.items()}


def test_what_a_subquery_computes_since_the_catalogue_came_late_the_main_plan_computes_too(
    job: Job, store: Path, prints: dict[str, str]
) -> None:
    ran = job.run("late", store, held=True)
    assert ran.said["problems"] == []
    assert ran.said["planned_before"] == 2  # both subqueries', not the main plan's
    assert ran.said["still_waits"]
    assert ran.said["rows"] == job.rows
    # It was there for the main plan, which restores what no earlier fragment has.
    assert ran.decided(prints["single"]) == [("restore", "restored")]
    assert ran.restored() == {prints["single"]}
    # Nothing was known of the first fragment's when it was planned, not even its fingerprint.
    assert ran.decided(None) == [("skip", "short_query")]
    assert ran.decided(prints["small"]) == [("skip", "short_query")]
    assert [decision for decision, _ in ran.decided(prints["large"])] == ["skip", "skip"]
    assert ran.scanned() == {"small", "large"}


def test_of_a_damaged_checkpoint_neither_consumer_is_given_anything_and_of_a_whole_one_both(
    job: Job, store: Path, prints: dict[str, str]
) -> None:
    other = job.folder / "damaged-store"
    shutil.copytree(store, other)
    (manifest,) = (m for m in committed(other) if m.name.startswith(prints["small"]))
    pack = next(data_of(manifest).glob("*.pack"))
    pack.write_bytes(pack.read_bytes()[:-1])
    ran = job.run("damaged", other)
    assert ran.said["rows"] == job.rows
    assert ran.decided(prints["small"]) == [("skip", "checkpoint_damaged")] * 2
    assert ran.decided(prints["large"]) == [("restore", "restored")] * 2
    assert ran.restored() == {prints["large"], prints["single"]}
    assert ran.scanned() == {"small"}
