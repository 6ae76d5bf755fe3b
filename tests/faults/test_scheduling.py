"""What Spark's scheduler does beside the happy path, with checkpoints: speculative tasks, stages
that are tried again, executors that are gone while the external shuffle service serves their files,
executors that dynamic allocation lets go, push-based shuffle."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from benchmarks.faults import HOSTS
from tests.support import apps, eventlog, home, places, trials
from tests.support.cluster import Cluster, standalone
from tests.support.compare import compare_results
from tests.support.served import Served
from tests.support.store import (
    attempts,
    clear,
    committed,
    data_of,
    incomplete,
    read_manifest,
    wait_for_commits,
)
from tests.support.tpc import data
from tests.support.waiting import until

FORCED = {"spark.phoebe.mode": "apply", "spark.phoebe.force": "e1"}
WORK = 600  # microseconds for each row
STEPS = 1200  # for each row, where a stage has to be busy
SQL = trials.sql_of("one", WORK)

# One key costs a second, all others next to nothing.
STRAGGLER = """
select k % 8 as bucket, count(*) as n, sum(slow) as slow
from (
  select /*+ REPARTITION(4, k) */ k, slow
  from (
    select k, aggregate(
      sequence(1, if(k = 0, 400, 1)), cast(total as bigint),
      (a, i) -> a + aggregate(sequence(1, 5000), i, (b, j) -> b + (j % 7))) as slow
    from (select o_custkey % 97 as k, sum(o_shippriority) as total from orders group by 1)
  )
)
group by k % 8
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scheduling")


@pytest.fixture(scope="module")
def cluster(folder: Path) -> Iterator[Cluster]:
    """Two machines, as far as Spark can tell."""
    with standalone(folder / "cluster", hosts=HOSTS) as found:
        yield found


def _served(folder: Path, cluster: Cluster, **conf: str) -> Served:
    settings = {
        **trials.CONF,
        "spark.executor.cores": "1",
        "spark.phoebe.home": str(folder / "home"),
        "spark.phoebe.checkpoint.retain": "always",
        "spark.phoebe.checkpoint.dir": f"faulty://{folder / 'store'}",
        "spark.hadoop.fs.faulty.impl": "phoebe.testing.FaultyFileSystem",
        "spark.hadoop.fs.faulty.control": str(folder / "control"),
        # What is freed is to be our doing.
        "spark.sql.classic.shuffleDependency.fileCleanup.enabled": "false",
    }
    settings |= {key.replace("__", "."): value for key, value in conf.items()}
    return Served(
        folder,
        data("tpch", 0.1),
        master=cluster.master,
        conf=settings,
        plugin="jars",
        packages_jars=[places.testing_jar()],
    )


def _two_executors(served: Served) -> None:
    """Registered, not only started: tasks can go to both."""
    until(lambda: served.log.count("Registered executor NettyRpcEndpointRef") >= 2, "two executors")


def _executors(cluster: Cluster) -> list[int]:
    return [pid for worker in cluster.workers for pid in worker.executor_pids()]


def _one_winner_each(manifest: Path) -> None:
    found = read_manifest(manifest)
    assert len(found["map_ids"]) == len(set(found["map_ids"])) == found["num_maps"]
    held = [map_id for pack in found["packs"] for map_id in pack["map_ids"]]
    assert set(found["map_ids"]) <= set(held)
    for pack in found["packs"]:
        assert (data_of(manifest) / pack["file"]).stat().st_size == pack["bytes"]


def _ran_in(folder: Path, map_ids: Collection[int]) -> set[tuple[int, int]]:
    """Stage and attempt that made these map outputs."""
    return {
        (event["Stage ID"], event["Stage Attempt ID"])
        for event in _task_ends(folder)
        if event["Task Info"]["Task ID"] in map_ids
    }


def _task_ends(folder: Path) -> Iterator[Mapping[str, Any]]:
    events = eventlog.events(apps.event_log(folder))
    return (event for event in events if event["Event"] == "SparkListenerTaskEnd")


