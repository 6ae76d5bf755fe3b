"""Queries that broke others who change plans, shuffles or caches: one for each public bug report.

``shapes_app.py`` runs them over its tables, plain, written and restored.
Each returns rows, which may not depend on which it is.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from pyspark.sql import DataFrame, Observation, SparkSession, Window, functions

Rows = list[list[Any]]
NO_COALESCING = {"spark.sql.adaptive.coalescePartitions.enabled": "false"}
SMALL_PARTS = {
    "spark.sql.adaptive.advisoryPartitionSizeInBytes": "2k",
    "spark.sql.adaptive.rebalancePartitionsSmallPartitionFactor": "0.01",
}
LATE_BROADCAST = {**NO_COALESCING, "spark.sql.adaptive.autoBroadcastJoinThreshold": "10MB"}


@dataclass(frozen=True)
class Trap:
    """``report``: where it happened to others. ``restores``: a boundary of it is restored; the rest
    is refused for what the report is about."""

    report: str
    run: Callable[[SparkSession], Rows]
    restores: bool = True


@contextmanager
def _set(spark: SparkSession, conf: Mapping[str, str]) -> Iterator[None]:
    for key, value in conf.items():
        spark.conf.set(key, value)
    try:
        yield
    finally:
        for key in conf:
            spark.conf.unset(key)


def _rows(frame: DataFrame) -> Rows:
    return sorted([list(r) for r in frame.collect()], key=repr)


def _sql(text: str, conf: Mapping[str, str] | None = None, *, ordered: bool = False) -> Any:
    def run(spark: SparkSession) -> Rows:
        with _set(spark, conf or {}):
            frame = spark.sql(text)
            return [list(r) for r in frame.collect()] if ordered else _rows(frame)

    return run


def _join_of_caches(spark: SparkSession) -> Rows:
    """The last shuffle of a cached plan is coalesced, and the cache says what it is hashed by."""
    edges = spark.sql("select k, sum(v) as v from fact group by k, w").repartition("k").persist()
    least = edges.groupBy("k").agg(functions.min("v").alias("least")).persist()
    try:
        edges.count()
        joined = edges.join(least, "k")
        return [[joined.groupBy("k").count().count()], *_rows(joined.groupBy("k").count())]
    finally:
        least.unpersist(blocking=True)
        edges.unpersist(blocking=True)


def _observed(spark: SparkSession) -> Rows:
    """What is observed below a boundary has to be counted, once, whether it is restored or not."""
    below, above = Observation("below"), Observation("above")
    count = functions.count(functions.lit(1)).alias("n")
    frame = spark.table("fact").observe(below, count).groupBy("k").agg(functions.sum("v"))
    found = _rows(frame.observe(above, count))
    return [[below.get["n"], above.get["n"]], *found]


def _increasing_ids(spark: SparkSession) -> Rows:
    """Ids that depend on the place of a row, joined with themselves: unique, and the same twice."""
    frame = (
        spark.table("fact")
        .repartition(3, "k")
        .withColumn("id", functions.monotonically_increasing_id())
    )
    other = frame.select("id", functions.col("k").alias("k2"), functions.col("v").alias("v2"))
    joined = frame.join(other, "id")
    same = joined.where("k = k2 and v = v2").count()
    return [[frame.select("id").distinct().count(), joined.count(), same]]


def _two_actions(spark: SparkSession) -> Rows:
    """A merge reads its source twice; which of equal rows is kept has to be the same both times."""
    order = Window.partitionBy("k").orderBy("w")
    kept = (
        spark.table("fact")
        .withColumn("n", functions.row_number().over(order))
        .where("n = 1")
        .select("k", "v", "w")
    )
    touched = {tuple(r) for r in kept.collect()}
    again = {tuple(r) for r in kept.groupBy("k", "v", "w").count().select("k", "v", "w").collect()}
    return [[len(touched), len(touched - again), len(again - touched)]]


def _sorted_files(spark: SparkSession) -> Rows:
    """Files of a partitioned table keep the order that was asked for within each partition."""
    with tempfile.TemporaryDirectory() as folder:
        frame = spark.sql("select k, w, sum(v) as v from fact group by k, w")
        frame = frame.repartition(3, "w").sortWithinPartitions("w", "v", "k")
        frame.write.partitionBy("w").mode("overwrite").parquet(f"{folder}/out")
        found = []
        for part in sorted(Path(folder, "out").rglob("*.parquet")):
            table = spark.read.parquet(str(part))
            values = [(r.v, r.k) for r in table.collect()]
            found.append([part.parent.name, len(values), values == sorted(values)])
        return sorted(found)


def _half_read(spark: SparkSession) -> Rows:
    """An iterator over a result is dropped half-way; the same result is asked for again."""
    frame = spark.sql("select k, w, sum(v) as s from fact group by k, w")
    some = list(islice(frame.toLocalIterator(), 3))
    indexed = frame.rdd.zipWithIndex().map(lambda pair: pair[1])
    return [[len(some), frame.count(), indexed.count(), indexed.max()], *_rows(frame)]


def _pandas_twice(spark: SparkSession) -> Rows:
    """A result goes to pandas through Arrow, is cached after that, and goes there again."""
    with _set(spark, {"spark.sql.execution.arrow.pyspark.enabled": "true"}):
        frame = spark.sql("select k, count(*) as n, sum(v) as s from fact group by k")
        first = frame.toPandas()
        frame.cache()
        try:
            second = frame.toPandas()
        finally:
            frame.unpersist(blocking=True)
        columns = ["k", "n", "s"]
        same = first.sort_values("k")[columns].values.tolist()
        return [[same == second.sort_values("k")[columns].values.tolist()], *same]


def _rewritten_while_cached(spark: SparkSession) -> Rows:
    """A cached read of files that are written anew: what Spark says is what counts."""
    with tempfile.TemporaryDirectory() as folder:
        source = spark.sql("select k, sum(v) as s from fact group by k")
        source.write.parquet(f"{folder}/t")
        frame = spark.read.parquet(f"{folder}/t").groupBy("k").agg(functions.max("s").alias("s"))
        frame.cache()
        try:
            before = _rows(frame)
            spark.sql("select k, sum(v) + 1000 as s from fact where k < 30 group by k").write.mode(
                "overwrite"
            ).parquet(f"{folder}/t")
            return [[len(before), frame.count()], *_rows(frame)]
        finally:
            frame.unpersist(blocking=True)


TRAPS: Mapping[str, Trap] = {
    # A shuffle that told a wrong number of rows made Spark drop a sort.
    "sort_of_one_row": Trap(
        "apache/gluten#2115",
        _sql(
            """
            select w as a, lead(count(distinct k), -1) over (order by w) as b
            from (select k, v % 7 as w from fact where v % 7 < 5)
            group by w order by w desc limit 20
            """,
            ordered=True,
        ),
    ),
    # Empty input still gives a row where there are no groups.
    "nothing_is_one_row": Trap(
        "SPARK-56842",
        _sql(
            """
            select d.k, d.x from dim d where d.x < 3 and exists
              (select 1 from (select count(*) as n, max(s) as m from
                (select k, sum(v) as s from fact where v > 1000 group by k)) e where e.n >= 0)
            """
        ),
    ),
    "anti_join_over_nothing": Trap(
        "SPARK-48155",
        _sql(
            """
            select t3.x, count(t3.k) from (select k, x from dim) t1
            join (select k, sum(v) as v from fact where v = 0 group by k
                  union all select k, sum(v) as v from fact where v != 0 group by k) t2
              on t1.k = t2.k and t1.x = 1000
            right join dim t3 on t1.x > t3.x
            where t3.k not in (select k from dim where x > 1000) group by t3.x
            """,
            LATE_BROADCAST,
        ),
    ),
    # Two reads of one table that differ in their filters alone were taken for one.
    "two_filters_of_one_table": Trap(
        "apache/datafusion-comet#4812",
        _sql(
            """
            select a.k, a.s as s30, b.s as s60, c.s as s90
            from (select k, sum(v) as s from fact where v < 30 group by k) a
            full outer join (select k, sum(v) as s from fact where v < 60 group by k) b on a.k = b.k
            full outer join (select k, sum(v) as s from fact where v < 90 group by k) c on a.k = c.k
            union all select k, sum(v), null, null from fact where v < 30 group by k
            union all select k, null, sum(v), null from fact where v < 60 group by k
            """
        ),
    ),
    "anti_join_beside_semi_join": Trap(
        "apache/datafusion-comet#2667",
        _sql(
            """
            select d.x, count(*) as n, max(d.name) as m from dim d
            where exists (select * from fact f where f.k = d.k and f.v between 10 and 20)
              and not exists (select * from fact f where f.k = d.k + 40 and f.v between 90 and 91)
              and not exists (select * from skewed s where s.k = d.k and s.v between 90 and 91)
            group by d.x
            """
        ),
    ),
    # A scalar subquery that was pushed into a scan ran twice, or was compared by its name alone.
    "scalar_subquery_in_a_scan": Trap(
        "apache/datafusion-comet#4053",
        _sql(
            """
            select 'low' as c, w, count(*) from fact
            where v < (select max(x) * 5 from dim where k < 10) group by w
            union all select 'high', w, count(*) from fact
            where v < (select max(x) * 8 from dim where k < 10) group by w
            """
        ),
    ),
    # Readers of a part of the map outputs got all of them: rows came several times.
    "rebalanced_skew": Trap(
        "apache/auron#975",
        _sql(
            "select /*+ rebalance(k) */ k, v, w from skewed where v % 4 = 0",
            {
                **SMALL_PARTS,
                "spark.sql.adaptive.optimizeSkewsInRebalancePartitions.enabled": "true",
            },
        ),
    ),
    "local_reader_of_few_rows": Trap(
        "uber/RemoteShuffleService#99",
        _sql(
            """
            select f.k, f.v, d.name from fact f join
              (select k, max(name) as name from dim where x = 1 group by k) d
            on f.k = d.k where f.v > 95
            """,
            LATE_BROADCAST,
        ),
    ),
    "constant_counted_in_two_phases": Trap(
        "apache/auron#1626", _sql("select 1 as c, w, count(1) as n from fact group by 1, w")
    ),
    "round_robin_below_a_sum": Trap(
        "SPARK-23207",
        _sql(
            """
            select k, sum(v) as s, count(*) as n from
              (select /*+ repartition(5) */ k, v from skewed where v % 3 = 0) group by k
            """
        ),
    ),
    "join_of_caches": Trap("SPARK-45592", _join_of_caches, restores=False),
    "observed": Trap("SPARK-58183", _observed, restores=False),
    "increasing_ids": Trap("NVIDIA/cudf-spark#14169", _increasing_ids),
    "two_actions": Trap("delta-io/delta#1418", _two_actions, restores=False),
    "sorted_files": Trap("SPARK-40588", _sorted_files),
    "half_read": Trap("SPARK-25341", _half_read),
    "pandas_twice": Trap("delta-io/delta#2011", _pandas_twice),
    "rewritten_while_cached": Trap("delta-io/delta#3954", _rewritten_while_cached),
}
