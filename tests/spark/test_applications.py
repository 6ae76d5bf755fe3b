"""Applications that are not PySpark scripts: Java, and plain SQL. Same jar, same settings, no other
help to resume: each is killed between its two queries and submitted again."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support import home, store
from tests.support.places import plugin_jar, spark_environment, spark_home

JAVA = """
import java.io.File;
import org.apache.spark.sql.SparkSession;

public class Daily {
  static long sum(SparkSession spark, String key) {
    return spark.sql("select " + key + " as k, sum(id) s from t group by 1").collectAsList()
        .stream().mapToLong(r -> r.getLong(1)).sum();
  }

  public static void main(String[] args) throws Exception {
    SparkSession spark = SparkSession.builder().appName("java-daily").getOrCreate();
    spark.range(0, 100000, 1, 2).createOrReplaceTempView("t");
    System.out.println("FIRST " + sum(spark, "id % 7"));
    new File(args[0] + ".reached").createNewFile();
    while (!new File(args[0]).exists()) Thread.sleep(50);
    System.out.println("SECOND " + sum(spark, "id % 11"));
    spark.stop();
  }
}
"""
SQL = """
create or replace temporary view t as select id from range(0, 100000, 1, 2);
select concat('FIRST ', sum(s)) from (select id % 7 as k, sum(id) s from t group by 1);
!sh {wait};
select concat('SECOND ', sum(s)) from (select id % 11 as k, sum(id) s from t group by 1);
"""
WAIT = """
touch {gate}.reached
while [ ! -e {gate} ]; do sleep 0.05; done
"""
SUM = sum(range(100000))


def _java(folder: Path, gate: Path) -> list[str]:
    (folder / "Daily.java").write_text(JAVA)
    jars = f"{spark_home()}/jars/*"
    subprocess.run(
        ["javac", "-cp", jars, "-d", folder / "classes", folder / "Daily.java"], check=True
    )
    subprocess.run(["jar", "cf", folder / "daily.jar", "-C", folder / "classes", "."], check=True)
    return ["--class", "Daily", str(folder / "daily.jar"), str(gate)]


def _sql(folder: Path, gate: Path) -> list[str]:
    (folder / "wait.sh").write_text(WAIT.format(gate=gate))
    (folder / "daily.sql").write_text(SQL.format(wait=folder / "wait.sh"))
    main = "org.apache.spark.sql.hive.thriftserver.SparkSQLCLIDriver"
    return ["--class", main, "spark-internal", "-f", str(folder / "daily.sql")]


@contextmanager
def _submitted(folder: Path, application: list[str]) -> Iterator[subprocess.Popen[str]]:
    """``application`` under the plugin; whatever still runs at the end is killed."""
    conf = {
        "spark.plugins": "phoebe.PhoebePlugin",
        "spark.phoebe.home": str(folder / "home"),
        "spark.phoebe.mode": "apply",
        "spark.phoebe.force": "all",
        "spark.ui.enabled": "false",
        "spark.sql.shuffle.partitions": "2",
        "spark.sql.catalogImplementation": "in-memory",
        "spark.local.dir": str(folder / "local"),
    }
    submit = [str(spark_home() / "bin" / "spark-submit"), "--master", "local[2]"]
    submit += ["--driver-memory", "1g", "--jars", str(plugin_jar())]
    for key, value in conf.items():
        submit += ["--conf", f"{key}={value}"]
    with (folder / "driver.log").open("ab") as log:
        process = subprocess.Popen(
            [*submit, *application],
            cwd=folder,
            env=spark_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def _await(path: Path, process: subprocess.Popen[str], timeout_s: float = 240) -> None:
    deadline = time.monotonic() + timeout_s
    while not path.exists():
        assert process.poll() is None, "the application ended"
        assert time.monotonic() < deadline, f"no {path.name} in {timeout_s} s"
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("kind", "boundaries", "tells_its_end"),
    [
        pytest.param(_java, 1, True, id="java"),
        # The outer sum is a boundary of its own; and it stops Spark in the JVM's shutdown, however
        # it has ended.
        pytest.param(_sql, 2, False, id="sql"),
    ],
)
def test_killed_amid_its_work_it_resumes_and_leaves_nothing_after_an_end_that_it_tells(
    kind: Callable[[Path, Path], list[str]], boundaries: int, tells_its_end: bool, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    application = kind(tmp_path, gate)
    checkpoints = tmp_path / "home" / "checkpoints"
    with _submitted(tmp_path, application) as killed:
        _await(gate.with_name("gate.reached"), killed)
        left = store.wait_for_commits(checkpoints, boundaries, timeout_s=120)
        os.kill(killed.pid, signal.SIGKILL)
        shown, _ = killed.communicate(timeout=60)
    assert f"FIRST {SUM}" in shown
    assert "SECOND" not in shown
    (killed_id,) = {str(store.read_manifest(m)["app_id"]) for m in left}

    gate.touch()
    with _submitted(tmp_path, application) as again:
        shown, _ = again.communicate(timeout=300)
        assert again.returncode == 0, (tmp_path / "driver.log").read_text()[-3000:]
    assert [line for line in shown.splitlines() if str(SUM) in line] == [
        f"FIRST {SUM}",
        f"SECOND {SUM}",
    ]
    (again_id,) = {
        str(r["app_id"])
        for r in home.records(tmp_path / "home", "applications")
        if r["status"] == "finished"
    }
    assert again_id != killed_id
    events = home.checkpoint_events(tmp_path / "home", again_id)
    assert events["restored"] == 1, events
    stays = store.committed(checkpoints)
    assert sorted(store.attempts(checkpoints)) == sorted(map(store.data_of, stays))
    if tells_its_end:
        # What it restored and what its second query wrote is gone.
        assert set(stays) < set(left)
        assert len(stays) == len(left) - 1
    else:
        assert set(stays) >= set(left)
