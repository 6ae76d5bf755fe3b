"""One transformation, two sources: rows harvested live equal those of the same run's event log."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from phoebe_spark.ingest.run import ingest
from phoebe_spark.tables.deltalake import Tables
from phoebe_spark.tables.rows import RECORDS
from tests.support import queries, tpc

NEVER_EQUAL = {"source", "written_at"}
ONLY_THE_PLUGIN_KNOWS = {
    "applications": {"mode", "plugin_version", "lease_until"},
    "boundaries": {
        "fingerprint", "catalyst_bytes", "catalyst_rows", "predicted_output_bytes",
        "predicted_task_time_ms", "predicted_start_ms", "predicted_end_ms", "predicted_ttl_ms",
        "model_version", "decision", "reason_code", "reason_args", "reason_message",
    },
}  # fmt: skip
"""Columns that may be null in a logged run, and only there."""


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """All of TPC-H and a query that fails, in one application with plugin and event log: the home
    of the plugin, and one into which the log was ingested."""
    folder = tmp_path_factory.mktemp("live")
    data = tpc.data("tpch", 0.01)
    items = [queries.Item(name, data, output=False) for name in tpc.TPCH_QUERIES]
    failing = "SELECT l_orderkey / (l_linenumber - l_linenumber), count(*) FROM lineitem GROUP BY 1"
    items.append(queries.Item("failing", data, sql=failing, output=False))
    conf = {
        **queries.SHUFFLE_CONF,
        "spark.sql.shuffle.partitions": "4",
        "spark.phoebe.home": str(folder / "live"),
    }
    with queries.submit_queries(
        items, folder=folder / "app", conf=conf, plugin="jars", allow_failures=True
    ) as app:
        finished = app.wait()
    assert finished.exit_code == 0, finished.log[-2000:]
    summary = ingest([finished.event_log], folder / "logged")
    assert (summary.applications, summary.errors) == (1, ())
    return folder / "live", folder / "logged"


def rows(home: Path, table: str) -> dict[tuple[Any, ...], dict[str, Any]]:
    key = RECORDS[table].KEY
    found = Tables(home).read(table).to_pylist()
    return {tuple(row[name] for name in key): row for row in found}


@pytest.mark.parametrize(
    "table", ["applications", "executions", "stages", "executors", "temp_storage"]
)
def test_rows_are_equal(homes: tuple[Path, Path], table: str) -> None:
    live, logged = (rows(home, table) for home in homes)
    assert live.keys() == logged.keys()
    assert live
    for key, row in live.items():
        assert differing(table, row, logged[key]) == {}, key


def test_boundaries_are_equal_but_for_what_only_the_plugin_knows(homes: tuple[Path, Path]) -> None:
    live, logged = (rows(home, "boundaries") for home in homes)
    assert logged
    assert live.keys() >= logged.keys()
    for key, row in logged.items():
        assert differing("boundaries", live[key], row) == {}, key
    for key in live.keys() - logged.keys():  # decided on, then pruned before the plan was told
        assert live[key]["boundary_id"].startswith(("u", "f-")), key
        assert live[key]["decision"] == "skip", key


def test_the_runs_are_whole(homes: tuple[Path, Path]) -> None:
    for home in homes:
        (application,) = rows(home, "applications").values()
        assert (application["complete"], application["events_dropped"]) == (True, 0)
        executions = rows(home, "executions").values()
        whole = [row for row in executions if row["complete"]]
        assert len(whole) >= len(tpc.TPCH_QUERIES)
        assert {row["status"] for row in executions} == {"succeeded", "failed"}


def differing(
    table: str, live: dict[str, Any], logged: dict[str, Any]
) -> dict[str, tuple[Any, Any]]:
    """Columns in which the rows differ, with both values."""
    may_be_null = ONLY_THE_PLUGIN_KNOWS.get(table, set())
    found = {}
    for name in live.keys() - NEVER_EQUAL:
        one, other = live[name], logged[name]
        if name == "features":
            one, other = without_estimates(one), without_estimates(other)
        if one != other and not (other is None and name in may_be_null):
            found[name] = (one, other)
    return found


def without_estimates(features: str | None) -> dict[str, Any] | None:
    if features is None:
        return None
    found: dict[str, Any] = json.loads(features)
    return {k: v for k, v in found.items() if "catalyst" not in k}
