"""Checkpoints inside an application like any other: nothing that a user sees is another one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support import apps

APP = Path(__file__).parents[1] / "support" / "safety_app.py"
OURS = {"checkpoint copy time", "checkpoint bytes copied", "checkpoint freed bytes"}


def run(folder: Path, *, master: str = "local[2]", **spec: Any) -> dict[str, Any]:
    store = folder / "store"
    told = {
        "parts": [], "cancelled": 8, "soak": 100,
        "folder": str(folder), "store": str(store), "result": str(folder / "said.json"), **spec,
    }  # fmt: skip
    (folder / "spec.json").write_text(json.dumps(told))
    conf = {
        "spark.phoebe.home": str(folder / "home"),
        "spark.phoebe.checkpoint.dir": str(store),
        "spark.phoebe.mode": "apply",
        "spark.sql.shuffle.partitions": "4",
        "spark.sql.autoBroadcastJoinThreshold": "-1",
        "spark.sql.catalogImplementation": "in-memory",
        **spec.get("conf", {}),
    }
    with apps.submit(
        APP, [str(folder / "spec.json")], folder=folder / "app", conf=conf, plugin="jars",
        master=master, with_event_log=False,
    ) as app:  # fmt: skip
        app.wait().check()
    answer: dict[str, Any] = json.loads((folder / "said.json").read_text())
    return answer


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    parts = ["plans", "commands", "skew", "live", "cancelled", "soak"]
    return run(tmp_path_factory.mktemp("safe"), parts=parts)


def test_rows_final_plan_and_statistics_are_those_of_the_plain_run(said: dict[str, Any]) -> None:
    plans = said["plans"]
    assert plans["committed"] >= 8
    assert sum("rowCount=" in p["plan"] for p in plans["plain"].values()) >= 5
    for name, plain in plans["plain"].items():
        forced = plans["forced"][name]
        assert forced["rows"] == plain["rows"], name
        assert forced["plan"] == plain["plan"], name


def test_the_sql_tab_is_as_always_with_metrics_added(said: dict[str, Any]) -> None:
    added = set()
    for name, plain in said["plans"]["plain"].items():
        forced = said["plans"]["forced"][name]["tab"]
        assert len(forced) == len(plain["tab"]) > 0, name
        for ours, theirs in zip(forced, plain["tab"], strict=True):
            assert set(ours) - set(theirs) <= OURS
            assert set(theirs) <= set(ours)
            for metric in ("number of partitions", "shuffle records written", "data size"):
                assert ours[metric] == theirs[metric], (name, metric)
            added |= {metric for metric in set(ours) & OURS if ours[metric]}
    assert "checkpoint bytes copied" in added


def test_what_is_live_is_never_freed(said: dict[str, Any]) -> None:
    live, plain = said["live"], said["live"]["plain"]
    assert live["errors"] == []
    assert live["twice"] == [plain["join"]] * 3
    assert live["cached"] == [plain["aggregate"], live["plain_total"], plain["aggregate"]]
    assert live["cached_again"] == [plain["aggregate"]]
    assert live["rdd"] == [plain["join"]]


def test_sessions_and_threads_do_not_disturb_one_another(said: dict[str, Any]) -> None:
    for name, found in said["live"]["threads"].items():
        assert found == [said["live"]["plain"][name]] * 4, name


def test_commands_write_what_they_always_write(said: dict[str, Any]) -> None:
    assert said["commands"]["forced"] == said["commands"]["plain"]
    assert said["commands"]["committed"] > 0


def test_a_skewed_join_over_checkpoints_is_split_as_always(said: dict[str, Any]) -> None:
    skew = said["skew"]
    assert "skew=true" in skew["plain"]["plan"]
    assert skew["forced"] == skew["plain"]
    assert skew["committed"] > 0


def test_cancelled_queries_leave_nothing(said: dict[str, Any]) -> None:
    cancelled = said["cancelled"]
    assert cancelled["ended"].count("cancelled") >= 3
    before, after = cancelled["before"], cancelled["after"]
    assert after["executions"] == 0
    assert after["our_threads"] <= before["our_threads"] + 8
    assert after["shuffle_files"] <= before["shuffle_files"] + 8


def flat(soak: list[dict[str, Any]]) -> None:
    third, end = soak
    assert end["executions"] == 0
    assert end["our_threads"] <= max(40, third["our_threads"])  # pools have their most by then
    assert end["heap_kib"] <= third["heap_kib"] + 24 * 1024
    assert end["shuffle_files"] <= third["shuffle_files"] + 4
    # Registered with Spark's map output tracker: Spark forgets them some time after a collection;
    # kept for good they would be two and more for each query.
    assert end["shuffles"] <= third["shuffles"] + 40


def test_a_hundred_queries_leave_memory_threads_and_disks_flat(said: dict[str, Any]) -> None:
    flat(said["soak"])


def test_nothing_of_ours_failed(said: dict[str, Any]) -> None:
    assert [name for name in said["counts"] if name.startswith("failed.")] == []


@pytest.mark.nightly
def test_a_thousand_queries_leave_memory_threads_and_disks_flat(tmp_path: Path) -> None:
    flat(run(tmp_path, parts=["soak"], soak=1000)["soak"])


@pytest.mark.nightly
def test_speculative_copies_do_no_harm(tmp_path: Path) -> None:
    conf = {
        "spark.speculation": "true",
        "spark.speculation.interval": "10ms",
        "spark.speculation.multiplier": "1.01",
        "spark.speculation.quantile": "0.1",
        "spark.speculation.minTaskRuntime": "1ms",
        "spark.executor.memory": "512m",
    }
    found = run(tmp_path, parts=["plans", "skew"], master="local-cluster[2,1,512]", conf=conf)
    for name, plain in found["plans"]["plain"].items():
        assert found["plans"]["forced"][name]["rows"] == plain["rows"], name
    assert found["skew"]["forced"]["rows"] == found["skew"]["plain"]["rows"]
    assert found["plans"]["committed"] > 0