def test_speculation(folder: Path, cluster: Cluster) -> None:
    here = folder / "speculation"
    with _served(
        here,
        cluster,
        spark__speculation="true",
        spark__speculation__interval="50ms",
        spark__speculation__multiplier="1.1",
        spark__speculation__quantile="0.2",
        spark__speculation__minTaskRuntime="50ms",
        spark__speculation__efficiency__enabled="false",
        # A copy may run where its input is not, at once.
        spark__locality__wait="0s",
    ) as served:
        assert served.run("plain", STRAGGLER, trials.PLAIN).error is None
        _two_executors(served)
        assert served.run("forced", STRAGGLER, FORCED).error is None
        manifest = wait_for_commits(here / "store", 1)[0]
        served.stop()
    assert not compare_results(served.output("plain"), served.output("forced"))
    _one_winner_each(manifest)
    # Of the tasks that wrote the checkpoint: those of the plain run say nothing.
    wrote = _ran_in(here, read_manifest(manifest)["map_ids"])
    speculative = [
        event["Task Info"]["Speculative"]
        for event in eventlog.events(apps.event_log(here))
        if event["Event"] == "SparkListenerTaskStart"
        and (event["Stage ID"], event["Stage Attempt ID"]) in wrote
    ]
    assert any(speculative), "nothing that was checkpointed was speculated"


def test_an_executor_is_lost_and_upstream_files_are_freed(folder: Path, cluster: Cluster) -> None:
    """In one application, before an executor of it is killed and after."""
    here = folder / "upstream"
    here.mkdir()
    # Tasks that follow their input could all run on the executor that is not killed.
    with _served(here, cluster, spark__shuffle__reduceLocality__enabled="false") as served:
        _two_executors(served)
        _upstream_is_freed(cluster, served)
        # Its pauses change no result: one is the plain run's of all.
        assert served.run("plain", trials.sql_of("one", 0), trials.PLAIN).error is None
        clear(here / "store")
        manifest = _a_stage_is_tried_again(here, cluster, served)
        _lost_without_checksums(here, cluster, served)
        served.stop()
    for name in ("freed", "retried", "unchecked"):
        assert not compare_results(served.output("plain"), served.output(name)), name
    # Again by the stage's next attempt, or by another stage if no job waited for it just then.
    assert len(_ran_in(here, manifest["map_ids"])) > 1, "nothing was computed again"


def _a_stage_is_tried_again(here: Path, cluster: Cluster, served: Served) -> Mapping[str, Any]:
    """An executor is lost while it uploads: what it had not uploaded is computed again."""
    (here / "control").write_text("write 2000\n")
    asked = served.ask("retried", SQL, FORCED)
    until(lambda: any((here / "store" / "data").glob("*/*/*.pack")), "an upload")
    os.kill(_executors(cluster)[0], signal.SIGKILL)
    (here / "control").unlink()
    assert served.answer(asked).error is None
    # With what was computed again: it is uploaded by an executor that had only read until then.
    manifest = wait_for_commits(here / "store", 1)[0]
    _one_winner_each(manifest)
    return read_manifest(manifest)


def _lost_without_checksums(here: Path, cluster: Cluster, served: Served) -> None:
    """Nobody can tell whether what was computed again is what it was: nothing is committed."""
    cluster.wait_for_executors()
    sql, known = trials.sql_of("one", WORK - 1), set((here / "store" / "data").glob("*/*/*.pack"))
    (here / "control").write_text("write 2000\n")
    prefix = "spark.sql.shuffle.orderIndependentChecksum"
    unchecked = {f"{prefix}.enabled": "false", f"{prefix}.enableFullRetryOnMismatch": "false"}
    asked = served.ask("unchecked", sql, {**FORCED, **unchecked})
    until(lambda: set((here / "store" / "data").glob("*/*/*.pack")) - known, "an upload")
    os.kill(_executors(cluster)[0], signal.SIGKILL)
    (here / "control").unlink()
    assert served.answer(asked).error is None
    until(lambda: "recomputed_unchecked" in served.log, "it is given up")


@pytest.mark.nightly(
    guarded_by="tests/faults/test_trials.py::test_faults_change_no_result"  # its `decommission`
)
def test_executors_that_are_decommissioned(folder: Path, cluster: Cluster) -> None:
    """Their files are moved, to the other one or to the fallback storage, while uploads go on and
    locations switch to the store."""
    here = folder / "decommission"
    here.mkdir()
    moving = trials.decommissioning(here / "fallback")
    conf = {key.replace(".", "__"): value for key, value in moving.items()}
    with _served(here, cluster, **conf) as served:
        sql = trials.sql_of("joined", WORK)
        assert served.run("plain", sql, trials.PLAIN).error is None
        for name, workers in (("one", cluster.workers[:1]), ("all", cluster.workers)):
            cluster.wait_for_executors()
            known = set(committed(here / "store"))
            asked = served.ask(name, sql, {**FORCED, "spark.phoebe.force": "all"})
            until(lambda known=known: set(committed(here / "store")) - known, "a commit")
            told = [pid for worker in workers for pid in worker.decommission_executors()]
            assert told
            until(lambda told=told: not set(told) & set(_executors(cluster)), "they are gone", 120)
            assert served.answer(asked).error is None, name
        assert any((here / "fallback").rglob("shuffle_*")), "nothing was moved there"
        log = served.log
        served.stop()
    assert "failed in" not in log
    for name in ("one", "all"):
        assert not compare_results(served.output("plain"), served.output(name)), name


