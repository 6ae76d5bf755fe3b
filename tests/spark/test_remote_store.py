"""Checkpoints on a store where each request takes its time: requests, memory, running readers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support import apps, eventlog, home, places, store

APP = places.ROOT / "tests" / "support" / "shuffle_app.py"
RECOMPUTES = APP.with_name("recompute_app.py")
MIB = 2**20
CONF = {
    "spark.phoebe.mode": "apply",
    "spark.phoebe.force": "e1",
    "spark.hadoop.fs.slow.impl": "phoebe.testing.SlowFileSystem",
    "spark.sql.adaptive.coalescePartitions.enabled": "false",
}


def _submit(folder: Path, place: Path, *, memory: str = "1g", **spec: Any) -> apps.RunningApp:
    asked = {"row_bytes": 32, "latency_ms": 0, "result": str(folder / "result.json")}
    conf = {
        **CONF,
        "spark.phoebe.home": str(place),
        "spark.phoebe.checkpoint.dir": f"slow://{place}/checkpoints",
    }
    return apps.submit(
        APP,
        [json.dumps({**asked, **spec})],
        folder=folder,
        conf=conf,
        plugin="jars",
        packages_jars=[places.testing_jar()],
        driver_memory=memory,
    )


def _run(folder: Path, place: Path, **how: Any) -> tuple[dict[str, Any], eventlog.AppRun]:
    with _submit(folder, place, **how) as app:
        finished = app.wait(timeout_s=900).check()
    found: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return found, eventlog.read(finished.event_log)


def _written_and_killed(folder: Path, place: Path, **how: Any) -> None:
    """Runs the query and kills the driver once its checkpoint is committed."""
    with _submit(folder, place, settle_s=120, **how) as app:
        store.wait_for_commits(place / "checkpoints", 1, timeout_s=600)
        app.kill_driver()


def _expected(rows: int) -> list[int]:
    return [rows, rows * (rows - 1) // 2]


def _requests_allowed(shuffle_bytes: int, maps: int, reducers: int) -> float:
    return 4 * (shuffle_bytes / (8 * MIB) + 4 * (maps + reducers))


@pytest.mark.parametrize(
    ("maps", "reducers", "rows", "latency_ms"),
    [
        (60, 60, 300_000, 20),
        pytest.param(
            400,
            400,
            20_000_000,
            50,
            marks=pytest.mark.nightly(
                guarded_by="tests/spark/test_remote_store.py::"
                "test_readers_ask_the_store_few_times[60-60-300000-20]"
            ),
        ),
    ],
)
def test_readers_ask_the_store_few_times(
    tmp_path: Path, maps: int, reducers: int, rows: int, latency_ms: int
) -> None:
    shape = {"rows": rows, "maps": maps, "reducers": reducers}
    place = tmp_path / "home"
    _written_and_killed(tmp_path / "first", place, **shape)
    (manifest,) = [
        m
        for m in map(store.read_manifest, store.committed(place / "checkpoints"))
        if m["num_partitions"] == reducers
    ]
    assert len(manifest["packs"]) < maps / 10

    found, ran = _run(tmp_path / "again", place, latency_ms=latency_ms, **shape)
    assert found["answer"][:2] == _expected(rows)
    assert home.checkpoint_events(place, ran.app_id)["restored"] >= 1
    requests = sum(found["requests"].values())
    allowed = _requests_allowed(manifest["bytes"], maps, reducers)
    assert requests < allowed, f"{requests} requests, {allowed:.0f} allowed: {found}"


def test_readers_that_run_while_the_locations_switch(tmp_path: Path) -> None:
    found, ran = _run(
        tmp_path / "app",
        tmp_path / "home",
        rows=60_000,
        maps=4,
        reducers=60,
        latency_ms=100,
        switch_amid_readers=True,
        settle_s=3,
    )
    assert found["answer"][:2] == _expected(60_000)
    reader = max(ran.stages, key=lambda s: s.shuffle_read_local_bytes)
    assert reader.shuffle_read_local_bytes > 0, "some tasks read local files"
    assert reader.shuffle_read_remote_bytes > 0, "and some, later, the store"
    assert not [s for s in ran.stages if s.attempt > 0 or s.tasks_failed]
    assert home.checkpoint_events(tmp_path / "home", ran.app_id)["freed"] >= 1
    assert found["local_bytes"] > 0
    assert found["local_bytes_left"] == 0


@pytest.mark.nightly(guarded_by="PackSuite::memory is bounded: a segment is handed out in chunks")
def test_a_segment_of_a_gigabyte_under_a_small_heap(tmp_path: Path) -> None:
    shape = {"rows": 17_000_000, "maps": 2, "reducers": 1, "row_bytes": 64, "memory": "512m"}
    place = tmp_path / "home"
    _written_and_killed(tmp_path / "first", place, **shape)
    manifest = store.read_manifest(store.committed(place / "checkpoints")[0])
    assert manifest["bytes"] > 2**30
    found, ran = _run(tmp_path / "again", place, latency_ms=1, **shape)
    assert found["answer"][:2] == _expected(17_000_000)
    assert home.checkpoint_events(place, ran.app_id)["restored"] == 1


def test_a_map_output_computed_again_with_other_rows_is_given_up(tmp_path: Path) -> None:
    place = tmp_path / "home"
    conf = {
        **CONF,
        "spark.phoebe.home": str(place),
        "spark.phoebe.checkpoint.dir": f"slow://{place}/checkpoints",
        "spark.sql.shuffle.orderIndependentChecksum.enabled": "true",
        "spark.sql.files.openCostInBytes": "128MB",  # a task for each file
        "spark.phoebe.checkpoint.retain": "always",  # the application's end then waits for uploads
    }
    with apps.submit(
        RECOMPUTES,
        [str(tmp_path)],
        folder=tmp_path / "app",
        conf=conf,
        plugin="jars",
        packages_jars=[places.testing_jar()],
    ) as app:
        finished = app.wait(timeout_s=300).check()
        app.close(grace_s=15)  # the companion writes the last records after the driver's end
    assert int((tmp_path / "changed").read_text()) >= 1
    found = home.records(place, "checkpoints", eventlog.read(finished.event_log).app_id)
    assert [r["event"] for r in found] == ["abandoned"]
    assert found[0]["reason_code"] == "recomputed_differently", found
    assert not store.committed(place / "checkpoints")
