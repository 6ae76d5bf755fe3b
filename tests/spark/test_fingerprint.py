"""The semantic fingerprint on real plans: equal where the rows are, else different.

Every mutation here names one thing that the fingerprint covers; without it, its test fails.
"""

from __future__ import annotations

import os
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pyspark.sql import DataFrame, Observation, SparkSession
from pyspark.sql import functions as f
from pyspark.sql.datasource import DataSource, DataSourceReader

from tests.support import tpc
from tests.support.probe import Pass, Probe, probe

STABLE_TPCDS = ("q2", "q5", "q14b", "q23b", "q49", "q58", "q64", "q78", "q80", "q83", "q95")
"""Deep plans with unions, rollups, windows, subqueries, existence joins and reused exchanges."""

FACTS = "SELECT k, sum(v) s, count(*) c FROM fact WHERE v > 3 GROUP BY k"


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Probe]:
    scratch = tmp_path_factory.mktemp("fingerprint")
    with probe(scratch) as p:
        spark = p.spark
        rows = spark.range(1000).selectExpr(
            "id % 10 AS k",
            "id % 7 AS v",
            "id * 1.5D AS x",
            "concat('n', id % 3) AS n",
            "id % 4 AS p",
        )
        rows.write.partitionBy("p").parquet(str(scratch / "fact"))
        spark.range(10).selectExpr(
            "id AS dk", "id % 4 AS dp", "concat('d', id) AS name"
        ).write.parquet(str(scratch / "dim"))
        spark.read.parquet(str(scratch / "fact")).createOrReplaceTempView("fact")
        spark.read.parquet(str(scratch / "dim")).createOrReplaceTempView("dim")
        yield p


def hashes(session: Probe, query: str | DataFrame) -> list[str]:
    """Fingerprints of the exchanges of a plan that has not run; a refusal fails the test."""
    df = session.spark.sql(query) if isinstance(query, str) else query
    found = session.exchanges(df)
    assert found, "the plan has no exchange"
    assert [e.code for e in found if e.code] == []
    return [e.hash or "" for e in found]


def last(session: Probe, query: str | DataFrame) -> str:
    return hashes(session, query)[-1]


def moved(passes: list[Pass]) -> tuple[set[str], set[str]]:
    """Exchanges seen on a first pass, and those whose fingerprint was another one later."""
    assert all(p.agrees for p in passes), "what earlier passes were named changed a name"
    first: dict[str, set[str | None]] = {}
    unstable: set[str] = set()
    for p in passes:
        before = set(first)
        for e in p.exchanges:
            if e.identity not in before:
                first.setdefault(e.identity, set()).add(e.hash)
            elif e.hash not in first[e.identity]:
                unstable.add(e.identity)
    return set(first), unstable


class Setting:
    """Sets session settings for a block, then puts them back."""

    def __init__(self, session: Probe, **conf: str) -> None:
        self._conf = session.spark.conf
        self._new = {k.replace("__", "."): v for k, v in conf.items()}
        self._old: dict[str, str | None] = {}

    def __enter__(self) -> None:
        for key, value in self._new.items():
            self._old[key] = self._conf.get(key, None)
            self._conf.set(key, value)

    def __exit__(self, *_: object) -> None:
        for key, value in self._old.items():
            if value is None:
                self._conf.unset(key)
            else:
                self._conf.set(key, value)


# --- equal where the rows are the same


def test_tpch_and_deep_tpcds_are_stable_over_replans(session: Probe) -> None:
    """Every exchange of a first plan has the same fingerprint in every later plan."""
    refused, seen, unstable = [], 0, {}
    with Setting(session, spark__sql__autoBroadcastJoinThreshold="1MB"):
        for suite, names in (("tpch", tpc.TPCH_QUERIES), ("tpcds", STABLE_TPCDS)):
            session.tables(suite, 0.01)  # type: ignore[arg-type]
            for name in names:
                query = name if "/" in name else f"{suite}/{name}"
                passes = session.run(tpc.query(query))
                first, changed = moved(passes)
                seen += len(first)
                refused += [(query, e.code) for p in passes for e in p.exchanges if e.code]
                if changed:
                    unstable[query] = changed
    assert refused == []
    assert unstable == {}
    assert seen > 100


def test_another_application_has_the_same_fingerprints(tmp_path: Path, session: Probe) -> None:
    """Another JVM, other expression ids: the queries run in another order after a warm-up."""
    import subprocess
    import sys

    names = ("tpch/q18", "tpch/q5", "tpch/q21", "tpch/q2")
    script = (
        "import sys, json; from pathlib import Path\n"
        "from tests.support import tpc; from tests.support.probe import probe\n"
        "with probe(Path(sys.argv[1])) as p:\n"
        "    p.tables('tpch', 0.01); p.spark.range(3).count()\n"
        "    for n in reversed(sys.argv[2:]):\n"
        "        print('>>', n, [e.hash for e in p.exchanges(p.spark.sql(tpc.query(n)))])\n"
    )
    session.tables("tpch", 0.01)
    here = {n: hashes(session, tpc.query(n)) for n in names}
    run = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path), *names],
        check=True,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    there = [line for line in run.stdout.splitlines() if line.startswith(">>")]
    assert there == [f">> {n} {here[n]}" for n in reversed(names)]


