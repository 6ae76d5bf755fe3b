"""A driver is SIGKILLed, the same job is submitted again, and picks up at its last checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.support import apps, eventlog, home, queries, store, stored_job
from tests.support.compare import compare_results


def _submit(folder: Path, home_: Path, gate: Path | None) -> apps.RunningApp:
    conf = {**stored_job.CONF, "spark.phoebe.home": str(home_)}
    return queries.submit_queries([stored_job.item(gate)], folder=folder, conf=conf, plugin="jars")


def _is_restored(boundary: dict[Any, Any]) -> bool:
    return bool(boundary["decision"] == "restore")


def test_a_killed_job_resumes_and_leaves_no_checkpoint_behind(tmp_path: Path) -> None:
    home_ = tmp_path / "home"
    gate = tmp_path / "gate"
    with _submit(tmp_path / "first", home_, gate) as app:
        app.wait_for(gate.with_name("gate.reached"))
        # Two sides of a join, and the aggregate above it.
        written = store.wait_for_commits(home_ / "checkpoints", 3)
        killed = app.kill_driver()
    assert killed.exit_code < 0
    assert len(written) == 3
    (killed_id,) = {r["app_id"] for r in home.records(home_, "applications")}

    gate.touch()
    with _submit(tmp_path / "second", home_, gate) as app:
        finished = app.wait().check()
    difference = compare_results(
        *(queries.output(tmp_path / f, "daily") for f in ("first", "second"))
    )
    assert not difference
    run = eventlog.read(finished.event_log)
    writers = [s for s in run.execution("daily").stages if s.shuffle_write_rows]
    assert not writers, "the boundary below the result was restored: no stage writes a shuffle"
    assert home.checkpoint_events(home_, run.app_id)["restored"] == 1
    (restored,) = [b for b in home.boundaries(home_, run.app_id, "daily") if _is_restored(b)]
    said = json.loads(restored["reason_args"])
    assert said["from_app_id"] == killed_id
    assert said["bytes"] > 0
    assert 0 < said["look_ms"] < 60_000, "what finding it whole has cost is said"

    statuses = {r["app_id"]: r["status"] for r in home.records(home_, "applications")}
    assert statuses.pop(run.app_id) == "finished"
    assert set(statuses.values()) == {"aborted"}
    # It ended well, so what it restored is gone; what the killed run left upstream of that stays.
    assert len(store.committed(home_ / "checkpoints")) == len(written) - 1
