"""A PySpark application that does what real ones do, plain and with every boundary forced.

``safety_app.py SPEC.json``: writes what it saw, part by part, to the spec's ``result``. What must
be the same with and without checkpoints is returned for both; the tests compare.
"""

from __future__ import annotations

import gc
import json
import os
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from pyspark.sql import DataFrame, SparkSession

import phoebe_spark

JOINED = """
select f.k, d.name, sum(f.v) as s, count(*) as n
from fact f join dim d on f.k = d.k where f.v > 3 group by f.k, d.name order by f.k"""

QUERIES = {
    "aggregate": "select k, sum(v) as s, max(w) as m from fact group by k",
    "join": JOINED,
    "self_join": """
        with t as (select k, sum(v) as s from fact group by k)
        select a.k, a.s, b.s as other from t a join t b on a.k = b.k + 1""",
    "cte_twice": """
        with t as (select k, w, count(*) as n from fact group by k, w)
        select 'a' as which, sum(n) as n from t union all select 'b', max(n) from t""",
    "subquery": """
        select k, sum(v) as s from fact
        where v > (select avg(s) / 100 from (select k, sum(v) as s from fact group by k))
        group by k""",
    "in_subquery": """
        select w, count(*) as n from fact
        where k in (select k from fact group by k having sum(v) % 2 = 0) group by w""",
    "window": "select k, max(s) over (partition by w) as m from "
    "(select k, w, sum(v) as s from fact group by k, w)",
}

SKEW = {
    "spark.sql.adaptive.skewJoin.skewedPartitionFactor": "1.1",
    "spark.sql.adaptive.skewJoin.skewedPartitionThresholdInBytes": "2k",
    "spark.sql.adaptive.advisoryPartitionSizeInBytes": "2k",
    "spark.sql.adaptive.coalescePartitions.enabled": "false",
}
SKEWED = (
    "select f.w, d.k2, sum(f.v + d.x) as s from skewed f join dim2 d on f.k = d.k group by 1, 2"
)

# What lives on while files are freed: name to the boundaries that are forced and SQL. In each, a
# shuffle is read below a boundary that is checkpointed and by something else that runs later, or is
# asked for again. ``slow(value)`` costs time, task by task, and adds a constant.
GROUPED = "select k, w, sum(v) as s from live group by k, w"
LIVE = {
    "reuse": (
        "e0,e2",
        f"""
        with t as ({GROUPED})
        select a.k, slow(a.s + b.s) as s from
        (select k, max(s) as s from t group by k) a join
        (select k, sum(slow(s)) as s from t group by k) b on a.k = b.k""",
    ),
    "self_join": (
        "e1",
        """
        with t as (select k, sum(v) as s from live group by k)
        select a.k, slow(a.s + b.s) as s from t a join t b on a.k = b.k + 1""",
    ),
    "cte": (
        "e0,e2",
        f"""
        with t as ({GROUPED})
        select 'a' as which, k, slow(max(s)) as s from t group by k
        union all select 'b', w, sum(slow(s)) from t group by w""",
    ),
    "subquery": (
        "e1",
        f"""
        with t as ({GROUPED})
        select k, slow(s) as s from (
          select /*+ REPARTITION(8, k) */ k, sum(s) as s from t
          where s > (select avg(slow(m)) / 1000000 from (select k, max(s) as m from t group by k))
          group by k)""",
    ),
    "twice": ("e0", f"select k, slow(max(s)) as s from ({GROUPED}) group by k"),
    "cached": (
        "e1",
        """
        select c.k, slow(c.s + b.s) as s from (select k, sum(s) as s from cached group by k) c join
        (select k, max(s) as s from (select k, v, sum(w) as s from live group by k, v) group by k) b
        on c.k = b.k""",
    ),
    "cached_too": (
        "e1",
        """
        select c.k, slow(c.s - b.s) as s from (select k, max(s) as s from cached group by k) c join
        (select k, min(s) as s from (select v, k, sum(w) as s from live group by v, k) group by k) b
        on c.k = b.k""",
    ),
}
LIVE_CONF = {
    "spark.sql.shuffle.partitions": "8",
    "spark.sql.adaptive.coalescePartitions.enabled": "false",
}