@pytest.mark.parametrize("hint", ["BROADCAST(d)", "MERGE(d)", "SHUFFLE_HASH(d)", "SHUFFLE_HASH(f)"])
def test_join_strategy_does_not_count(session: Probe, hint: str) -> None:
    query = "SELECT /*+ {} */ name, sum(v) FROM fact f JOIN dim d ON f.k = d.dk GROUP BY name"
    assert last(session, query.format(hint)) == last(session, query.format("BROADCAST(f)"))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("spark.sql.adaptive.enabled", "false"),
        ("spark.sql.codegen.wholeStage", "false"),
        ("spark.sql.adaptive.advisoryPartitionSizeInBytes", "1"),
        ("spark.phoebe.min_duration_ms", "1"),
        ("spark.sql.parquet.binaryAsString", "false"),  # set to its default
    ],
)
def test_neutral_settings_do_not_count(session: Probe, key: str, value: str) -> None:
    before = hashes(session, FACTS)
    with Setting(session, **{key.replace(".", "__"): value}):
        assert hashes(session, FACTS) == before


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("v > 3 AND x < 9", "x < 9 AND v > 3"),
        ("v > 3 OR x < 9", "x < 9 OR v > 3"),
        ("v = k", "k = v"),
        ("v > k", "k < v"),
        ("v + k = 9", "k + v = 9"),
        ("v IN (1, 2, 3)", "v IN (3, 1, 2)"),
        ("greatest(v, k) = 9", "greatest(k, v) = 9"),
        ("x + v = 9", "v + x = 9"),
    ],
)
def test_order_of_commutative_operands_does_not_count(session: Probe, a: str, b: str) -> None:
    query = "SELECT k, n, count(*) FROM fact WHERE {} GROUP BY k, n"
    assert last(session, query.format(a)) == last(session, query.format(b))


@pytest.mark.parametrize(
    ("reuse_only", "threshold"), [("true", "10MB"), ("true", "-1"), ("false", "-1")]
)
def test_dynamic_pruning_is_the_same_in_all_its_shapes(
    session: Probe, reuse_only: str, threshold: str
) -> None:
    """Planned: a reused broadcast, nothing at all, a query of its own."""
    sql = (
        "SELECT name, sum(v) FROM (SELECT p, k, sum(v) v FROM fact GROUP BY p, k) f"
        " JOIN dim d ON f.p = d.dp WHERE name LIKE 'd1%' GROUP BY name"
    )
    with Setting(
        session,
        spark__sql__optimizer__dynamicPartitionPruning__reuseBroadcastOnly=reuse_only,
        spark__sql__autoBroadcastJoinThreshold=threshold,
    ):
        df = session.spark.sql(sql)
        plan = df._jdf.queryExecution().executedPlan().toString()
        assert "dynamicpruning" in plan
        passes = session.run(sql)
        first, unstable = moved(passes)
        assert len(passes) > 2
        assert len(first) >= 2
        assert unstable == set()
    # A reader without the join must never get the pruned rows.
    alone = hashes(session, "SELECT p, k, sum(v) v FROM fact GROUP BY p, k")
    assert not set(alone) & {e.hash for p in passes for e in p.exchanges}


NOTHING = "(SELECT dk, max(dp) m FROM dim WHERE name = 'none' GROUP BY dk)"
"""Rows that only a run shows to be none."""

DROPPED: dict[str, str] = {
    "join": f"SELECT f.n, count(*) c FROM fact f JOIN {NOTHING} d ON f.k = d.dk GROUP BY f.n",
    "left join": f"SELECT f.n, m, count(*) c FROM (SELECT k, n, sum(v) v FROM fact GROUP BY k, n) f"
    f" LEFT JOIN {NOTHING} d ON f.v = d.dk GROUP BY f.n, m",
    "full join": f"SELECT n, m, count(*) c FROM {NOTHING} d FULL JOIN"
    " (SELECT k, n, sum(v) v FROM fact GROUP BY k, n) f ON f.v = d.dk GROUP BY n, m",
    "anti join": "SELECT n, count(*) c FROM (SELECT k, n, sum(v) v FROM fact GROUP BY k, n)"
    f" WHERE NOT EXISTS (SELECT 1 FROM {NOTHING} d WHERE dk = v) GROUP BY n",
    "not in": "SELECT n, count(*) c FROM (SELECT k, n, sum(v) v FROM fact GROUP BY k, n)"
    f" WHERE v NOT IN (SELECT m FROM {NOTHING}) GROUP BY n",
    "first branch": f"SELECT a, count(*) c FROM (SELECT dk a FROM {NOTHING} UNION ALL"
    " SELECT k FROM (SELECT k, sum(v) FROM fact GROUP BY k)) GROUP BY a",
    "middle branch": "SELECT a, count(*) c FROM (SELECT v a FROM (SELECT v FROM fact GROUP BY v)"
    f" UNION ALL SELECT dk FROM {NOTHING}"
    " UNION ALL SELECT k FROM (SELECT k, sum(v) FROM fact GROUP BY k)) GROUP BY a",
    "nested": f"SELECT n, m, count(*) c FROM (SELECT f.n, f.k, m FROM fact f LEFT JOIN"
    f" (SELECT x.dk, x.m FROM {NOTHING} x JOIN dim y ON x.m = y.dk) d ON f.k = d.dk) GROUP BY n, m",
}


@pytest.mark.parametrize("threshold", ["10MB", "-1"])
@pytest.mark.parametrize("shape", DROPPED)
def test_what_aqe_drops_for_want_of_rows_keeps_its_name(
    session: Probe, shape: str, threshold: str
) -> None:
    with Setting(session, spark__sql__autoBroadcastJoinThreshold=threshold):
        passes = session.run(DROPPED[shape])
    first, unstable = moved(passes)
    assert len(first) >= 2
    assert len(passes) > 1
    assert unstable == set()


