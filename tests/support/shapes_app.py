"""A PySpark application of many shapes: ``shapes_app.py SPEC.json``.

It does the same whether its checkpoints are written, restored, or the plugin is not there: for each
of the spec's ``shapes`` the rows go to ``result``; the job description is the shape's name. The
tables (``write_tables``) and the module that user functions call are made beforehand.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
from pyspark.sql import DataFrame, SparkSession, functions
from pyspark.sql.pandas.functions import pandas_udf

from tests.support.safety_app import SKEW, rows
from tests.support.traps import TRAPS

KEYS = 50
FACT_ROWS = 6000

NO_COALESCING = {"spark.sql.adaptive.coalescePartitions.enabled": "false"}
BROADCAST_LATE = {**NO_COALESCING, "spark.sql.adaptive.autoBroadcastJoinThreshold": "10MB"}
BLOOM = {
    "spark.sql.optimizer.runtime.bloomFilter.enabled": "true",
    "spark.sql.optimizer.runtime.bloomFilter.creationSideThreshold": "10MB",
    "spark.sql.optimizer.runtime.bloomFilter.applicationSideScanSizeThreshold": "1",
}

SQL: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "window": (
        """
        select k, w, s, max(s) over (partition by w) as most, sum(s) over (partition by w) as total
        from (select k, w, sum(v) as s from fact group by k, w)
        """,
        {},
    ),
    "subqueries": (
        """
        with t as (select k, sum(v) as s from fact group by k)
        select k, s from t
        where s > (select avg(s) from t) and k in (select k from dim where x < 7)
        """,
        {},
    ),
    "skew_join": (
        """
        select f.k, f.v, f.w, d.x from skewed f join dim d on f.k = d.k
        where (f.v + d.x) % 50 = 0
        """,
        SKEW,
    ),
    # More map tasks than reducers: each task of a local reader takes whole map outputs.
    "local_reader_of_many_maps": (
        "select f.k, f.v, d.name from skewed f join dim d on f.k = d.k where f.v % 100 = 0",
        BROADCAST_LATE,
    ),
    # Fewer: each takes some partitions of one map output.
    "local_reader_of_few_maps": (
        "select f.k, f.v, d.name from fact f join dim d on f.k = d.k where f.v % 10 = 0",
        BROADCAST_LATE,
    ),
    # The pruned scan is above the boundary that is restored, and pruned by its rows ...
    "dynamic_pruning_by_restored_rows": (
        """
        select /*+ broadcast(d) */ f.p, f.v, d.n
        from parts f join (select x as p, count(*) as n from dim where k < 4 group by x) d
        on f.p = d.p
        """,
        {},
    ),
    # ... and below it.
    "dynamic_pruning_below": (
        """
        select /*+ broadcast(d) */ f.w, sum(f.v) as s from parts f join dim d on f.p = d.k
        where d.name like 'n1%' group by f.w
        """,
        {},
    ),
    "bloom_filter": (
        """
        select f.k, f.v, d.name from skewed f join dim d on f.k = d.k
        where d.name like 'n1%' and f.v % 50 = 0
        """,
        BLOOM,
    ),
    # One side runs user code, so it is computed again; what it is filtered by is restored.
    "bloom_filter_of_restored_rows": (
        """
        select f.k, f.o, d.name
        from (select k, python_half(v) as o from skewed where v % 50 = 0) f
        join dim d on f.k = d.k where d.name like 'n1%'
        """,
        BLOOM,
    ),
    "python_udf": (
        """
        select python_half(s) as h, count(*) as n
        from (select k, sum(v) as s from fact group by k) group by 1
        """,
        {"spark.sql.execution.pythonUDF.arrow.enabled": "false"},
    ),
    "pandas_udf": (
        """
        select pandas_half(s) as h, count(*) as n
        from (select k, sum(v) as s from fact group by k) group by 1
        """,
        {},
    ),
    "delta": ("select k, sum(v) as s, count(*) as n from changed group by k", {}),
}

DAYS = "select date(timestamp_seconds(v * 3600)) as day, count(*) as n from fact group by 1"
ZONES = ("UTC", "UTC", "Asia/Tokyo")


def write_tables(folder: Path) -> None:
    """The tables, as files that any run finds unchanged; ``skewed`` has eight, ``fact`` two."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from deltalake import write_deltalake

    def write(name: str, files: int, columns: Mapping[str, list[Any]]) -> None:
        table = pa.table(dict(columns))
        (folder / name).mkdir(parents=True)
        step = -(-table.num_rows // files)
        for n in range(files):
            pq.write_table(table.slice(n * step, step), folder / name / f"{n}.parquet")

    ids = list(range(FACT_ROWS))
    fact = {"k": [i % KEYS for i in ids], "v": [i % 97 for i in ids], "w": [i % 7 for i in ids]}
    write("fact", 2, fact)
    keys = list(range(KEYS))
    write("dim", 1, {"k": keys, "x": [k % 10 for k in keys], "name": [f"n{k}" for k in keys]})
    ids = list(range(20000))
    rng = random.Random(20210711)
    skewed = [1 if i % 10 < 9 else rng.randrange(KEYS) for i in ids]
    write("skewed", 8, {"k": skewed, "v": ids, "w": [i % 7 for i in ids]})
    ids = list(range(100))
    for p in range(10):
        write(f"parts/p={p}", 1, {"v": [p * 100 + i for i in ids], "w": [i % 3 for i in ids]})
    for n in range(2):
        half = {name: column[n::2] for name, column in fact.items()}
        write_deltalake(folder / "changed", pa.table(half), mode="append")


class App:
    """The session with its tables, and the module whose functions are called in UDFs."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self.folder = Path(spec["tables"])
        self.spark = SparkSession.builder.appName("shapes").getOrCreate()
        self.spark.sparkContext.setLogLevel("WARN")
        for place in self.folder.iterdir():
            if place.name != "changed" or "delta" in spec["shapes"]:
                self.register(self.spark, place.name)
        self.spark.sparkContext.addPyFile(spec["module"])
        from halving import half  # type: ignore[import-not-found]

        def halves(column: pd.Series) -> pd.Series:
            return column.map(half)

        vectorised = pandas_udf(halves, "long")  # type: ignore[call-overload]
        self.spark.udf.register("python_half", half, "long")
        self.spark.udf.register("pandas_half", vectorised)

    def register(self, spark: SparkSession, name: str) -> None:
        place = self.folder / name
        form = "delta" if (place / "_delta_log").exists() else "parquet"
        spark.read.format(form).load(str(place)).createOrReplaceTempView(name)

    def sql(self, name: str) -> list[list[Any]]:
        text, conf = SQL[name]
        for key, value in conf.items():
            self.spark.conf.set(key, value)
        try:
            return rows(self.spark.sql(text))
        finally:
            for key in conf:
                self.spark.conf.unset(key)


def cached(app: App) -> list[list[Any]]:
    """What a cache was filled from, then what reads the cache, shuffled."""
    frame: DataFrame = app.spark.sql("select k, sum(v) as s from fact group by k")
    found = rows(frame)
    frame.cache()
    try:
        return found + rows(frame.groupBy((functions.col("s") % 10).alias("d")).count())
    finally:
        frame.unpersist(blocking=True)


def sessions(app: App) -> list[list[Any]]:
    """One query in three sessions at once; one of them is in another time zone."""

    def one(zone: str) -> list[list[Any]]:
        session = app.spark.newSession()
        app.register(session, "fact")
        session.conf.set("spark.sql.session.timeZone", zone)
        session.sparkContext.setJobDescription("sessions")
        return [[zone, str(day), n] for day, n in rows(session.sql(DAYS))]

    with ThreadPoolExecutor(len(ZONES)) as pool:
        return [row for found in pool.map(one, ZONES) for row in found]


OTHERS: Mapping[str, Callable[[App], list[list[Any]]]] = {"cached": cached, "sessions": sessions}


def main(path: Path) -> int:
    spec = json.loads(path.read_text())
    app = App(spec)
    said = {}
    for name in spec["shapes"]:
        app.spark.sparkContext.setJobDescription(name)
        if name in TRAPS:
            said[name] = TRAPS[name].run(app.spark)
        else:
            said[name] = OTHERS[name](app) if name in OTHERS else app.sql(name)
    Path(spec["result"]).write_text(json.dumps(said))
    app.spark.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
