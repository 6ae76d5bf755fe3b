"""A PySpark application in which everything that Spark has stands above a checkpointed boundary.

``operators_app.py SPEC.json``: for each operator what the query gave plain and with every boundary
forced, how many checkpoints that committed, and the operators of the plan that ran.

A query's last stage waits until something of the query is committed: what stands above the boundary
is looked at then, and must still be running.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession, Window
from pyspark.sql import functions as sf

import phoebe_spark

SHUFFLED = """
select k, max(s) as s from (select k, w, sum(v) as s from fact group by k, w) group by k"""
"""Two boundaries of the allow-list, one upstream of the other."""

SCHEMA = "k long, s long"


def long(function: Callable[..., Any], **how: Any) -> Any:
    return sf.udf(function, "long", **how)


def same(k: Any) -> Any:
    return k


def batches(given: Iterator[Any]) -> Iterator[Any]:
    yield from given


def frame(given: pd.DataFrame) -> pd.DataFrame:
    return given[["k", "s"]]


def left(one: Any, _: Any) -> Any:
    return one


def series(k: pd.Series) -> pd.Series:
    return k


def summed(s: pd.Series) -> int:
    return int(s.sum())


def summed_array(s: pa.Array) -> int:
    return sum(s.to_pylist())


class Twice:
    def eval(self, k: int) -> Iterator[tuple[int]]:
        yield (k,)
        yield (k + 1,)


class App:
    def __init__(self, spec: dict[str, Any]) -> None:
        self.folder = Path(spec["folder"])
        self.catalog = Path(spec["store"]) / "catalog"
        self.marker = self.folder / "marker"
        self.spark = SparkSession.builder.appName("operators").getOrCreate()
        self.spark.sparkContext.setLogLevel("WARN")
        fact = self.spark.range(0, 3000, 1, 2)
        table = str(self.folder / "fact")
        fact.selectExpr("id % 20 as k", "id % 97 as v", "id % 7 as w").write.parquet(table)
        self.spark.read.parquet(table).createOrReplaceTempView("fact")
        self.spark.udtf.register("twice", sf.udtf(Twice, returnType="again: long", useArrow=False))
        self.spark.udtf.register(
            "twice_arrow", sf.udtf(Twice, returnType="again: long", useArrow=True)
        )
        self.after_commit = long(self._waits())

    def _waits(self) -> Callable[[Any], Any]:
        catalog, marker = str(self.catalog), str(self.marker)

        def wait(k: Any) -> Any:
            deadline = time.monotonic() + 10
            while time.monotonic() < deadline:
                with suppress(OSError, ValueError):
                    with open(marker) as said:
                        known = set(said.read().split())
                    now = {f for f in os.listdir(catalog) if f.endswith(".manifest")}
                    if known == {"plain"} or now - known:
                        return k
                time.sleep(0.02)
            with open(marker, "w") as said:
                said.write("plain")  # the test says so
            return k

        return wait

    def manifests(self) -> set[str]:
        return {manifest.name for manifest in self.catalog.glob("*.manifest")}

    def shuffled(self) -> DataFrame:
        return self.spark.sql(SHUFFLED)

    def named(self, sql: str) -> DataFrame:
        self.shuffled().createOrReplaceTempView("shuffled")
        return self.spark.sql(sql)

    def cached(self) -> DataFrame:
        kept = (
            self.shuffled().select(long(same)("k").alias("k"), sf.col("s").alias("other")).cache()
        )
        return (
            self.shuffled().join(kept, "k").select("k", (sf.col("s") + sf.col("other")).alias("s"))
        )

    def written(self) -> DataFrame:
        where = str(self.folder / f"written-{time.monotonic_ns()}")
        waited = self.shuffled().select(self.after_commit("k").alias("k"), "s")
        waited.write.parquet(where)
        return self.spark.read.parquet(where)

    def cases(self) -> dict[str, Callable[[], DataFrame]]:
        shuffled = self.shuffled
        vector = sf.pandas_udf(series, "long")  # type: ignore[call-overload]
        total = sf.pandas_udf(summed, "long")  # type: ignore[call-overload]
        arrays = sf.arrow_udf(summed_array, "long")
        by_k = Window.partitionBy("k")
        lateral = "select k, s + again as s from shuffled, lateral {}(k)"

        def pair() -> tuple[Any, Any]:
            return shuffled().groupBy("k"), shuffled().groupBy("k")

        def sequence() -> DataFrame:
            # Where a row stands in a sequence depends on the order of the rows.
            numbered = shuffled().pandas_api().to_spark(index_col="place")
            return numbered.groupBy().agg(sf.sum("place").alias("k"), sf.sum("s").alias("s"))

        return {
            "BatchEvalPython": lambda: shuffled().select(
                long(same, useArrow=False)("k").alias("k"), "s"
            ),
            "ArrowEvalPython": lambda: shuffled().select(vector("k").alias("k"), "s"),
            "MapInPandas": lambda: shuffled().mapInPandas(batches, SCHEMA),
            "MapInArrow": lambda: shuffled().mapInArrow(batches, SCHEMA),
            "FlatMapGroupsInPandas": lambda: shuffled().groupBy("k").applyInPandas(frame, SCHEMA),
            "FlatMapGroupsInArrow": lambda: shuffled().groupBy("k").applyInArrow(same, SCHEMA),
            "FlatMapCoGroupsInPandas": lambda: (
                pair()[0].cogroup(pair()[1]).applyInPandas(left, SCHEMA)
            ),
            "FlatMapCoGroupsInArrow": lambda: (
                pair()[0].cogroup(pair()[1]).applyInArrow(left, SCHEMA)
            ),
            "ArrowAggregatePython": lambda: (
                shuffled().groupBy("s").agg(total("k").alias("k")).select("k", "s")
            ),
            "ArrowAggregatePython over arrays": lambda: (
                shuffled().groupBy("s").agg(arrays("k").alias("k")).select("k", "s")
            ),
            "ArrowWindowPython": lambda: shuffled().select("k", total("s").over(by_k).alias("s")),
            "BatchEvalPythonUDTF": lambda: self.named(lateral.format("twice")),
            "ArrowEvalPythonUDTF": lambda: self.named(lateral.format("twice_arrow")),
            "AttachDistributedSequence": sequence,
            "Generate": lambda: shuffled().select(
                "k", sf.explode(sf.sequence("s", sf.col("s") + 2)).alias("s")
            ),
            "TakeOrderedAndProject": lambda: shuffled().orderBy("k").limit(5),
            "GlobalLimit": lambda: shuffled().limit(1000),
            "Sample": lambda: shuffled().sample(fraction=1.0, seed=1),
            "Expand": lambda: shuffled().rollup("k").agg(sf.sum("s").alias("s")),
            "CollectMetrics": lambda: shuffled().observe("seen", sf.count(sf.lit(1)).alias("n")),
            "Subquery": lambda: self.named(
                "select k, s from shuffled where s >= (select min(s) from shuffled)"
            ),
            "InMemoryTableScan": self.cached,
            "Union": lambda: shuffled().union(shuffled().select(vector("k").alias("k"), "s")),
            "Write": self.written,
        }

    def run(self, make: Callable[[], DataFrame], mode: str) -> dict[str, Any]:
        self.spark.conf.set("spark.phoebe.mode", mode)
        before = self.manifests()
        self.marker.write_text("\n".join(before or {"none"}) if mode == "apply" else "plain")
        # A pending exchange stands above what is user code, and a task that waits above that.
        asked = make().groupBy("k", "s").count()
        asked = asked.select(self.after_commit("k").alias("k"), "s", "count")
        found = sorted([list(row) for row in asked.collect()], key=repr)
        deadline = time.monotonic() + 10
        while mode == "apply" and len(self.manifests() - before) < 2:
            if time.monotonic() > deadline:
                break
            time.sleep(0.05)
        jvm: Any = self.spark._jvm
        explain = jvm.org.apache.spark.sql.api.python.PythonSQLUtils.explainString
        plan = explain(asked._jdf.queryExecution(), "simple")
        names = sorted(set(re.findall(r"(?m)^[^A-Z]*([A-Z]\w+)", plan)))
        return {"rows": found, "committed": len(self.manifests() - before), "operators": names}


def main(path: Path) -> int:
    spec = json.loads(path.read_text())
    app = App(spec)
    said: dict[str, Any] = {}
    for name, make in app.cases().items():
        said[name] = {"plain": app.run(make, "off"), "forced": app.run(make, "apply")}
        app.spark.catalog.clearCache()
    counts = phoebe_spark.status(app.spark)["counts"]
    Path(spec["result"]).write_text(json.dumps({"cases": said, "counts": counts}))
    app.spark.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
