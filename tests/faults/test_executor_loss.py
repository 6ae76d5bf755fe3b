"""An executor of a two-worker cluster is SIGKILLed after a checkpoint was committed.

With the plugin nothing upstream of the checkpoint runs again; without it, the same kill at the
same point does re-run upstream stages, which shows that the test can tell.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import eventlog, places, queries, store, tpc, trials
from tests.support.apps import RunningApp
from tests.support.cluster import Cluster, standalone
from tests.support.compare import compare_results

# A join and an aggregate below one shuffle (e1), and above it a stage that waits for seconds in
# each of its tasks, so that the kill meets readers of the shuffle.
SQL = f"""
select o_custkey % 8 as bucket, count(*) as n, sum(slow) as slow
from (
  select o_custkey, total,
         {trials.WAITING.format(work=1500)} as slow
  from (
    select /*+ REPARTITION(6, o_custkey) */ o_custkey, total
    from (
      select o_custkey, cast(sum(l_quantity) as bigint) as total
      from orders join lineitem on o_orderkey = l_orderkey group by o_custkey
    )
  )
)
group by o_custkey % 8
"""
STAGES_BEFORE = 4
CONF = {
    **queries.SHUFFLE_CONF,
    "spark.sql.shuffle.partitions": "4",
    "spark.sql.adaptive.coalescePartitions.enabled": "false",
    "spark.executor.memory": "700m",
    "spark.phoebe.mode": "apply",
    "spark.phoebe.force": "e1",
}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with standalone(tmp_path_factory.mktemp("cluster")) as found:
        yield found


def _kill_after_upstream(
    folder: Path, cluster: Cluster, plugin: bool
) -> tuple[eventlog.AppRun, int]:
    """Runs the query and kills one executor while its slow stage runs; the log, and when (ms)."""
    items = [queries.Item("loss", tpc.data("tpch", 0.1), sql=SQL)]
    conf = {**CONF, "spark.phoebe.home": str(folder / "home")}
    with queries.submit_queries(
        items,
        folder=folder / "app",
        master=cluster.master,
        conf=conf,
        plugin="jars" if plugin else "none",
        packages_jars=[places.testing_jar()],
    ) as app:
        _await_slow_stage(app)
        if plugin:
            store.wait_for_commits(folder / "home" / "checkpoints", 1)
        killed_ms = int(time.time() * 1000)
        assert cluster.workers[0].kill_executors()
        finished = app.wait(180).check()
    return eventlog.read(finished.event_log), killed_ms


def _await_slow_stage(app: RunningApp) -> None:
    """Waits until all stages up to the repartitioned rows have ended and the next one runs.

    Spark writes its event log out when a stage ends, not when one starts.
    """
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and app.running:
        logs = list((app.folder / "events").iterdir())
        executions = eventlog.read(logs[0]).executions if logs else {}
        if executions:
            stages = executions[max(executions)].stages
            ends = [s.completed_ms for s in stages if s.completed_ms]
            if len(ends) >= STAGES_BEFORE and time.time() * 1000 - max(ends) > 1500:
                return
        time.sleep(0.1)
    raise AssertionError(f"the slow stage never started, see {app.folder}/driver.log")


def _rerun(run: eventlog.AppRun, killed_ms: int) -> set[int]:
    """Stages upstream of the one that ran at the kill which were submitted after it."""
    execution = run.executions[max(run.executions)]
    slow = next(s for s in execution.stages if s.submitted_ms < killed_ms < s.completed_ms)
    upstream: set[int] = set()
    todo = [slow.stage_id]
    while todo:
        parents = set(execution.planned_stages[todo.pop()]) - upstream
        upstream |= parents
        todo.extend(parents)
    return {s.stage_id for s in run.stages if s.submitted_ms > killed_ms} & upstream


@pytest.fixture(scope="module")
def without(
    cluster: Cluster, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, eventlog.AppRun, int]:
    folder = tmp_path_factory.mktemp("without")
    return (folder, *_kill_after_upstream(folder, cluster, plugin=False))


def test_without_the_plugin_upstream_runs_again(
    without: tuple[Path, eventlog.AppRun, int],
) -> None:
    _, run, killed_ms = without
    assert _rerun(run, killed_ms)


def test_after_a_commit_nothing_upstream_runs_again(
    without: tuple[Path, eventlog.AppRun, int], cluster: Cluster, tmp_path: Path
) -> None:
    run, killed_ms = _kill_after_upstream(tmp_path, cluster, plugin=True)
    assert not _rerun(run, killed_ms)
    left, right = (queries.output(f / "app", "loss") for f in (without[0], tmp_path))
    assert not compare_results(left, right)