class App:
    """The session and what is asked of its JVM."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self.spec = spec
        self.spark = SparkSession.builder.appName("safety").getOrCreate()
        self.spark.sparkContext.setLogLevel("WARN")
        self.jvm: Any = self.spark._jvm
        folder = Path(spec["folder"]) / "tables"
        frames = {
            "fact": self.spark.range(0, 6000, 1, 4).selectExpr(
                "id % 50 as k", "id % 97 as v", "id % 7 as w"
            ),
            "dim": self.spark.range(50).selectExpr("id as k", "concat('n', id) as name"),
            "live": self.spark.range(0, 24000, 1, 4).selectExpr(
                "id % 400 as k", "id % 97 as v", "id % 800 as w"
            ),
            "skewed": self.spark.range(0, 20000, 1, 8).selectExpr(
                "if(id % 10 < 9, 1, id % 50) as k", "id as v", "id % 7 as w"
            ),
            "dim2": self.spark.range(50).selectExpr("id as k", "id % 3 as k2", "id as x"),
        }
        for name, frame in frames.items():
            frame.write.mode("overwrite").parquet(str(folder / name))
            self.register(self.spark, name, folder / name)
        self.tables = {name: folder / name for name in frames}

    @staticmethod
    def register(spark: SparkSession, name: str, place: Path) -> None:
        spark.read.parquet(str(place)).createOrReplaceTempView(name)

    def set(self, forced: bool, spark: SparkSession | None = None) -> None:
        conf = (spark or self.spark).conf
        conf.set("spark.phoebe.mode", "apply" if forced else "off")
        conf.set("spark.phoebe.force", "all" if forced else "none")

    def counts(self) -> dict[str, int]:
        counts: dict[str, int] = phoebe_spark.status(self.spark)["counts"]
        return counts

    def settled(self, timeout_s: float = 60) -> None:
        """Waits until all uploads have ended: the store and the counters stand still."""
        last, since = None, time.monotonic()
        deadline = since + timeout_s
        while time.monotonic() < deadline:
            now = (self.stored(), self.counts())
            if now != last:
                last, since = now, time.monotonic()
            elif time.monotonic() - since > 1.5:
                return
            time.sleep(0.1)
        raise TimeoutError("the store does not come to rest")

    def stored(self) -> int:
        # What is listed may be removed meanwhile.
        return sum(len(files) for _, _, files in os.walk(self.spec["store"]))

    def both(self, run: Callable[[], Any]) -> dict[str, Any]:
        """What ``run`` returns plain and forced, and how many checkpoints that committed."""
        self.set(False)
        plain = run()
        self.settled()
        before = self.counts().get("checkpoints.committed", 0)
        self.set(True)
        forced = run()
        self.settled()
        self.set(False)
        committed = self.counts().get("checkpoints.committed", 0) - before
        return {"plain": plain, "forced": forced, "committed": committed}


def rows(frame: DataFrame) -> list[list[Any]]:
    return sorted([list(r) for r in frame.collect()], key=repr)


def final_plan(frame: DataFrame) -> str:
    """The final plan with the statistics of its stages, without ids."""
    jvm: Any = frame.sparkSession._jvm
    explain = jvm.org.apache.spark.sql.api.python.PythonSQLUtils.explainString
    text: str = explain(frame._jdf.queryExecution(), "formatted").split("== Initial Plan ==")[0]
    return re.sub(r"#\d+L?|plan_id=\d+|, \[id=#?\d+\]", "", text)


def exchanges(app: App) -> list[dict[str, Any]]:
    """The last execution's exchanges as the SQL tab shows them: name, and metrics with a value."""
    store = app.spark._jsparkSession.sharedState().statusStore()
    listed = store.executionsList()
    execution = listed.apply(listed.size() - 1).executionId()
    values = store.executionMetrics(execution)
    found = []
    nodes = store.planGraph(execution).allNodes()
    for i in range(nodes.size()):
        node = nodes.apply(i)
        if node.name() != "Exchange":
            continue
        metrics = node.metrics()
        shown = {}
        for j in range(metrics.size()):
            metric = metrics.apply(j)
            value = values.get(metric.accumulatorId())
            text = value.get() if value.isDefined() else None
            shown[metric.name()] = re.sub(r" \(stage [^)]*\)", "", text) if text else None
        found.append(shown)
    return found


def part_plans(app: App) -> Any:
    """Rows, final plan and the SQL tab's exchanges of each query."""

    def run() -> Any:
        said = {}
        for name, sql in QUERIES.items():
            frame = app.spark.sql(sql)
            found = rows(frame)
            time.sleep(0.2)  # the SQL tab is filled by a listener
            said[name] = {"rows": found, "plan": final_plan(frame), "tab": exchanges(app)}
        return said

    return app.both(run)


