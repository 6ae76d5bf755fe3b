"""Checkpoints on a real HDFS: written, a data node killed, restored, looked at."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from phoebe_spark.checkpoints.catalogue import collect, look
from phoebe_spark.errors import CheckpointStoreError
from tests.support import apps, hdfs, home, paused_driver, queries, stored_job
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
    found = look(store, verify=True)
    assert [checkpoint.state for checkpoint in found] == ["committed"] * 3
    assert sum(checkpoint.hits for checkpoint in found) == 1
    assert all(checkpoint.remove for checkpoint in collect(store, max_store_bytes=0))
    assert look(store) == []


def test_a_driver_that_was_paused_commits_and_removes_nothing(
    cluster: hdfs.Hdfs, tmp_path: Path
) -> None:
    store = f"{cluster.uri}/paused"

    def catalog() -> set[str]:
        try:
            listed = cluster.shell("-ls", "-C", f"{store}/catalog")
        except subprocess.CalledProcessError:
            return set()  # not there yet
        return {line.rpartition("/")[2] for line in listed.splitlines()}

    paused_driver.run(tmp_path, store, catalog, {"spark.hadoop.dfs.replication": "1"})


def test_a_foreign_directory_is_refused(cluster: hdfs.Hdfs, tmp_path: Path) -> None:
    cluster.shell("-mkdir", "-p", "/lake/data/sales/year=2024")
    cluster.shell("-touchz", "/lake/data/sales/year=2024/part-0.csv")
    gate = tmp_path / "gate"
    gate.touch()
    with stored_job.submit(
        tmp_path / "app", tmp_path / "home", f"{cluster.uri}/lake", gate, REPLICAS
    ) as app:
        finished = app.wait().check()
    assert "phoebe: no checkpoints, the job goes on without" in finished.log
    left = cluster.shell("-ls", "-R", "-C", "/lake").splitlines()
    assert [line.rpartition("/")[2] for line in left] == [
        "data", "sales", "year=2024", "part-0.csv"
    ]  # fmt: skip
    with pytest.raises(CheckpointStoreError, match="not a checkpoint store"):
        collect(f"{cluster.uri}/lake", max_store_bytes=0)
