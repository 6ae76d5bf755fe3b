"""What the planner hook leaves alone although every boundary is forced: results are as always."""

from __future__ import annotations

import json

import pytest

from tests.support import apps

APP = """
import json, sys, time
from pyspark.sql import SparkSession, functions as F

folder = sys.argv[1]
spark = SparkSession.builder.getOrCreate()
spark.sparkContext.setLogLevel("WARN")
store = sys.argv[2]
jvm = spark._jvm

def counts():
    runtime = jvm.org.apache.spark.sql.execution.phoebe.PhoebeRuntime.active().get()
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
    return answer


@pytest.mark.parametrize("case", ["without_aqe", "streaming", "nondeterministic", "killed_switch"])
def test_nothing_is_checkpointed(said: dict[str, object], case: str) -> None:
    assert said[case] == 0


def test_an_ordinary_query_is(said: dict[str, object]) -> None:
    assert said["ordinary"] == 1


def test_the_reason_is_counted(said: dict[str, object]) -> None:
    counts = said["counts"]
    assert isinstance(counts, dict)
    assert counts["left_alone.streaming"] > 0
    assert counts["boundaries.refuse"] == 1
    assert not [name for name in counts if name.startswith("failed.")]
