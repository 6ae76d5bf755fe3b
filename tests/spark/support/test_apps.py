"""The harness itself on real applications: runs, kills, event logs, a cluster of two workers."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import eventlog, queries, tpc
from tests.support.apps import AppFailedError
from tests.support.cluster import standalone
from tests.support.compare import compare_results
from tests.support.cpu import ProcessMeter
from tests.support.disk import DiskSampler

CONF = {**queries.SHUFFLE_CONF, "spark.sql.shuffle.partitions": "4"}


def test_runs_queries_and_says_what_ran(tmp_path: Path) -> None:
    data = tpc.data("tpch", 0.01)
    gate = tmp_path / "gate"
    items = [
        queries.Item("tpch/q5", data),
        queries.Item("tpch/q18", data, pause_after=gate),
        queries.Item("tpch/q21", data),
    ]
    with (
        queries.submit_queries(items, folder=tmp_path / "a", conf=CONF) as app,
        ProcessMeter(app.pid) as meter,
        DiskSampler([app.folder / "local"]) as sampler,
    ):
        app.wait_for(Path(f"{gate}.reached"))
        assert set(queries.timings(app.folder)) == {"tpch/q5", "tpch/q18"}
        app.kill_driver()
    assert 1 < meter.cpu_s < 200
    assert meter.peak_rss_bytes("query_app.py") > 0
    assert sampler.usage.peak_bytes > 0
    run = eventlog.read(eventlog_of(tmp_path / "a"))
    assert not run.ended
    execution = run.execution("tpch/q5")
    assert execution.ended_ms
    assert len(execution.ran) >= 5
    assert any(s.shuffle_write_bytes for s in execution.stages)
    scans = [n for n in execution.nodes_that_ran() if n.name.startswith("Scan parquet")]
    assert len(scans) == 6  # one for each table of q5

    items = [queries.Item(n, data) for n in ("tpch/q5", "tpch/q18")]
    with queries.submit_queries(items, folder=tmp_path / "b", conf=CONF) as app:
        app.wait().check()
    for name in ("tpch/q5", "tpch/q18"):
        left, right = (queries.output(tmp_path / f, name) for f in "ab")
        assert not compare_results(left, right)


def test_a_failed_application_says_so(tmp_path: Path) -> None:
    items = [queries.Item("bad", tpc.data("tpch", 0.01), sql="select no_such_column from nation")]
    with queries.submit_queries(items, folder=tmp_path) as app, pytest.raises(AppFailedError):
        app.wait().check()
    assert "no_such_column" in (queries.timings(tmp_path)["bad"].error or "")


@pytest.mark.nightly(
    guarded_by="tests/faults/test_executor_loss.py::test_after_a_commit_nothing_upstream_runs_again"
)
def test_cluster_executors_are_found_and_killed(tmp_path: Path) -> None:
    data = tpc.data("tpch", 0.01)
    gate = tmp_path / "gate"
    items = [queries.Item("tpch/q5", data, pause_after=gate), queries.Item("tpch/q7", data)]
    conf = {**CONF, "spark.executor.memory": "700m"}
    with (
        standalone(tmp_path / "cluster") as cluster,
        queries.submit_queries(
            items, folder=tmp_path / "app", master=cluster.master, conf=conf
        ) as app,
        DiskSampler(cluster.local_dirs) as sampler,
    ):
        app.wait_for(Path(f"{gate}.reached"))
        assert all(len(w.executor_pids()) == 1 for w in cluster.workers)
        assert cluster.workers[0].kill_executors()
        gate.touch()
        app.wait().check()
    assert sampler.usage.peak_bytes > 0
    assert not queries.timings(tmp_path / "app")["tpch/q7"].error


def eventlog_of(folder: Path) -> Path:
    return next((folder / "events").iterdir())