def part_live(app: App) -> Any:
    """What is live is never freed: Datasets executed twice, caches, shared shuffles, threads."""
    app.set(True)
    said: dict[str, Any] = {}
    frame = app.spark.sql(JOINED)
    said["twice"] = [rows(frame), rows(frame), rows(frame.where("n > 0"))]
    cached = app.spark.sql(QUERIES["aggregate"]).cache()
    said["cached"] = [rows(cached), rows(cached.groupBy().sum("s")), rows(cached)]
    cached.unpersist(blocking=True)
    said["cached_again"] = [rows(cached)]
    rdd_rows = frame.rdd.map(list).collect()
    said["rdd"] = [sorted(rdd_rows, key=repr)]

    found: dict[str, list[Any]] = {}
    errors: list[str] = []

    def many(session: SparkSession, label: str) -> None:
        try:
            for name in ("aggregate", "join", "self_join", "subquery"):
                found.setdefault(name, []).append(rows(session.sql(QUERIES[name])))
        except Exception as error:
            errors.append(f"{label}: {error}")

    threads = []
    for n in range(4):
        session = app.spark if n % 2 else app.spark.newSession()
        for name, place in app.tables.items():
            app.register(session, name, place)
        app.set(True, session)
        threads.append(threading.Thread(target=many, args=(session, f"thread {n}")))
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    said["threads"] = found
    said["errors"] = errors
    app.settled()
    app.set(False)
    said["plain"] = {name: rows(app.spark.sql(sql)) for name, sql in QUERIES.items()}
    said["plain_total"] = rows(app.spark.sql(QUERIES["aggregate"]).groupBy().sum("s"))
    return said


def slowly(sql: str, steps: int) -> str:
    """``slow(value)`` in an expression takes so many steps for each row."""
    # A call may hold another one.
    while (found := sql.find("slow(")) >= 0:
        end, depth = found + len("slow("), 1
        while depth:
            depth += {"(": 1, ")": -1}.get(sql[end], 0)
            end += 1
        value = sql[found + len("slow(") : end - 1]
        call = f"aggregate(sequence(1, {steps}), {value}, (a, i) -> a + (i % 7))"
        sql = sql[:found] + call + sql[end:]
    return sql


def quickly(sql: str, steps: int) -> str:
    """The same result at once."""
    return sql.replace("slow(", f"({sum(i % 7 for i in range(steps + 1))} + ")