def test_an_exchange_that_only_a_replan_needs_has_a_name_of_its_own(session: Probe) -> None:
    """A join that turns to a broadcast leaves its shuffle to the aggregate above it: the same
    columns by the same keys as in the first plan, and other rows."""
    # One task that takes a second: the other core has run the joined side long before its join.
    slow = "(SELECT /*+ COALESCE(1) */ k, v FROM fact WHERE sha2(repeat(n, 200000), 256) <> '')"
    sql = (
        f"SELECT DISTINCT v FROM (SELECT v FROM (SELECT k, v FROM {slow} GROUP BY k, v)"
        " LEFT SEMI JOIN (SELECT dk FROM dim GROUP BY dk) c ON k = dk)"
        " LEFT SEMI JOIN (SELECT dp, max(dk) FROM dim WHERE dk = 3 GROUP BY dp) b ON v = dp"
    )
    with Setting(
        session,
        spark__sql__autoBroadcastJoinThreshold="-1",
        spark__sql__adaptive__autoBroadcastJoinThreshold="10MB",
    ):
        passes = session.run(sql)
    names: dict[str, set[str | None]] = {}
    for p in passes:
        for e in p.exchanges:
            names.setdefault(e.identity, set()).add(e.hash)
    (shared,) = (found for found in names.values() if len(found) > 1)
    assert None not in shared


# --- different where the rows or the bytes may differ

MUTATIONS: dict[str, str] = {
    "literal": "SELECT k, sum(v) s, count(*) c FROM fact WHERE v > 4 GROUP BY k",
    "operator": "SELECT k, sum(v) s, count(*) c FROM fact WHERE v >= 3 GROUP BY k",
    "no filter": "SELECT k, sum(v) s, count(*) c FROM fact GROUP BY k",
    "another filter": "SELECT k, sum(v) s, count(*) c FROM fact WHERE v > 3 AND x > 1 GROUP BY k",
    "partition filter": "SELECT k, sum(v) s, count(*) c FROM fact WHERE v > 3 AND p < 2 GROUP BY k",
    "function": "SELECT k, max(v) s, count(*) c FROM fact WHERE v > 3 GROUP BY k",
    "distinct": "SELECT k, sum(DISTINCT v) s, count(*) c FROM fact WHERE v > 3 GROUP BY k",
    "function filter": "SELECT k, sum(v) FILTER (WHERE x > 2) s, count(*) c FROM fact"
    " WHERE v > 3 GROUP BY k",
    "summed column": "SELECT k, sum(p) s, count(*) c FROM fact WHERE v > 3 GROUP BY k",
    "column order": "SELECT k, count(*) c, sum(v) s FROM fact WHERE v > 3 GROUP BY k",
    "key": "SELECT v, sum(v) s, count(*) c FROM fact WHERE v > 3 GROUP BY v",
    "table": "SELECT dk k, sum(dp) s, count(*) c FROM dim WHERE dp > 3 GROUP BY dk",
    "type": "SELECT k, sum(CAST(v AS int)) s, count(*) c FROM fact WHERE v > 3 GROUP BY k",
}


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_query_mutations_count(session: Probe, mutation: str) -> None:
    assert last(session, MUTATIONS[mutation]) != last(session, FACTS)


JOIN = "SELECT /*+ MERGE(d) */ f.n, d.name, sum(v) FROM fact f {} dim d ON {} GROUP BY 1, 2"


@pytest.mark.parametrize(
    ("join", "on"),
    [
        ("LEFT JOIN", "f.k = d.dk"),
        ("RIGHT JOIN", "f.k = d.dk"),
        ("FULL JOIN", "f.k = d.dk"),
        ("JOIN", "f.v = d.dk"),
        ("JOIN", "f.k = d.dp"),
        ("JOIN", "f.k = d.dk AND f.v = d.dp"),
        ("JOIN", "f.k = d.dk AND f.v < d.dp"),
        ("JOIN", "f.k <=> d.dk"),
    ],
)
def test_joins_count(session: Probe, join: str, on: str) -> None:
    assert last(session, JOIN.format(join, on)) != last(session, JOIN.format("JOIN", "f.k = d.dk"))


def test_a_chain_of_sums_has_an_order_unless_they_wrap_around(session: Probe) -> None:
    """A step that overflows fails under ANSI rules, and is NULL for `try_add`; it may be in one."""
    query = "SELECT k, n, count(*) FROM fact WHERE {} = 9 GROUP BY k, n"
    chains = [query.format("v + k + p"), query.format("k + (p + v)")]
    assert len({last(session, q) for q in chains}) == 2
    with Setting(session, spark__sql__ansi__enabled="false"):
        assert len({last(session, q) for q in chains}) == 1
        tries = [query.format(f"try_add({a}, {b})") for a, b in TRIES]
        assert len({last(session, q) for q in tries}) == 2


TRIES = (("try_add(v, k)", "p"), ("v", "try_add(k, p)"))


