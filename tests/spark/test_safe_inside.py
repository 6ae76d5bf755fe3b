"""Checkpoints inside an application like any other: nothing that a user sees is another one."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support import apps, delta, eventlog, home
from tests.support.places import ivy_home

APP = Path(__file__).parents[1] / "support" / "safety_app.py"
OURS = {"checkpoint copy time", "checkpoint bytes copied", "checkpoint freed bytes"}


def run(
    folder: Path,
    *,
    master: str = "local[2]",
    with_event_log: bool = False,
    environment: Mapping[str, str] | None = None,
    **spec: Any,
) -> dict[str, Any]:
    store = folder / "store"
    told = {
        "parts": [], "cancelled": 6, "soak": 100, "steps": 4000,
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
        master=master, with_event_log=with_event_log, environment=environment,
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


@pytest.fixture(scope="module")
def freeing(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], eventlog.AppRun]:
    """What the application says, and its event log."""
    folder = tmp_path_factory.mktemp("freeing")
    said = run(folder, parts=["freeing"], with_event_log=True)["freeing"]
    return said, eventlog.read(apps.event_log(folder / "app"))


def test_what_something_live_can_ask_for_is_not_computed_twice(
    freeing: tuple[dict[str, Any], eventlog.AppRun],
) -> None:
    said, log = freeing
    assert said["errors"] == []
    for name, times in said["found"].items():
        assert times == [said["plain"][name]] * len(times), name
    assert log.ran_twice() == {}


# Upstream goes too where all that read it are boundaries that are checkpointed.
@pytest.mark.parametrize(
    ("name", "upstream"),
    [
        ("reuse", True),
        ("cte", True),
        ("twice", True),
        ("cached", True),
        ("self_join", False),
        ("subquery", False),
        ("together cached", True),
        ("together cached_too", True),
        ("together reuse", True),
        ("together cte", True),
    ],
)
def test_files_are_freed_while_what_is_live_is_yet_to_be_read(
    freeing: tuple[dict[str, Any], eventlog.AppRun], name: str, upstream: bool
) -> None:
    execution = freeing[1].execution(name)
    freed = [
        post for post in execution.posted if post.metric == "checkpoint freed bytes" and post.value
    ]
    assert len(freed) >= 1 + upstream
    tasks = sum(stage.tasks_ended for stage in execution.stages)
    assert freed[0].tasks_ended < tasks


def test_the_sql_tab_says_what_a_checkpoint_cost_and_what_it_freed(
    freeing: tuple[dict[str, Any], eventlog.AppRun],
) -> None:
    for name, tab in freeing[0]["tabs"].items():
        ours = [shown for shown in tab if set(shown) >= OURS]
        assert ours, name
        for shown in ours:
            for metric in OURS:
                assert re.search("[1-9]", shown[metric] or ""), (name, metric)


def test_sessions_and_threads_do_not_disturb_one_another(said: dict[str, Any]) -> None:
    for name, found in said["live"]["threads"].items():
        assert found == [said["live"]["plain"][name]] * 4, name


def test_commands_write_what_they_always_write(said: dict[str, Any]) -> None:
    assert said["commands"]["forced"] == said["commands"]["plain"]
    assert said["commands"]["committed"] > 0


def test_delta_commands_write_what_they_always_write(tmp_path: Path) -> None:
    conf = {"spark.jars.packages": delta.PACKAGE, **delta.SETTINGS}
    where = {"SPARK_SUBMIT_OPTS": f"-Duser.home={ivy_home()}"}
    said = run(tmp_path, parts=["delta"], conf=conf, environment=where, with_event_log=True)
    plain, forced = said["delta"]["plain"], said["delta"]["forced"]
    assert forced["rows"] == plain["rows"]
    assert history(forced) == history(plain)
    app_id = apps.app_id(tmp_path / "app")
    names = {
        row["execution_id"]: row["description"]
        for row in home.records(tmp_path / "home", "executions", app_id)
    }
    committed = {
        names[row["execution_id"]]
        for row in home.records(tmp_path / "home", "checkpoints", app_id)
        if row["event"] == "committed"
    }
    assert {"append", "overwrite", "insert"} <= committed


def history(said: dict[str, Any]) -> list[tuple[str, dict[str, str]]]:
    """Operations and their metrics, but for times and for how well rows were compressed."""
    return [
        (
            operation,
            {k: v for k, v in metrics.items() if not k.endswith(("Ms", "Bytes"))},
        )
        for _, operation, metrics in said["history"]
    ]


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
    assert after["our_threads"] <= before["our_threads"] + 16  # as many commit at once, at most
    assert after["shuffle_files"] <= before["shuffle_files"] + 8
    same(before, after)
    assert after["shuffles"] <= before["shuffles"] + 4


LATE = 40
"""Shuffles that Spark's cleaner may not have come to yet."""


def flat(soak: list[dict[str, Any]]) -> None:
    third, end = soak
    assert end["executions"] == 0
    assert end["our_threads"] <= max(40, third["our_threads"])  # pools have their most by then
    assert end["heap_kib"] <= third["heap_kib"] + 24 * 1024
    assert end["shuffle_files"] <= third["shuffle_files"] + 4
    # Registered with Spark's map output tracker: Spark forgets them some time after a collection;
    # kept for good they would be two and more for each query, and so would be what goes with them.
    assert end["shuffles"] <= third["shuffles"] + LATE
    same(third, end)


def same(before: dict[str, Any], after: dict[str, Any]) -> None:
    """Nothing is left in the store or open, and no upload's second names for files."""
    for found in (before, after):
        assert found["uncommitted"] == 0
        assert found["links"] == 0
        assert found["open_data"] == []
    assert after["open_files"] <= before["open_files"] + 8
    assert after["our_shuffles"] <= before["our_shuffles"] + LATE
    assert after["committed"] <= before["committed"] + LATE
    assert after["store_files"] <= before["store_files"] + 3 * LATE  # manifest, pack, its checksums


def test_a_hundred_queries_leave_memory_threads_and_disks_flat(said: dict[str, Any]) -> None:
    flat(said["soak"])


def test_nothing_of_ours_failed(said: dict[str, Any]) -> None:
    assert [name for name in said["counts"] if name.startswith("failed.")] == []


@pytest.mark.nightly(
    guarded_by="tests/spark/test_safe_inside.py::test_a_hundred_queries_leave_memory_threads_and_disks_flat"
)
def test_a_thousand_queries_leave_memory_threads_and_disks_flat(tmp_path: Path) -> None:
    flat(run(tmp_path, parts=["soak"], soak=1000, idle_s=90)["soak"])


@pytest.mark.nightly(guarded_by="tests/faults/test_scheduling.py::test_speculation")
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
