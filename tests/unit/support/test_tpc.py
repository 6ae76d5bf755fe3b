"""Query texts and generated data are there, whole, and cached."""

from __future__ import annotations

import pyarrow.parquet as pq
import pytest

from tests.support import tpc


def test_all_queries_of_the_suites_are_found() -> None:
    assert tuple(tpc.query_names("tpch")) == tpc.TPCH_QUERIES
    assert len(tpc.query_names("tpcds")) == 103  # 99 numbers, four of them in two parts
    for name in tpc.THE_TWELVE:
        assert "select" in tpc.query(name).lower()
    with pytest.raises(KeyError):
        tpc.query("tpch/q23")


def test_data_is_generated_once() -> None:
    directory = tpc.data("tpch", 0.01)
    before = directory.stat().st_mtime_ns
    assert tpc.data("tpch", 0.01).stat().st_mtime_ns == before
    tables = tpc.tables(directory)
    assert len(tables) == 8
    assert pq.read_metadata(tables["customer"]).num_rows == 1500