def _upstream_is_freed(cluster: Cluster, served: Served) -> None:
    """Where the checkpoint was never met: its stage is one task, coalesced; what that read was
    written by both executors."""
    asked = served.ask("freed", trials.sql_of("one", 3 * WORK), FORCED)
    until(lambda: all(_shuffles_by_worker(cluster)), "files of both executors")
    assert served.answer(asked).error is None
    until(lambda: "bytes of local files freed" in served.log, "the checkpoint's own are freed")
    # What is left is what the last stage read.
    until(lambda: len(set().union(*_shuffles_by_worker(cluster))) == 1, "upstream is freed")


def _shuffles_by_worker(cluster: Cluster) -> list[set[str]]:
    """For each worker the ids of the shuffles that it has files of."""
    return [
        {f.name.split("_")[1] for f in worker.local_dir.rglob("shuffle_*.data")}
        for worker in cluster.workers
    ]


def _map_ids(executor_dir: Path) -> list[int]:
    """The map tasks of which an executor's directories hold a data file."""
    names = (re.match(r"shuffle_\d+_(\d+)_", f.name) for f in executor_dir.rglob("shuffle_*.data"))
    return [int(m.group(1)) for m in names if m]


def test_files_of_a_lost_executor_are_freed_by_the_shuffle_service(
    folder: Path,
) -> None:
    port = places.free_port()
    # One machine with room for two executors.
    with standalone(
        folder / "cluster-service", workers=1, cores=2, memory="2400m", service_port=port
    ) as cluster:
        _lose_an_executor(folder / "service", cluster, port)


def _lose_an_executor(here: Path, cluster: Cluster, service_port: int) -> None:
    here.mkdir()
    local = cluster.workers[0].local_dir
    with _served(
        here,
        cluster,
        spark__shuffle__service__enabled="true",
        spark__shuffle__service__port=str(service_port),
        spark__shuffle__reduceLocality__enabled="false",  # tasks on both
    ) as served:
        _two_executors(served)
        # Both have what they need when the query comes that counts.
        assert served.run("first", trials.sql_of("one", 1), trials.PLAIN).error is None
        # The kill comes when all is uploaded, and the manifest waits for its name.
        (here / "control").write_text("rename hang\n")
        asked = served.ask("forced", trials.sql_of("one", 3 * WORK), FORCED)
        until(lambda: any((here / "store" / "data").glob("*/*/*.tmp")), "a manifest is written")
        files = {path: set(_map_ids(path)) for path in local.glob("spark-*/executor-*")}
        os.kill(_executors(cluster)[0], signal.SIGKILL)
        assert "committed to" not in served.log
        (here / "control").unlink()
        until(lambda: "committed to" in served.log, "a commit")
        map_ids = set(read_manifest(wait_for_commits(here / "store", 1)[0])["map_ids"])
        # The worker's executors share its directory: whose a file is, only the service knows.
        assert map_ids <= set().union(*files.values())
        assert served.answer(asked).error is None
        until(lambda: not any(map_ids & set(_map_ids(path)) for path in files), "no file left", 40)
        served.stop()
    ran_on = {
        event["Task Info"]["Executor ID"]
        for event in _task_ends(here)
        if event["Task Info"]["Task ID"] in map_ids
    }
    assert len(ran_on) == 2, "the one that was killed had none of them"
    assert not compare_results(served.output("first"), served.output("forced"))


def test_idle_executors_are_released_after_a_commit(folder: Path, cluster: Cluster) -> None:
    """With shuffle tracking an executor stays for the shuffle files that it has: these are gone."""
    here = folder / "allocation"
    with _served(
        here,
        cluster,
        spark__dynamicAllocation__enabled="true",
        spark__dynamicAllocation__shuffleTracking__enabled="true",
        spark__dynamicAllocation__minExecutors="0",
        spark__dynamicAllocation__initialExecutors="2",
        spark__dynamicAllocation__maxExecutors="2",
        spark__dynamicAllocation__executorIdleTimeout="1s",
        spark__phoebe__checkpoint__dir=str(here / "store"),
    ) as served:
        sql, forced = trials.busy_sql_of("one", 1), {**FORCED, "spark.phoebe.force": "all"}
        assert served.run("forced", sql, forced).error is None
        until(lambda: not _executors(cluster), "no executor is kept", 40)
        assert served.run("plain", sql, trials.PLAIN).error is None
        time.sleep(4)  # they are idle for longer than they may be
        assert _executors(cluster), "without checkpoints they are kept: the test can tell"
        served.stop()
    assert not compare_results(served.output("plain"), served.output("forced"))


