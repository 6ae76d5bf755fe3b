"""Applications that are not PySpark scripts: Java, and plain SQL. Same jar, same one setting."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support import home
from tests.support.places import plugin_jar, spark_environment, spark_home

JAVA = """
import org.apache.spark.sql.SparkSession;

public class Daily {
  public static void main(String[] args) {
    SparkSession spark = SparkSession.builder().appName("java-daily").getOrCreate();
    spark.range(0, 100000, 1, 2).selectExpr("id % 7 as k", "id").createOrReplaceTempView("t");
    long sum = spark.sql("select k, sum(id) s from t group by k").collectAsList().stream()
        .mapToLong(r -> r.getLong(1)).sum();
    System.out.println("SUM " + sum);
    spark.stop();
  }
}
"""
SQL = """
create or replace temporary view t as select id % 7 as k, id from range(0, 100000, 1, 2);
select concat('SUM ', cast(sum(s) as string)) from (select k, sum(id) s from t group by k);
"""
SUM = f"SUM {sum(range(100000))}"


def _java(folder: Path) -> list[str]:
    (folder / "Daily.java").write_text(JAVA)
    jars = f"{spark_home()}/jars/*"
    subprocess.run(
        ["javac", "-cp", jars, "-d", folder / "classes", folder / "Daily.java"], check=True
    )
    subprocess.run(["jar", "cf", folder / "daily.jar", "-C", folder / "classes", "."], check=True)
    return ["--class", "Daily", str(folder / "daily.jar")]


def _sql(folder: Path) -> list[str]:
    (folder / "daily.sql").write_text(SQL)
    main = "org.apache.spark.sql.hive.thriftserver.SparkSQLCLIDriver"
    return ["--class", main, "spark-internal", "-f", str(folder / "daily.sql")]


@pytest.mark.parametrize("kind", [_java, _sql])
def test_it_is_checkpointed_then_restored(kind: object, tmp_path: Path) -> None:
    assert callable(kind)
    application = kind(tmp_path)
    conf = {
        "spark.plugins": "phoebe.PhoebePlugin",
        "spark.phoebe.home": str(tmp_path / "home"),
        "spark.phoebe.mode": "apply",
        "spark.phoebe.force": "all",
        "spark.phoebe.checkpoint.retain": "always",
        "spark.ui.enabled": "false",
        "spark.sql.shuffle.partitions": "2",
        "spark.sql.catalogImplementation": "in-memory",
        "spark.local.dir": str(tmp_path / "local"),
    }
    submit = [str(spark_home() / "bin" / "spark-submit"), "--master", "local[2]"]
    submit += ["--driver-memory", "1g", "--jars", str(plugin_jar())]
    for key, value in conf.items():
        submit += ["--conf", f"{key}={value}"]
    for _ in range(2):
        done = subprocess.run(
            [*submit, *application],
            cwd=tmp_path,
            env=spark_environment(),
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        assert SUM in done.stdout
    events = [
        home.checkpoint_events(tmp_path / "home", a) for a in _applications(tmp_path / "home")
    ]
    assert [e["committed"] > 0 for e in events] == [True, False]
    assert [e["restored"] > 0 for e in events] == [False, True]


def _applications(home_: Path) -> list[str]:
    found = sorted(home.records(home_, "applications"), key=lambda r: str(r["started_at"]))
    assert [r["status"] for r in found] == ["finished", "finished"]
    return [str(r["app_id"]) for r in found]