@pytest.mark.parametrize(
    ("a", "b"),
    [
        pytest.param(
            "SELECT a.v, count(*) FROM fact a JOIN fact b ON a.k = b.k AND a.v < b.v GROUP BY a.v",
            "SELECT b.v, count(*) FROM fact a JOIN fact b ON a.k = b.k AND a.v < b.v GROUP BY b.v",
            id="side of a self-join",
        ),
        pytest.param(
            "SELECT f.n, count(*) FROM fact f LEFT JOIN dim d ON f.k = d.dk GROUP BY f.n",
            "SELECT f.n, count(*) FROM fact f LEFT ANTI JOIN dim d ON f.k = d.dk GROUP BY f.n",
            id="join type alone",
        ),
        pytest.param(
            "SELECT /*+ REPARTITION(4) */ c, count(*) d FROM (SELECT k, count(*) c FROM fact"
            " GROUP BY k) GROUP BY c",
            "SELECT /*+ REPARTITION(4) */ d, c FROM (SELECT c, count(*) d FROM"
            " (SELECT k, count(*) c FROM fact GROUP BY k) GROUP BY c)",
            id="count of counts",
        ),
        pytest.param(
            "SELECT k, dense_rank() OVER (PARTITION BY v ORDER BY x) r FROM fact DISTRIBUTE BY k",
            "SELECT k, rank() OVER (PARTITION BY v ORDER BY x) r FROM fact DISTRIBUTE BY k",
            id="window function",
        ),
        pytest.param(
            "SELECT k, sum(x) OVER (PARTITION BY v ORDER BY k RANGE 2 PRECEDING) r FROM fact"
            " DISTRIBUTE BY k",
            "SELECT k, sum(x) OVER (PARTITION BY v ORDER BY k RANGE 3 PRECEDING) r FROM fact"
            " DISTRIBUTE BY k",
            id="window frame",
        ),
        pytest.param(
            "SELECT k, sum(v) FROM fact WHERE v > (SELECT avg(dp) FROM dim) GROUP BY k",
            "SELECT k, sum(v) FROM fact WHERE v > (SELECT avg(dk) FROM dim) GROUP BY k",
            id="scalar subquery",
        ),
        pytest.param(
            "SELECT v, count(*) FROM (SELECT v FROM fact UNION ALL SELECT dp FROM dim) GROUP BY v",
            "SELECT v, count(*) FROM (SELECT v FROM fact UNION ALL SELECT dk FROM dim) GROUP BY v",
            id="union",
        ),
        pytest.param(
            "SELECT k, v, count(*) FROM fact GROUP BY ROLLUP(k, v)",
            "SELECT k, v, count(*) FROM fact GROUP BY CUBE(k, v)",
            id="grouping sets",
        ),
        pytest.param(
            "SELECT e, count(*) FROM (SELECT explode(sequence(0, v)) e FROM fact) GROUP BY e",
            "SELECT e, count(*) FROM (SELECT explode(sequence(1, v + 1)) e FROM fact) GROUP BY e",
            id="generator",
        ),
        pytest.param(
            "SELECT transform(array(v, k), (a, b) -> a - b) t FROM fact DISTRIBUTE BY k",
            "SELECT transform(array(v, k), (a, b) -> b - a) t FROM fact DISTRIBUTE BY k",
            id="lambda",
        ),
        pytest.param(
            "SELECT greatest(x, -x) g, count(*) FROM fact GROUP BY 1",
            "SELECT greatest(-x, x) g, count(*) FROM fact GROUP BY 1",
            id="operands that may be 0.0 and -0.0",
        ),
        pytest.param(
            "SELECT /*+ REPARTITION(4, k) */ k FROM fact",
            "SELECT /*+ REPARTITION_BY_RANGE(4, k) */ k FROM fact",
            id="partitioning",
        ),
        pytest.param(
            "SELECT k, sum(x) FROM fact GROUP BY k",
            "SELECT k, sum(x) FROM (SELECT /*+ REPARTITION(3, v) */ * FROM fact) GROUP BY k",
            id="how rows are spread below a sum of floating-point numbers",
        ),
        pytest.param(
            "SELECT a.k, sum(a.x) FROM (SELECT /*+ COALESCE(2) */ k, x FROM fact) a"
            " JOIN dim b ON a.k = b.dk GROUP BY a.k",
            "SELECT a.k, sum(a.x) FROM fact a JOIN (SELECT /*+ COALESCE(2) */ dk FROM dim) b"
            " ON a.k = b.dk GROUP BY a.k",
            id="which side of a join has few tasks",
        ),
        pytest.param(
            "SELECT k, avg(x) FROM fact GROUP BY k",
            "SELECT k, avg(x) FROM (SELECT /*+ COALESCE(2) */ * FROM fact) GROUP BY k",
            id="how many tasks read what is averaged",
        ),
        pytest.param(
            "SELECT k, sum(x) OVER (PARTITION BY v ORDER BY k) r FROM fact DISTRIBUTE BY k",
            "SELECT k, sum(x) OVER (PARTITION BY v ORDER BY k) r FROM"
            " (SELECT /*+ REBALANCE(k) */ * FROM fact) DISTRIBUTE BY k",
            id="how rows are spread below a window of such sums",
        ),
        pytest.param(
            "SELECT k, sum(x) FROM fact GROUP BY k",
            "SELECT k, sum(x) FROM (SELECT * FROM fact ORDER BY v) GROUP BY k",
            id="an order below a sum of floating-point numbers",
        ),
        pytest.param(
            "SELECT sum(id * 0.1D) FROM range(0, 9, 1, 3)",
            "SELECT sum(id * 0.1D) FROM range(0, 9, 1, 2)",
            id="how many tasks make the rows of such a sum",
        ),
        pytest.param(
            "SELECT col1, count(*) FROM VALUES (1), (2) GROUP BY 1",
            "SELECT col1, count(*) FROM VALUES (1), (3) GROUP BY 1",
            id="literal rows",
        ),
    ],
)
def test_pairs_that_differ(session: Probe, a: str, b: str) -> None:
    assert last(session, a) != last(session, b)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("spark.sql.session.timeZone", "Asia/Tokyo"),
        ("spark.sql.ansi.enabled", "false"),
        ("spark.sql.caseSensitive", "true"),
        ("spark.sql.shuffle.partitions", "5"),
        ("spark.sql.decimalOperations.allowPrecisionLoss", "false"),
        ("spark.sql.legacy.timeParserPolicy", "LEGACY"),
        ("spark.sql.parquet.int96TimestampConversion", "true"),
        ("spark.sql.jsonGenerator.writeNullIfWithDefaultValue", "false"),
        ("spark.sql.someVendor.setting", "x"),
        ("hive.exec.orc.tolerate.missing.schema", "false"),
        ("spark.sql.parquet.enableVectorizedReader", "false"),
    ],
)
def test_settings_count(session: Probe, key: str, value: str) -> None:
    before = last(session, FACTS)
    with Setting(session, **{key.replace(".", "__"): value}):
        assert last(session, FACTS) != before
    assert last(session, FACTS) == before


