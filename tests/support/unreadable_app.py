"""A PySpark application whose checkpoints cannot be read when it restores them:
``unreadable_app.py SPEC.json``.

It runs each case without and with the plugin, and says in ``result`` whether the rows are the same.
The first application writes the checkpoints, the second one restores them. There, each query of
``SQL`` is read again from the same plan when a byte in each ``harm`` bytes has changed of all that
it restored.
"""

from __future__ import annotations

import gc
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pyspark.sql import DataFrame, SparkSession

import phoebe_spark

ROWS, KEYS = 6000, 40
NO_COALESCING = {"spark.sql.adaptive.coalescePartitions.enabled": "false"}
SKEW = {
    **NO_COALESCING,
    "spark.sql.adaptive.skewJoin.skewedPartitionFactor": "1.1",
    "spark.sql.adaptive.skewJoin.skewedPartitionThresholdInBytes": "2k",
    "spark.sql.adaptive.advisoryPartitionSizeInBytes": "2k",
}
BROADCAST = {"spark.sql.autoBroadcastJoinThreshold": "10MB"}
LATE = {**NO_COALESCING, "spark.sql.adaptive.autoBroadcastJoinThreshold": "10MB"}

SQL: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "sums": ("select k, sum(v) as s, count(*) as n from fact group by k", NO_COALESCING),
    "coalesced": ("select k, sum(v) as s from fact where v > 1 group by k", {}),
    "joined": (
        """
        select d.name, sum(f.s) as s from (select k, w, sum(v) as s from fact group by k, w) f
        join dim d on f.k = d.k group by d.name
        """,
        NO_COALESCING,
    ),
    # The original input has a broadcast, a subquery and pruning of its own.
    "broadcast_below": (
        """
        select d.name, count(*) as n from fact f join dim d on f.k = d.k
        where f.v > (select avg(v) from fact where k < 20) group by d.name
        """,
        {**NO_COALESCING, **BROADCAST},
    ),
    "pruned_below": (
        """
        select f.w, sum(f.v) as s from parts f join dim d on f.p = d.k where d.name like 'n1%'
        group by f.w
        """,
        {**NO_COALESCING, **BROADCAST},
    ),
    "sorted": ("select k, v from fact where v % 7 = 0 order by v, k", NO_COALESCING),
    "round_robin": ("select /*+ repartition(5) */ k, v from fact where v % 5 = 0", NO_COALESCING),
    "doubles": ("select k, sum(v / 3.0D) > 1e9 as s from fact group by k", NO_COALESCING),
    "windows": (
        "select k, v, row_number() over (partition by k order by v, w) as r from fact",
        NO_COALESCING,
    ),
    "skewed": (
        "select f.k, f.v, d.x from skewed f join dim d on f.k = d.k where f.v % 9 = 0", SKEW,
    ),
    "local_reader": (
        "select f.k, f.v, d.name from skewed f join dim d on f.k = d.k where f.v % 10 = 0", LATE,
    ),
    "twice": (
        """
        with t as (select k, sum(v) as s, count(*) as n from fact where v > 2 group by k)
        select a.k, a.s, b.n from t a join t b on a.k = b.n % 40
        """,
        NO_COALESCING,
    ),
    "subquery": (
        """
        with t as (select k, sum(v) as s from fact where v > 3 group by k)
        select k, s from t where s > (select min(s) + 10 from t) and k in (select k from dim)
        """,
        NO_COALESCING,
    ),
    "many": (
        " union all ".join(
            f"select k, {i} as i, sum(v) as s from fact where v > {10 + i} group by k"
            for i in range(7)
        ),
        NO_COALESCING,
    ),
    "top": (
        "select k, sum(v) as s from fact where v > 5 group by k order by s desc, k limit 5",
        NO_COALESCING,
    ),
}  # fmt: skip


def write_tables(spark: SparkSession, folder: Path) -> None:
    ids = spark.range(0, ROWS, 1, 4)
    fact = ids.selectExpr(f"id % {KEYS} as k", "id % 977 as v", "id % 7 as w")
    fact.write.parquet(str(folder / "fact"))
    spark.range(0, KEYS, 1, 1).selectExpr(
        "id as k", "id % 10 as x", "concat('n', id) as name"
    ).write.parquet(str(folder / "dim"))
    spark.range(0, 20000, 1, 6).selectExpr(
        f"case when id % 10 < 9 then 1 else id % {KEYS} end as k", "id as v"
    ).write.parquet(str(folder / "skewed"))
    ids.selectExpr("id % 20 as p", "id as v", "id % 3 as w").repartition(1).write.partitionBy(
        "p"
    ).parquet(str(folder / "parts"))


