"""Fingerprints over Delta tables: the snapshot's data files and deletion vectors are the input."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import delta
from tests.support.places import ivy_home
from tests.support.probe import PACKAGE, Probe, probe


@pytest.fixture(scope="module")
def session(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Probe]:
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setenv("SPARK_SUBMIT_OPTS", f"-Duser.home={ivy_home()}")
    probed = f"{delta.EXTENSION},{PACKAGE}.FingerprintProbe"
    settings = {**delta.SETTINGS, "spark.sql.extensions": probed}
    with probe(
        tmp_path_factory.mktemp("fingerprint-delta"),
        spark__jars__packages=f"{delta.PACKAGE},{delta.AVRO}",
        **{key.replace(".", "__"): value for key, value in settings.items()},
        spark__sql__shuffle__partitions="2",
    ) as p:
        yield p
    monkeypatch.undo()


def fingerprint(session: Probe, path: Path, **options: str) -> str:
    """Of a count by key, which has one exchange; anew from the table's present state."""
    df = session.spark.read.options(**options).format("delta").load(str(path))
    (exchange,) = session.exchanges(df.where("v >= 0").groupBy("k").count())
    assert exchange.code is None, exchange
    return exchange.hash or ""


def test_each_change_of_the_table_counts(session: Probe, tmp_path: Path) -> None:
    path = tmp_path / "t"
    rows = session.spark.range(1000).selectExpr("id % 10 AS k", "id AS v").coalesce(1)
    rows.write.format("delta").option("delta.enableDeletionVectors", "true").save(str(path))
    table = f"delta.`{path}`"

    first = fingerprint(session, path)
    assert fingerprint(session, path) == first

    session.spark.sql(f"DELETE FROM {table} WHERE v = 17")
    assert list(path.glob("deletion_vector*")), "the delete rewrote files: nothing is tested"
    deleted = fingerprint(session, path)
    assert deleted != first

    session.spark.sql(f"DELETE FROM {table} WHERE v = 18")
    again = fingerprint(session, path)
    assert again not in (first, deleted)

    session.spark.sql(f"INSERT INTO {table} VALUES (1, 5000)")
    assert fingerprint(session, path) not in (first, deleted, again)

    # The old snapshot is still what it was.
    assert fingerprint(session, path, versionAsOf="0") == first


def test_a_copy_of_a_table_is_another_one(session: Probe, tmp_path: Path) -> None:
    """It has the table's id, and its rows' `_metadata.file_path` is another."""
    rows = session.spark.range(100).selectExpr("id % 10 AS k", "id AS v")
    rows.write.format("delta").save(str(tmp_path / "t"))
    shutil.copytree(tmp_path / "t", tmp_path / "copy")
    assert fingerprint(session, tmp_path / "t") != fingerprint(session, tmp_path / "copy")


def test_it_is_stable_over_replans(session: Probe, tmp_path: Path) -> None:
    path = tmp_path / "t"
    rows = session.spark.range(1000).selectExpr("id % 10 AS k", "id AS v", "id % 3 AS p")
    rows.write.format("delta").partitionBy("p").save(str(path))
    table = f"delta.`{path}`"
    df = session.spark.sql(
        f"SELECT /*+ MERGE(b) */ a.k, count(*) FROM {table} a JOIN"
        f" (SELECT k, max(v) highest FROM {table} WHERE p = 1 GROUP BY k) b"
        " ON a.v = b.highest GROUP BY a.k"
    )
    session.drain()
    df.write.parquet(str(tmp_path / "out"))  # Delta prepares no scan below a V2 write (noop)
    passes = session.drain()
    # Delta reads its own log through queries of its own; ours is the one with a merge join.
    by_exchange: dict[str, set[str | None]] = {}
    for p in passes:
        if any("highest#" in e.identity for e in p.exchanges):
            for e in p.exchanges:
                by_exchange.setdefault(e.identity, set()).add(e.hash)
    assert len(by_exchange) >= 3
    assert all(len(h) == 1 and None not in h for h in by_exchange.values()), by_exchange


def test_what_avros_reader_is_asked_for_counts(session: Probe, tmp_path: Path) -> None:
    """It may find a field by its place among the columns that it is asked for."""
    path = str(tmp_path / "t")
    rows = session.spark.range(9).selectExpr("cast(id % 3 AS int) a", "cast(id AS int) b")
    rows.write.format("avro").save(path)
    read = session.spark.read.schema("a int, b int").option("positionalFieldMatching", "true")
    df = read.format("avro").load(path)
    few, all_ = df.groupBy("b").count(), df.repartition(2, "a").groupBy("b").count()
    assert session.exchanges(few)[-1].hash != session.exchanges(all_)[-1].hash