def test_hadoops_settings_of_readers_count(session: Probe) -> None:
    """However they were set; what Hadoop's own defaults say does not, it may be loaded late."""
    hadoop = session.spark.sparkContext._jsc.hadoopConfiguration()  # type: ignore[union-attr]
    before = last(session, FACTS)
    for key in ("avro.mapred.ignore.inputs.without.extension", "io.compression.codecs"):
        hadoop.set(key, "true")
        assert last(session, FACTS) != before
        hadoop.unset(key)
        assert last(session, FACTS) == before
    session.spark._jvm.java.lang.Class.forName("org.apache.hadoop.mapred.JobConf")  # type: ignore[union-attr]
    assert last(session, FACTS) == before


def test_a_default_behind_a_fallback_counts(session: Probe) -> None:
    """Set to what it would be anyway counts for nothing; set to what another key changed does."""
    key = "spark.sql.parquet.filterPushdown.stringPredicate"
    parent = "spark.sql.parquet.filterPushdown.string.startsWith"
    plain = last(session, FACTS)
    with Setting(session, **{key.replace(".", "__"): "true"}):
        assert last(session, FACTS) == plain
    with Setting(session, **{parent.replace(".", "__"): "false"}):
        inherited = last(session, FACTS)
        assert inherited != plain
        with Setting(session, **{key.replace(".", "__"): "true"}):
            assert last(session, FACTS) != inherited


# --- inputs


def _by_k(session: Probe, path: Path, **options: str) -> DataFrame:
    return session.spark.read.options(**options).parquet(str(path)).groupBy("k").count()


IDENTITY = 64
"""Hex digits of what identifies inputs; a reason's code has fewer."""


def one_file(folder: Path, text: str = "1,10\n", name: str = "part.csv") -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(text)
    settle(path)
    return path


def settle(path: Path) -> None:
    """Waits until a query planned from now on reads the file as it is, by whatever clock."""
    while time.time_ns() < path.stat().st_ctime_ns + 50_000_000:
        time.sleep(0.01)


def by_k(session: Probe, path: Path, **options: str) -> DataFrame:
    read = session.spark.read.schema("k int, v int").options(**options)
    return read.csv(str(path)).groupBy("k").count()