def _last_upload_in_trouble(
    here: Path, cluster: Cluster, trouble: str, reason: str, released: bool = False, **conf: str
) -> None:
    """Of a query's five boundaries, the last one is written by a stage of some seconds: when the
    others are committed, the store gets into trouble. ``released`` waits until the executors are
    gone, before their uploads are done.
    """
    here.mkdir()
    store, control = here / "store", here / "control"
    sql, others = trials.busy_sql_of("joined", STEPS), trials.SHAPES["joined"][2]
    with _served(here, cluster, **conf) as served:
        asked = served.ask("forced", sql, {**FORCED, "spark.phoebe.force": "all"})
        wait_for_commits(store, others, 240)
        control.write_text(f"write {trouble}\n")
        assert served.answer(asked).error is None
        if released:
            until(lambda: incomplete(store), "the last upload has begun")
            until(lambda: not _executors(cluster), "the executors are let go")
            assert "phoebe: checkpoint abandoned" not in served.log
        until(lambda: "phoebe: checkpoint abandoned" in served.log, "it is given up", 200)
        until(lambda: len(attempts(store)) == others, "nothing is left of it")
        assert not incomplete(store)
        control.unlink()
        assert served.run("plain", sql, trials.PLAIN).error is None
        served.stop()
    assert not compare_results(served.output("plain"), served.output("forced"))
    events = home.records(here / "home", "checkpoints", apps.app_id(here))
    assert sum(event["event"] == "committed" for event in events) == others
    assert [e["reason_code"] for e in events if e["event"] == "abandoned"] == [reason]


_FAILS = "test_an_upload_that_fails_costs_that_checkpoint_only"


def test_an_upload_that_fails_costs_that_checkpoint_only(folder: Path, cluster: Cluster) -> None:
    _last_upload_in_trouble(folder / "failed-upload", cluster, "fail", "copy_failed")


@pytest.mark.nightly(guarded_by=f"tests/faults/test_scheduling.py::{_FAILS}")
def test_an_upload_that_is_lost_costs_that_checkpoint_only(folder: Path, cluster: Cluster) -> None:
    """Executors are let go while they upload, after the query's end: nobody computes the outputs
    again, and a minute later the checkpoint is given up."""
    _last_upload_in_trouble(
        folder / "lost-upload",
        cluster,
        "hang",
        "upload_late",
        released=True,
        spark__dynamicAllocation__enabled="true",
        spark__dynamicAllocation__shuffleTracking__enabled="true",
        # It would keep an executor for its shuffle files.
        spark__dynamicAllocation__shuffleTracking__timeout="20s",
        spark__dynamicAllocation__minExecutors="0",
        spark__dynamicAllocation__initialExecutors="2",
        spark__dynamicAllocation__maxExecutors="2",
        spark__dynamicAllocation__executorIdleTimeout="20s",
    )


PUSH = """
import json, sys
from pyspark.sql import SparkSession
spark = SparkSession.builder.getOrCreate()
rows = spark.read.parquet(sys.argv[1]).groupBy("o_custkey").count()
assert rows.count() > 0
runtime = spark._jvm.phoebe.plugin.PhoebeRuntime.active().get()
print("COUNTS " + runtime.counts().toString())
spark.stop()
"""


def test_push_based_shuffle_is_left_alone(folder: Path) -> None:
    here = folder / "push"
    here.mkdir()
    (here / "app.py").write_text(PUSH)
    conf = {
        "spark.phoebe.home": str(here / "home"),
        "spark.phoebe.mode": "apply",
        "spark.phoebe.force": "all",
        "spark.testing": "true",  # Spark takes the setting seriously on YARN only, and in tests
        "spark.shuffle.push.enabled": "true",
        "spark.shuffle.service.enabled": "true",
        "spark.serializer": "org.apache.spark.serializer.KryoSerializer",
    }
    orders = data("tpch", 0.1) / "orders.parquet"
    with apps.submit(
        here / "app.py", [str(orders)], folder=here / "app", conf=conf, plugin="jars"
    ) as app:
        finished = app.wait(180).check()
    reasons = {r["reason_code"] for r in home.records(here / "home", "boundaries")}
    assert reasons == {"push_based_shuffle"}
    assert "COUNTS Map(left_alone.push_based_shuffle -> 1)" in finished.log
    assert not committed(here / "home" / "checkpoints")
