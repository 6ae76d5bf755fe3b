"""What the planner hook leaves alone although every boundary is forced: results are as always."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from tests.support import apps, home

APP = """
import json, sys, time
from pyspark.sql import SparkSession, functions as F

folder = sys.argv[1]
spark = SparkSession.builder.getOrCreate()
spark.sparkContext.setLogLevel("WARN")
store = sys.argv[2]
jvm = spark._jvm

def counts():
    runtime = jvm.phoebe.plugin.PhoebeRuntime.active().get()
    found = runtime.counts()
    keys = found.keysIterator()
    names = []
    while keys.hasNext():
        names.append(keys.next())
    return {name: found.apply(name) for name in names}

def written():
    time.sleep(0.5)
    return counts().get("checkpoints.committed", 0)

def per_key(frame):
    rows = frame.groupBy("k").agg(F.count("*").alias("n")).collect()
    return sorted((r["k"], r["n"]) for r in rows)

said = {}
spark.range(0, 1000, 1, 2).select((F.col("id") % 5).alias("k")).write.parquet(folder + "/in")
table = spark.read.parquet(folder + "/in")
expected = [[k, 200] for k in range(5)]

before = written()
spark.conf.set("spark.sql.adaptive.enabled", "false")
assert [list(r) for r in per_key(table)] == expected
said["without_aqe"] = written() - before
spark.conf.set("spark.sql.adaptive.enabled", "true")

before = written()
batches = []
def each(batch, number):
    batches.append(per_key(batch))
stream = spark.readStream.schema("k long").parquet(folder + "/in")
query = stream.writeStream.foreachBatch(each).option("checkpointLocation", folder + "/cp")
query.trigger(availableNow=True).start().awaitTermination()
assert [[list(r) for r in b] for b in batches] == [expected]
said["streaming"] = written() - before

before = written()
random = table.withColumn("r", F.rand(7)).groupBy("k").agg(F.max("r").alias("m")).collect()
assert len(random) == 5
said["nondeterministic"] = written() - before

before = written()
spark.conf.set("spark.phoebe.mode", "off")
assert [list(r) for r in per_key(table)] == expected
said["killed_switch"] = written() - before
spark.conf.set("spark.phoebe.mode", "apply")

before = written()
assert [list(r) for r in per_key(table)] == expected
deadline = time.monotonic() + 60  # a commit comes beside the query, or after it
while written() == before and time.monotonic() < deadline:
    time.sleep(0.05)
said["ordinary"] = written() - before

# Rows go round in the order in which a task meets them, and it meets what it fetches in any order.
def by_turns(name):
    spark.sparkContext.setJobDescription(name)
    rows = table.groupBy("k").count().repartition(4).groupBy("count").agg(F.sum("k").alias("k"))
    rows = rows.collect()
    spark.sparkContext.setJobDescription(None)
    return [list(row) for row in rows]

before = written()
spark.conf.set("spark.sql.execution.sortBeforeRepartition", "false")
said["by_turns"] = by_turns("by turns")
deadline = time.monotonic() + 60
while written() == before and time.monotonic() < deadline:
    time.sleep(0.05)
spark.conf.set("spark.phoebe.mode", "off")
said["by_turns_plain"] = by_turns("plain")

said["counts"] = counts()
open(folder + "/said.json", "w").write(json.dumps(said))
spark.stop()
"""


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    folder = tmp_path_factory.mktemp("alone")
    script = folder / "app.py"
    script.write_text(APP)
    conf = {
        "spark.phoebe.home": str(folder / "home"),
        "spark.phoebe.mode": "apply",
        "spark.phoebe.force": "all",
        "spark.sql.shuffle.partitions": "3",
    }
    store = folder / "home" / "checkpoints"
    with apps.submit(
        script, [str(folder), str(store)], folder=folder / "app", conf=conf, plugin="jars"
    ) as app:
        app.wait().check()
    answer: dict[str, object] = json.loads((folder / "said.json").read_text())
    app_id = apps.app_id(folder / "app")
    executions = home.records(folder / "home", "executions", app_id)
    ours = {r["execution_id"] for r in executions if r["description"] == "by turns"}
    answer["by_turns_events"] = Counter(
        (r["event"], r["reason_code"])
        for r in home.records(folder / "home", "checkpoints", app_id)
        if r["execution_id"] in ours and r["event"] != "freed"
    )
    return answer


@pytest.mark.parametrize("case", ["without_aqe", "streaming", "nondeterministic", "killed_switch"])
def test_nothing_is_checkpointed(said: dict[str, object], case: str) -> None:
    assert said[case] == 0


def test_an_ordinary_query_is(said: dict[str, object]) -> None:
    assert said["ordinary"] == 1


def test_boundaries_whose_rows_may_differ_are_given_up(said: dict[str, object]) -> None:
    """Spark would compute all of them again, and what has read them, where one output is lost; so
    only the boundary below the first such one is kept."""
    assert said["by_turns"] == said["by_turns_plain"] == [[200, 10]]
    assert said["by_turns_events"] == {("committed", None): 1, ("abandoned", "indeterminate"): 2}


def test_the_reason_is_counted(said: dict[str, object]) -> None:
    counts = said["counts"]
    assert isinstance(counts, dict)
    assert counts["left_alone.streaming"] > 0
    assert counts["boundaries.refuse"] == 1
    assert not [name for name in counts if name.startswith("failed.")]