def test_files_count(session: Probe, tmp_path: Path) -> None:
    path = tmp_path / "t"
    session.spark.range(100).selectExpr("id % 3 AS k").coalesce(1).write.parquet(str(path))
    before = last(session, _by_k(session, path))
    assert last(session, _by_k(session, path)) == before
    (part,) = path.glob("*.parquet")
    status = part.stat()
    os.utime(part, ns=(status.st_atime_ns, status.st_mtime_ns + 5_000_000))
    assert last(session, _by_k(session, path)) != before
    os.utime(part, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert last(session, _by_k(session, path)) == before
    session.spark.range(5).selectExpr("id AS k").write.mode("append").parquet(str(path))
    assert last(session, _by_k(session, path)) != before


def test_a_file_written_anew_with_its_length_and_time_is_another_one(
    session: Probe, tmp_path: Path
) -> None:
    """In place, or another file under its name, or by way of a link to a directory."""
    part = one_file(tmp_path / "t")
    time_ns = part.stat().st_mtime_ns
    df = by_k(session, tmp_path / "t")
    name = last(session, df)
    commit, restore = session.inputs(df)
    assert (len(commit), restore) == (IDENTITY, commit)
    identities = {commit}
    for n in range(2):
        if n:
            part.unlink()
        one_file(tmp_path / "t", "1,20\n")
        os.utime(part, ns=(time_ns, time_ns))
        settle(part)
        df = by_k(session, tmp_path / "t")
        assert last(session, df) == name
        identities |= set(session.inputs(df))
    assert len(identities) == 3
    for version in "12":
        os.utime(one_file(tmp_path / version), ns=(time_ns, time_ns))
    link = tmp_path / "link"
    seen = set()
    for version in "12":
        link.unlink(missing_ok=True)
        link.symlink_to(tmp_path / version)
        settle(tmp_path / version / "part.csv")
        seen.add(session.inputs(by_k(session, link)))
    assert len(seen) == 2


def test_inputs_that_changed_since_they_were_listed_are_seen(
    session: Probe, tmp_path: Path
) -> None:
    def look(name: str, change: Callable[[Path], object]) -> tuple[str, ...]:
        """The codes of what stands in the way of a commit and of a restore, empty for nothing."""
        part = one_file(tmp_path / name)
        df = by_k(session, part.parent)
        assert len(session.inputs(df)[0]) == IDENTITY
        change(part)
        commit, restore = session.inputs(df)
        return tuple("" if len(found) == IDENTITY else found for found in (commit, restore))

    changed = "input_changed"
    assert look("longer", lambda p: p.write_text("1,10\n2,20\n")) == (changed, changed)
    assert look("touched", lambda p: os.utime(p, ns=(1, 10**18))) == (changed, changed)
    assert look("gone", lambda p: p.unlink()) == (changed, changed)
    assert look("all gone", lambda p: shutil.rmtree(p.parent)) == (changed, changed)
    # A plan reads what it listed; but a scan may list again, and a restore cannot know.
    more = ("", changed)
    assert look("added", lambda p: one_file(p.parent, name="more.csv")) == more
    assert look("hidden", lambda p: one_file(p.parent, name="_more")) == ("", "")
    assert look("empty", lambda p: one_file(p.parent, "", name="more.csv")) == ("", "")


def test_files_that_an_option_leaves_out_may_come(session: Probe, tmp_path: Path) -> None:
    one_file(tmp_path / "t")
    df = by_k(session, tmp_path / "t", pathGlobFilter="part*")
    alone = by_k(session, tmp_path / "t" / "part.csv")
    before = [session.inputs(df), session.inputs(alone)]
    one_file(tmp_path / "t", name="more.csv")
    assert [session.inputs(df), session.inputs(alone)] == before


def test_what_is_written_while_a_query_is_planned_is_not_trusted(
    session: Probe, tmp_path: Path
) -> None:
    """A time of change that lies ahead stands for one that the clock cannot tell from now."""
    part = one_file(tmp_path / "t")
    df = by_k(session, tmp_path / "t")
    time_ns = part.stat().st_mtime_ns

    def rewrite() -> None:
        part.write_text("1,20\n")
        os.utime(part, ns=(time_ns, time_ns))

    found = set()
    for _ in range(3):  # a stall between the two would let it settle
        rewrite()
        found.add(session.inputs(df)[0])
    assert "input_unsettled" in found
    settle(part)
    assert len(session.inputs(df)[0]) == IDENTITY


def test_files_without_a_time_are_refused(session: Probe, tmp_path: Path) -> None:
    part = one_file(tmp_path / "t")
    os.utime(part, ns=(0, 0))
    assert [e.code for e in session.exchanges(by_k(session, tmp_path / "t"))] == ["undated_file"]


def test_a_catalogues_table_that_was_listed_anew_is_not_stored(session: Probe) -> None:
    """A whole table is listed by each plan's scan. Where partitions are chosen, by a join as well,
    the optimiser has listed them once for all plans: nothing is listed when the scan runs."""
    spark = session.spark
    spark.sql("CREATE TABLE sold (v int, p int) USING parquet PARTITIONED BY (p)")
    spark.sql("INSERT INTO sold VALUES (1, 1), (2, 2)")

    def location(sql: str) -> str:
        plan = spark.sql(sql)._jdf.queryExecution().executedPlan().toString()  # type: ignore[operator]
        return str(plan.split("Location: ")[1].split("(")[0].split(" ")[0])

    whole = "SELECT v, count(*) FROM sold GROUP BY v"
    assert location(whole) == "CatalogFileIndex"
    pruned = (
        "SELECT /*+ BROADCAST(d) */ s.v, count(*) FROM sold s JOIN dim d ON s.p = d.dk"
        " WHERE d.name = 'd1' GROUP BY s.v"
    )
    assert "dynamicpruning" in str(
        spark.sql(pruned)._jdf.queryExecution().executedPlan().toString()  # type: ignore[operator]
    )
    assert location(pruned) == "InMemoryFileIndex"
    time.sleep(0.06)  # the files have settled
    df = spark.sql(whole)
    assert len(session.inputs(df)[0]) == IDENTITY
    assert len(session.inputs(df, ran=spark.sql(whole))[0]) == IDENTITY
    spark.sql("INSERT INTO sold VALUES (3, 3)")
    assert session.inputs(df, ran=spark.sql(whole))[0] == "input_changed"
    spark.sql("DROP TABLE sold")


def test_a_listing_refreshed_in_place_is_hashed_again(session: Probe, tmp_path: Path) -> None:
    path = str(tmp_path / "t")
    session.spark.range(9).selectExpr("id % 3 AS k").write.parquet(path)
    read = session.spark.read.parquet(path)
    before = last(session, read.groupBy("k").count())
    session.spark.range(9).selectExpr("id % 2 AS k").write.mode("append").parquet(path)
    read._jdf.queryExecution().analyzed().relation().location().refresh()
    assert last(session, read.groupBy("k").count()) != before


def test_reader_options_count(session: Probe, tmp_path: Path) -> None:
    path = str(tmp_path / "c.csv")
    Path(path).write_text("k;v\n1;2\n")
    read = session.spark.read.schema("k string, v string")
    with_header = last(session, read.csv(path, sep=";", header=True).groupBy("k").count())
    assert with_header != last(session, read.csv(path, sep=";", header=False).groupBy("k").count())
    assert with_header != last(session, read.csv(path, sep=",", header=True).groupBy("k").count())


@pytest.mark.parametrize("kind", ["csv", "json", "xml", "parquet", "orc"])
def test_what_a_parser_of_text_is_asked_for_counts(
    session: Probe, tmp_path: Path, kind: str
) -> None:
    """Which records are malformed depends on it; in other formats it leaves no trace."""
    path = str(tmp_path / "t")
    rows = session.spark.range(9).selectExpr("cast(id % 3 AS int) a", "cast(id AS int) b")
    rows.write.format(kind).option("rowTag", "r").save(path)
    for mode in ("PERMISSIVE", "DROPMALFORMED", "FAILFAST"):
        read = session.spark.read.schema("a int, b int").options(mode=mode, rowTag="r")
        df = read.format(kind).load(path)
        one = last(session, df.groupBy("a").count())
        other = last(session, df.repartition(2, "b").groupBy("a").count())
        assert (one == other) == (kind in ("parquet", "orc"))


def test_the_settings_of_the_session_that_made_a_relation_count(
    session: Probe, tmp_path: Path
) -> None:
    one_file(tmp_path / "t")
    other = session.spark.newSession()
    sql = "SELECT k, count(*) FROM global_temp.t GROUP BY k"

    def named(key: str, value: str) -> str:
        """Under a setting of that session alone: as the view was made, or later."""
        other.conf.set(key, value)
        try:
            return last(session, sql)
        finally:
            other.conf.unset(key)

    read = other.read.schema("k int, v int").csv(str(tmp_path / "t"))
    read.createOrReplaceGlobalTempView("t")
    plain = last(session, sql)
    assert named("spark.sql.adaptive.advisoryPartitionSizeInBytes", "1") == plain
    names = [
        named("spark.sql.session.timeZone", "Asia/Tokyo"),
        named("spark.sql.columnNameOfCorruptRecord", "bad"),
        named("spark.sql.csv.parser.columnPruning.enabled", "false"),
        named("mapreduce.input.linerecordreader.line.maxlength", "3"),
    ]
    assert len({plain, *names}) == 5
    assert last(session, sql) == plain
    for key in ("spark.sql.files.ignoreCorruptFiles", "orc.skip.corrupt.data"):
        other.conf.set(key, "true")
        assert [e.code for e in session.exchanges(session.spark.sql(sql))] == ["ignored_files"]
        other.conf.unset(key)
    # The session that runs the query is asked as well.
    with Setting(session, spark__sql__files__ignoreMissingFiles="true"):
        assert [e.code for e in session.exchanges(session.spark.sql(sql))] == ["ignored_files"]
    session.spark.catalog.dropGlobalTempView("t")


def test_buckets_count(session: Probe) -> None:
    """A filter rules buckets out by the table's word on how its files were made."""
    spark = session.spark
    spark.range(20).selectExpr("id k", "id v").write.bucketBy(4, "k").saveAsTable("in_buckets")
    sql = "SELECT v, count(*) FROM in_buckets WHERE k = 3 GROUP BY v"
    name = last(session, sql)
    with Setting(session, spark__sql__sources__bucketing__enabled="false"):
        assert last(session, sql) != name
    spark.sql("DROP TABLE in_buckets")


def test_a_subquerys_input_counts(session: Probe, tmp_path: Path) -> None:
    path = tmp_path / "t"
    session.spark.range(100).coalesce(1).write.parquet(str(path))
    mean = f"SELECT avg(id) - 48 FROM parquet.`{path}`"
    sql = f"SELECT k, sum(v) FROM fact WHERE v > ({mean}) GROUP BY k"
    before = last(session, sql)
    assert last(session, sql) == before
    (part,) = path.glob("*.parquet")
    status = part.stat()
    os.utime(part, ns=(status.st_atime_ns, status.st_mtime_ns + 5_000_000))
    assert last(session, sql) != before


# --- refusals

IMAGES = Path(__file__).parent
"""Any folder will do: the plan is never run."""


def _python_source(spark: SparkSession) -> DataFrame:
    spark.dataSource.register(_Numbers)
    return spark.read.format("numbers").load()


class _Numbers(DataSource):
    @classmethod
    def name(cls) -> str:
        return "numbers"

    def schema(self) -> str:
        return "n long"

    def reader(self, schema: object) -> DataSourceReader:  # noqa: ARG002
        return _NumbersReader()


class _NumbersReader(DataSourceReader):
    def read(self, partition: object) -> Iterator[tuple[int]]:  # noqa: ARG002
        yield (1,)


COLLATED = "cast(n AS STRING COLLATE UTF8_LCASE)"


@pytest.mark.parametrize(
    ("code", "make"),
    [
        ("nondeterministic", lambda _, t: t.withColumn("r", f.rand(7))),
        ("nondeterministic", lambda _, t: t.withColumn("r", f.monotonically_increasing_id())),
        ("nondeterministic", lambda _, t: t.withColumn("r", f.input_file_name())),
        ("nondeterministic", lambda _, t: t.sample(0.5, seed=1)),
        ("udf", lambda _, t: t.withColumn("r", f.udf(lambda v: v, "long")("v"))),
        ("udf", lambda _, t: t.withColumn("r", f.pandas_udf(lambda v: v, "long")("v"))),
        ("udf", lambda _, t: t.mapInPandas(lambda batches: batches, t.schema)),
        ("udf", lambda _, t: t.groupBy("k").applyInPandas(lambda g: g, t.schema)),
        ("unknown_source", lambda s, _: s.read.format("image").load(str(IMAGES)).select("image.*")),
        ("unknown_source", lambda s, _: _python_source(s)),
        ("order_sensitive_aggregate", lambda _, t: t.groupBy("k").agg(f.collect_list("v"))),
        ("order_sensitive_aggregate", lambda _, t: t.groupBy("k").agg(f.first("v"))),
        ("limit_without_order", lambda _, t: t.limit(3)),
        ("limit_with_ties", lambda _, t: t.orderBy("v").limit(3)),
        (
            "order_sensitive_aggregate",
            lambda _, t: t.selectExpr("k", "row_number() OVER (PARTITION BY k ORDER BY v) AS r"),
        ),
        (
            "order_sensitive_aggregate",
            lambda _, t: t.selectExpr("k", "lag(v) OVER (PARTITION BY k ORDER BY v) AS r"),
        ),
        (
            "order_sensitive_aggregate",
            lambda _, t: t.selectExpr(
                "k", "count(*) OVER (PARTITION BY k ORDER BY v ROWS UNBOUNDED PRECEDING) AS r"
            ),
        ),
        (
            "order_sensitive_aggregate",
            lambda _, t: t.groupBy("k").agg(f.percentile_approx("v", 0.5)),
        ),
        ("order_sensitive_aggregate", lambda _, t: t.groupBy("k").agg(f.hll_sketch_agg("v"))),
        (
            "order_sensitive_aggregate",
            lambda _, t: t.groupBy("k").agg(f.expr(f"max({COLLATED})")),
        ),
        (
            "order_sensitive_aggregate",
            lambda _, t: t.groupBy(f.expr(COLLATED).alias("n")).count(),
        ),
        (
            "nondeterministic",
            lambda _, t: t.selectExpr("k", "aes_encrypt(n, '0123456789abcdef') AS r"),
        ),
        (
            "order_sensitive_aggregate",
            lambda _, t: t.selectExpr("k", "from_csv(n, 'a variant') AS r"),
        ),
        (
            "ignored_files",
            lambda s, t: s.read.option("ignoreMissingFiles", True).parquet(*t.inputFiles()),
        ),
        *(
            (
                "ignored_files",
                lambda s, t, key=key: s.read.option(key, "TRUE").parquet(*t.inputFiles()),
            )
            for key in ("orc.skip.corrupt.data", "hive.exec.orc.skip.corrupt.data")
        ),
        (
            "unknown_source",
            lambda s, t: s.read.option("avroSchemaUrl", "u.avsc").parquet(*t.inputFiles()),
        ),
        (
            "split_dependent",
            lambda s, _: s.read.schema("k int, v variant").csv(str(Path(__file__).parent)),
        ),
        (
            "split_dependent",
            lambda s, _: (
                s.read.option("singleVariantColumn", "v").csv(__file__).selectExpr("1 AS k", "v")
            ),
        ),
        ("observed_metrics", lambda _, t: t.observe(Observation(), f.count(f.lit(1)).alias("n"))),
        (
            "rdd_source",
            lambda s, _: s.createDataFrame(s.sparkContext.range(9).map(lambda i: (i,)), "k long"),
        ),
        ("cached_relation", lambda _, t: t.where("v = 6").cache()),
        (
            "file_metadata_column",
            lambda s, t: s.read.parquet(*t.inputFiles()).select("k", "_metadata.file_block_start"),
        ),
    ],
)
def test_refusals_are_typed(session: Probe, code: str, make: Callable[..., DataFrame]) -> None:
    table = session.spark.table("fact")
    df = make(session.spark, table)
    found = session.exchanges(df.repartition(3, df.columns[0]))
    assert found[-1].code == code
    assert found[-1].hash is None


def test_a_rank_is_the_same_for_rows_that_tie(session: Probe) -> None:
    for window in ("rank()", "dense_rank()", "percent_rank()", "sum(v)"):
        sql = f"SELECT k, {window} OVER (PARTITION BY n ORDER BY v) r FROM fact DISTRIBUTE BY k"
        assert last(session, sql)
    whole = "ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING"
    sql = f"SELECT k, sum(v) OVER (PARTITION BY n ORDER BY v {whole}) r FROM fact DISTRIBUTE BY k"
    assert last(session, sql)


@pytest.mark.parametrize("key", ["ignoreCorruptFiles", "ignoreMissingFiles"])
def test_where_files_may_be_left_out_nothing_is_named(session: Probe, key: str) -> None:
    with Setting(session, **{f"spark__sql__files__{key}": "true"}):
        assert {e.code for e in session.exchanges(session.spark.sql(FACTS))} == {"ignored_files"}


def test_a_header_that_a_split_may_keep_as_a_row_is_refused(session: Probe, tmp_path: Path) -> None:
    """Spark leaves it out of a first split, which a comment may fill."""
    (tmp_path / "c.csv").write_text("# twenty or more characters\na,b\n1,2\n")

    def codes(bytes_of_splits: str, tasks: str = "3", **options: object) -> set[str]:
        files = {"maxPartitionBytes": bytes_of_splits, "openCostInBytes": "0"}
        files["minPartitionNum"] = tasks
        with Setting(session, **{f"spark__sql__files__{k}": v for k, v in files.items()}):
            read = session.spark.read.schema("a string, b string").options(**options)
            return {e.code for e in session.exchanges(read.csv(str(tmp_path)).groupBy("a").count())}

    assert codes("16", header=True) == codes("2m", header=True) == {"split_dependent"}
    assert codes("2m", "1", header=True, comment="#") == {None}, "one split holds the file"
    assert codes("16", header=False, comment="#") == {None}
    assert codes("16", header=True, comment="#", multiLine=True) == {None}


# --- cost


def test_a_plan_of_a_hundred_exchanges_is_cheap(session: Probe) -> None:
    """Processor time of a first pass over 100 exchanges, once the JVM is warm."""
    part = "SELECT k + {0} k, sum(v) s FROM fact WHERE v > {0} GROUP BY k + {0}"
    sql = " UNION ALL ".join(part.format(i) for i in range(100))
    times = []
    for _ in range(8):
        session.drain()
        session.spark.sql(sql)._jdf.queryExecution().executedPlan()
        (p,) = (p for p in session.drain() if len(p.exchanges) >= 100)
        times.append(p.cpu_ms)
    assert statistics.median(times[3:]) < 50