def part_freeing(app: App) -> Any:
    """Files are freed while the query runs that has made them superfluous, and nothing else is."""
    steps = app.spec["steps"]
    for key, value in LIVE_CONF.items():
        app.spark.conf.set(key, value)
    cached = app.spark.sql(GROUPED)
    cached.createOrReplaceTempView("cached")
    found: dict[str, list[Any]] = {}
    errors: list[str] = []

    def forced(boundaries: str) -> None:
        app.set(True)
        app.spark.conf.set("spark.phoebe.force", boundaries)

    def ask(label: str, frame: DataFrame) -> None:
        app.spark.sparkContext.setJobDescription(label)
        try:
            found.setdefault(label.rpartition(" ")[2], []).append(rows(frame))
        except Exception as error:
            errors.append(f"{label}: {error}")

    def together(*labels: str) -> None:
        frames = {label: app.spark.sql(slowly(LIVE[label][1], steps)) for label in labels}
        threads = [
            threading.Thread(target=ask, args=(f"together {label}", frame))
            for label, frame in frames.items()
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    tabs = {}
    for name in ("reuse", "self_join", "cte", "subquery", "twice"):
        forced(LIVE[name][0])
        frame = app.spark.sql(slowly(LIVE[name][1], steps))
        ask(name, frame)
        app.settled()
        tabs[name] = exchanges(app)
        if name == "twice":
            ask(f"again {name}", frame)
    cached.cache()
    forced(LIVE["cached"][0])
    ask("cached", app.spark.sql(slowly(LIVE["cached"][1], steps)))
    app.settled()
    # As if memory had been short, or an executor lost.
    blocks = app.jvm.org.apache.spark.SparkEnv.get().blockManager()
    for rdd_id in app.spark.sparkContext._jsc.getPersistentRDDs():
        blocks.removeBlock(app.jvm.org.apache.spark.storage.RDDBlockId(rdd_id, 0), True)
    app.set(False)
    ask("again cached", app.spark.sql(quickly(LIVE["cached"][1], steps)))
    cached.unpersist(blocking=True)

    cached.cache()
    forced(LIVE["cached"][0])
    together("cached", "cached_too")
    app.settled()
    cached.unpersist(blocking=True)
    forced(LIVE["reuse"][0])
    together("reuse", "cte")
    app.settled()

    app.set(False)
    app.spark.sparkContext.setJobDescription("plain")
    plain = {name: rows(app.spark.sql(quickly(sql, steps))) for name, (_, sql) in LIVE.items()}
    for key in LIVE_CONF:
        app.spark.conf.unset(key)
    return {"found": found, "plain": plain, "errors": errors, "tabs": tabs}


def part_commands(app: App) -> Any:
    out = Path(app.spec["folder"]) / "out"

    def run() -> Any:
        frame = app.spark.sql(JOINED)
        frame.write.format("noop").mode("overwrite").save()
        frame.write.mode("overwrite").parquet(str(out))
        frame.write.mode("overwrite").saveAsTable("saved")
        app.spark.sql(f"create or replace temporary view v as {JOINED}")
        app.spark.sql("insert into saved select * from v")
        return [rows(app.spark.read.parquet(str(out))), rows(app.spark.table("saved"))]

    return app.both(run)


def part_delta(app: App) -> Any:
    """Delta's commands, each over rows that were shuffled, and what the table's history says."""
    out = Path(app.spec["folder"]) / "delta"
    changes = f"select k, name, s + 1 as s, n from ({JOINED}) where k % 3 = 0"
    others = changes.replace("k % 3", "k % 2")
    commands: dict[str, Callable[[str, DataFrame], Any]] = {
        "append": lambda path, frame: frame.write.format("delta").mode("append").save(path),
        "overwrite": lambda path, frame: frame.write.format("delta").mode("overwrite").save(path),
        "insert": lambda path, _: app.spark.sql(f"insert into delta.`{path}` {changes}"),
        "merge": lambda path, _: app.spark.sql(f"""
            merge into delta.`{path}` t using ({others}) c on t.k = c.k and t.s = c.s
            when matched and t.k > 20 then delete
            when matched then update set n = c.n + 100
            when not matched then insert *"""),
        "update": lambda path, _: app.spark.sql(
            f"update delta.`{path}` set n = -n where k % 5 = 0"
        ),
        "delete": lambda path, _: app.spark.sql(f"delete from delta.`{path}` where k % 7 = 0"),
    }

    def run() -> Any:
        path = str(out / (app.spark.conf.get("spark.phoebe.mode") or ""))
        frame = app.spark.sql(JOINED)
        after = {}
        for name, command in commands.items():
            app.spark.sparkContext.setJobDescription(name)
            command(path, frame)
            app.spark.sparkContext.setJobDescription("look")
            if name in ("merge", "delete"):
                after[name] = rows(app.spark.read.format("delta").load(path))
        history = [
            (row.version, row.operation, row.operationMetrics)
            for row in app.spark.sql(f"describe history delta.`{path}`").collect()
        ]
        return {"rows": after, "history": sorted(history)}

    return app.both(run)


def part_skew(app: App) -> Any:
    for key, value in SKEW.items():
        app.spark.conf.set(key, value)

    def run() -> Any:
        frame = app.spark.sql(SKEWED)
        found = rows(frame)
        return {"rows": found, "plan": final_plan(frame)}

    try:
        return app.both(run)
    finally:
        for key in SKEW:
            app.spark.conf.unset(key)


def open_files(pid: int) -> list[str]:
    """What the descriptors of a process are open on, deleted files too."""
    found = []
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            found.append(os.readlink(descriptor))
    return found


def thread_names(app: App) -> list[str]:
    return [t.getName() for t in app.jvm.java.lang.Thread.getAllStackTraces().keySet()]


def leftovers(app: App) -> dict[str, Any]:
    """What must not grow: in Spark, in the store, on local disks, in our maps."""
    runtime = app.jvm.java.lang.Runtime.getRuntime()
    tracker = app.jvm.org.apache.spark.SparkEnv.get().mapOutputTracker()
    ours = app.jvm.phoebe.plugin.PhoebeRuntime.active().get().slot().get()
    known: list[int] = []
    # Spark's cleaner takes its time after a collection, and what it has forgotten since is
    # forgotten here at a query's end: until three rounds in a row have changed nothing.
    while len(known) < 4 or (len(set(known[-4:])) > 1 and len(known) < 20):
        gc.collect()
        app.jvm.System.gc()
        time.sleep(0.3)
        app.spark.sql("select 1").collect()
        app.settled()
        known.append(ours.shuffles().all().size())
    app.jvm.System.gc()
    sizes = {}
    for field in ours.getClass().getDeclaredFields():
        field.setAccessible(True)
        value = field.get(ours)
        if field.getName().endswith("executions"):
            sizes["executions"] = value.size()
    local = Path(app.spark.conf.get("spark.local.dir") or "")
    store = Path(app.spec["store"])
    committed = {manifest.stem for manifest in (store / "catalog").glob("*.manifest")}
    attempts = {f"{a.parent.name}-{a.name}" for a in (store / "data").glob("*/*")}
    opened = open_files(app.jvm.java.lang.ProcessHandle.current().pid())
    names = thread_names(app)
    kinds = Counter(re.sub(r"[\d.:]+", "", name) for name in names)
    return {
        **sizes,
        "our_threads": sum(n for kind, n in kinds.items() if kind.startswith("phoebe")),
        "heap_kib": (runtime.totalMemory() - runtime.freeMemory()) // 1024,
        "threads": len(names),
        "shuffles": tracker.shuffleStatuses().size(),
        "our_shuffles": ours.shuffles().all().size(),
        "shuffle_files": sum(1 for _ in local.rglob("shuffle_*")),
        "links": sum(1 for _ in local.rglob("phoebe-upload-*")),
        "committed": len(committed),
        "uncommitted": len(attempts - committed),
        "store_files": app.stored(),
        "open_files": len(opened),
        "open_data": sorted(f for f in opened if "/blockmgr-" in f or f.startswith(str(store))),
    }


def part_cancelled(app: App) -> Any:
    """Queries cancelled in their first stage, in the copy, and among the readers."""
    slow = (
        "select k, max(aggregate(sequence(1, 400), 0L, (a, x) -> a + x * c)) as n from "
        "(select k, w, count(*) as c, "
        "max(aggregate(sequence(1, 3000), {n}L, (a, x) -> a + x * v)) as m "
        "from fact group by k, w) group by k"
    )
    app.set(True)
    rows(app.spark.sql(slow.format(n=-1)))
    app.settled()
    before = leftovers(app)
    ended: list[str] = []
    jobs = app.spark.sparkContext.statusTracker()

    def one(group: str, sql: str) -> None:
        app.spark.sparkContext.setJobGroup(group, group, interruptOnCancel=True)
        try:
            rows(app.spark.sql(sql))
            ended.append("finished")
        except Exception:
            ended.append("cancelled")

    # A literal of its own in each query: none is found in the store.
    for n in range(app.spec["cancelled"]):
        group = f"cancelled-{n}"
        thread = threading.Thread(target=one, args=(group, slow.format(n=n)))
        thread.start()
        while thread.is_alive() and len(jobs.getJobIdsForGroup(group)) <= n % 3:
            time.sleep(0.005)
        while thread.is_alive():  # between its jobs there is nothing to cancel
            app.spark.sparkContext.cancelJobGroup(group)
            time.sleep(0.02)
    app.spark.sparkContext._jsc.clearJobGroup()
    app.settled()
    after = leftovers(app)
    app.set(False)
    return {"before": before, "after": after, "ended": ended}


QUERY_THREADS = ("shuffle-exchange", "ResultQueryStageExecution")


def no_idle_query_threads(app: App) -> None:
    """Spark keeps the threads of its queries for a minute, and they what they last worked on: where
    there were hundreds, that is waited out (``idle_s``)."""
    deadline = time.monotonic() + app.spec.get("idle_s", 0)
    while time.monotonic() < deadline:
        if not any(name.startswith(QUERY_THREADS) for name in thread_names(app)):
            return
        time.sleep(0.1)


def part_soak(app: App) -> Any:
    """Many small queries; what they leave behind, after a third of them and at the end."""
    app.set(True)
    queries = app.spec["soak"]
    seen = []
    for n in range(queries):
        sql = f"select k, sum(v) as s from fact where v <> {n % 5} group by k order by s"
        rows(app.spark.sql(sql))
        if n + 1 in (queries // 3, queries):
            app.settled()
            no_idle_query_threads(app)
            seen.append(leftovers(app))
    app.set(False)
    return seen


PARTS: dict[str, Callable[[App], Any]] = {
    "plans": part_plans,
    "live": part_live,
    "freeing": part_freeing,
    "commands": part_commands,
    "delta": part_delta,
    "skew": part_skew,
    "cancelled": part_cancelled,
    "soak": part_soak,
}


def main(path: Path) -> int:
    spec = json.loads(path.read_text())
    app = App(spec)
    said = {name: PARTS[name](app) for name in spec["parts"]}
    said["counts"] = app.counts()
    Path(spec["result"]).write_text(json.dumps(said))
    app.spark.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
