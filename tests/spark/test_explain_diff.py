"""``phoebe explain --diff`` over two real runs of one job: each change is named, and only those."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from phoebe_spark.cli import app as phoebe
from tests.support import apps

JOB = """
import sys
from pyspark.sql import SparkSession

table, highest, zone = sys.argv[1:4]
spark = SparkSession.builder.getOrCreate()
spark.read.parquet(table).createOrReplaceTempView("t")
spark.range(10).createOrReplaceTempView("numbers")

def run(name, sql):
    spark.sparkContext.setJobDescription(name)
    spark.sql(sql).collect()

run("same", "SELECT id % 3, count(*) FROM numbers GROUP BY 1")
run("literal", f"SELECT id % 3, count(*) FROM numbers WHERE id < {highest} GROUP BY 1")
run("clock", "SELECT k, count(*) FROM (SELECT id % 3 k, cast(id AS timestamp) at FROM numbers)"
             " WHERE at < current_timestamp() GROUP BY k")
run("input", "SELECT k, sum(v) FROM t GROUP BY k")
spark.conf.set("spark.sql.session.timeZone", zone)
run("zone", "SELECT id % 5, count(*) FROM numbers GROUP BY 1")
spark.stop()
"""


def _run(folder: Path, table: Path, home: Path, *arguments: str) -> None:
    folder.mkdir()
    job = folder / "job.py"
    job.write_text(JOB)
    conf = {
        "spark.phoebe.home": str(home),
        "spark.phoebe.mode": "advise",
        "spark.phoebe.force": "all",  # fingerprints are taken of short queries, too
        "spark.sql.shuffle.partitions": "2",
    }
    with apps.submit(
        job, [str(table), *arguments], folder=folder, conf=conf, plugin="jars",
        driver_memory="1g", with_event_log=False,
    ) as running:  # fmt: skip
        running.wait(timeout_s=240).check()


def _phoebe(*arguments: str) -> str:
    result = CliRunner().invoke(phoebe, list(arguments), env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A home with two runs, and their application ids in order."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = tmp_path_factory.mktemp("diff")
    home, table = folder / "home", folder / "t"
    table.mkdir()
    pq.write_table(pa.table({"k": [1, 2, 1], "v": [1, 2, 3]}), table / "a.parquet")
    _run(folder / "one", table, home, "7", "UTC")
    pq.write_table(pa.table({"k": [4], "v": [5]}), table / "b.parquet")
    _run(folder / "two", table, home, "8", "Asia/Tokyo")
    applications = json.loads(_phoebe("explain", "--home", str(home), "--json"))
    return home, [a["app_id"] for a in applications]


def test_each_change_is_named_once_where_it_is(home: tuple[Path, list[str]]) -> None:
    where, runs = home
    found = json.loads(_phoebe("explain", "--diff", *runs, "--home", str(where), "--json"))
    codes = {d["reason"]["code"]: d for d in found["differences"]}
    assert sorted(codes) == ["input", "literal", "literal_follows_clock", "setting"]
    assert found["same"] == 1
    assert (found["changed"], found["downstream"], found["unmatched"]) == (4, 0, 0)
    assert "1 files became 2" in codes["input"]["reason"]["message"]
    assert codes["setting"]["reason"]["args"]["setting"] == "time_zone"
    # `id < 8` in place of `id < 7`; neither value is stored.
    assert codes["literal"]["reason"]["args"] == {"operator": "Filter", "type": "bigint"}
    executions = {code: {e for e, _ in d["boundaries"]} for code, d in codes.items()}
    assert all(len(e) == 1 for e in executions.values())
    assert len(set.union(*executions.values())) == 4


def test_the_advice_is_shown(home: tuple[Path, list[str]]) -> None:
    where, runs = home
    shown = " ".join(_phoebe("explain", "--diff", *runs, "--home", str(where)).split())
    assert "follows the clock" in shown
    assert "1 fingerprints the same, 4 changed" in shown


def test_a_run_and_itself_do_not_differ(home: tuple[Path, list[str]]) -> None:
    where, (one, _) = home
    found = json.loads(_phoebe("explain", "--diff", one, one, "--home", str(where), "--json"))
    assert (found["same"], found["changed"], found["differences"]) == (5, 0, [])


def test_a_run_that_is_not_there_is_said(home: tuple[Path, list[str]]) -> None:
    where, (one, _) = home
    command = ["explain", "--diff", one, "app-0", "--home", str(where)]
    assert CliRunner().invoke(phoebe, command).exit_code == 1
