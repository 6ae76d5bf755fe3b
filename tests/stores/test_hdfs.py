"""Checkpoints on a real HDFS: written, a data node killed, restored, looked at."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from phoebe_spark.checkpoints import look
from tests.support import apps, hdfs, home, queries, stored_job
from tests.support.compare import compare_results


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[hdfs.Hdfs]:
    if not any(hdfs.JARS.glob("*.jar")):
        pytest.fail("HDFS is not there: make test-stores")
    with hdfs.running(tmp_path_factory.mktemp("hdfs")) as found:
        yield found


REPLICAS = {"spark.hadoop.dfs.replication": "2"}


def test_a_killed_job_resumes_although_a_data_node_is_lost(
    cluster: hdfs.Hdfs, tmp_path: Path
) -> None:
    store = f"{cluster.uri}/phoebe"
    home_ = tmp_path / "home"
    gate = tmp_path / "gate"
    with stored_job.submit(tmp_path / "first", home_, store, gate, REPLICAS) as app:
        app.wait_for(gate.with_name("gate.reached"))
        deadline = time.monotonic() + 120
        while cluster.shell("-ls", f"{store}/catalog").count(".manifest") < 3:
            assert time.monotonic() < deadline, "three checkpoints are committed"
        app.kill_driver()
    root = [line for line in cluster.shell("-ls", "/").splitlines() if line.endswith("/phoebe")]
    assert root[0].startswith("drwx------")
    cluster.data_nodes[0].kill()
    gate.touch()
    with stored_job.submit(tmp_path / "second", home_, store, gate, REPLICAS) as app:
        finished = app.wait().check()
    outputs = [queries.output(tmp_path / folder, "daily") for folder in ("first", "second")]
    assert not compare_results(*outputs)
    assert home.checkpoint_events(home_, apps.app_id(finished.folder))["restored"] == 1
    found = look("verify", store)
    assert [checkpoint.state for checkpoint in found] == ["committed"] * 3
    assert sum(checkpoint.hits for checkpoint in found) == 1
    assert all(checkpoint.remove for checkpoint in look("gc", store, [None, 0]))
    assert look("list", store) == []