def flip(pack: Path, every: int) -> None:
    """Changes a byte in each ``every`` of a pack's runs; footer and length stay what they were."""
    footer = footer_offset(pack)
    content = bytearray(pack.read_bytes())
    at = range(min(every, footer) // 2, footer, every)
    for i in at:
        content[i] ^= 0x55
    pack.write_bytes(content)


def footer_offset(pack: Path) -> int:
    store = pack.parents[3]
    manifest = store / "catalog" / f"{pack.parents[1].name}-{pack.parent.name}.manifest"
    packs = json.loads(manifest.read_bytes())["packs"]
    return next(int(p["footer_offset"]) for p in packs if p["file"] == pack.name)


def rows(frame: DataFrame) -> list[Any]:
    return sorted((list(r) for r in frame.collect()), key=repr)


class App:
    def __init__(self, spec: dict[str, Any]) -> None:
        self.spec = spec
        self.spark = SparkSession.builder.appName("unreadable").getOrCreate()
        self.spark.sparkContext.setLogLevel(spec.get("log", "WARN"))
        folder = Path(spec["tables"])
        if not folder.exists():
            with self.conf({"spark.phoebe.mode": "off"}):
                write_tables(self.spark, folder)
        for table in folder.iterdir():
            self.spark.read.parquet(str(table)).createOrReplaceTempView(table.name)

    @contextmanager
    def conf(self, settings: Mapping[str, str]) -> Iterator[None]:
        before = {key: self.spark.conf.get(key, None) for key in settings}
        for key, value in settings.items():
            self.spark.conf.set(key, value)
        try:
            yield
        finally:
            for key, value in before.items():
                if value is None:
                    self.spark.conf.unset(key)
                else:
                    self.spark.conf.set(key, value)

    def counts(self) -> dict[str, int]:
        return dict(phoebe_spark.status(self.spark)["counts"])

    def readers(self) -> set[Path]:
        """What says that an application has restored a checkpoint."""
        return set(Path(self.spec["store"]).glob("catalog/*.reader-*"))

    def restored(self, before: set[Path]) -> set[Path]:
        """Data directories of the checkpoints that were restored since then."""
        names = {file.name.partition(".reader-")[0] for file in self.readers() - before}
        return {Path(self.spec["store"]) / "data" / Path(*name.rsplit("-", 1)) for name in names}

    def twice(self, text: str) -> list[Any]:
        """The rows of a query, and once more when what it has restored is harmed."""
        before = self.readers()
        frame = self.spark.sql(text)
        found = rows(frame)
        for checkpoint in self.restored(before):
            for pack in checkpoint.glob("*.pack"):
                flip(pack, self.spec["harm"])
        return [found, rows(frame)]

    def run(self, name: str) -> dict[str, Any]:
        """A case without the plugin, then with it, and what became of restored boundaries."""
        self.spark.sparkContext.setJobDescription(name)
        case = CASES.get(name)
        text, conf = SQL.get(name, ("", {}))

        def once() -> Any:
            if case is not None:
                return case(self)
            with self.conf(conf):
                return self.twice(text)

        with self.conf({"spark.phoebe.mode": "off"}):
            expected = once()
        before = self.counts()
        said: dict[str, Any] = {"error": None, "same": False}
        try:
            found = once()
            said["same"] = found == expected
            if found != expected:
                said["found"], said["expected"] = str(found)[:2000], str(expected)[:2000]
        except Exception as e:
            said["error"] = f"{type(e).__name__}: {e}"[:4000]
        after = self.counts()
        for what in ("checkpoints.restored", "checkpoints.damaged"):
            said[what] = after.get(what, 0) - before.get(what, 0)
        return said


def _frame(app: App, least: int) -> DataFrame:
    return app.spark.sql(
        f"""
        select s.k, s.w, s.s, m.m from (
          select k, w, sum(v) as s from fact where v >= {least} group by k, w
        ) s join (select k, max(v) as m from fact group by k) m on s.k = m.k
        """
    )


def after_the_query(app: App) -> list[Any]:
    """Rows that are read when the execution of their plan has ended, and Spark has cleaned up."""
    frame = _frame(app, 0)
    said = [rows(frame), frame.rdd.count(), rows(frame)]
    other = _frame(app, 1)
    said += [other.rdd.count(), rows(other)]
    lazy = _frame(app, 2).toLocalIterator()
    found = [next(lazy) for _ in range(5)]
    said.append(rows(_frame(app, 3)))
    gc.collect()
    return [*said, sorted((list(r) for r in [*found, *lazy]), key=repr)]


def lost_after_the_query(app: App) -> list[Any]:
    """The store is gone when rows are asked for again, in two threads at once, and yet again."""
    before = app.readers()
    frame = _frame(app, 4)
    said: list[Any] = [rows(frame)]
    for checkpoint in app.restored(before):
        shutil.rmtree(checkpoint)
    with ThreadPoolExecutor(2) as pool:
        counted = pool.submit(frame.rdd.count)
        said.append(rows(frame))
        said.append(counted.result())
    return [*said, rows(frame), frame.rdd.count()]


def in_order(app: App) -> list[Any]:
    """What a query without an order gives on one machine, run after run."""
    app.spark.range(0, 60, 1, 3).createOrReplaceTempView("ids")
    hint = "/*+ repartition(3, id) */"
    found = app.spark.sql(f"select {hint} id from ids").collect()
    listed = app.spark.sql(f"select collect_list(id) from (select {hint} id from ids)").collect()
    return [[r[0] for r in found], list(listed[0][0])]


def threads(jvm: Any) -> list[str]:
    """The plugin's threads that do not end by themselves in a few seconds."""
    deadline = time.monotonic() + 5
    while True:
        found = [thread.getName() for thread in jvm.Thread.getAllStackTraces().keySet()]
        ours = [name for name in found if "phoebe" in name]
        if not ours or time.monotonic() > deadline:
            return ours
        time.sleep(0.05)


CASES: dict[str, Callable[[App], Any]] = {
    "in_order": in_order,
    "after_the_query": after_the_query,
    "lost_after_the_query": lost_after_the_query,
}


def main(path: Path) -> int:
    spec = json.loads(path.read_text())
    app = App(spec)
    said = {}
    for name in [*CASES, *SQL]:
        said[name] = app.run(name)
        Path(spec["result"]).write_text(json.dumps(said, indent=1))
    jvm = app.spark._jvm
    app.spark.stop()
    again = App(spec)  # another context in the same process
    again.run("sums")
    again.spark.stop()
    Path(spec["threads"]).write_text(json.dumps(threads(jvm)))
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
