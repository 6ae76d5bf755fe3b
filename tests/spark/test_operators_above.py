"""Boundaries are committed whatever stands above them in the plan; nothing of ours fails there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support import apps

APP = Path(__file__).parents[1] / "support" / "operators_app.py"


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("operators")
    told = {"folder": str(folder), "store": str(folder / "store"), "result": str(folder / "said")}
    (folder / "spec.json").write_text(json.dumps(told))
    conf = {
        "spark.phoebe.home": str(folder / "home"),
        "spark.phoebe.checkpoint.dir": str(folder / "store"),
        "spark.phoebe.mode": "apply",
        "spark.phoebe.force": "all",
        "spark.sql.shuffle.partitions": "2",
        "spark.sql.autoBroadcastJoinThreshold": "-1",
        "spark.sql.catalogImplementation": "in-memory",
    }
    with apps.submit(
        APP, [str(folder / "spec.json")], folder=folder / "app", conf=conf, plugin="jars"
    ) as app:
        log = app.wait().check().log
    answer: dict[str, Any] = json.loads((folder / "said").read_text())
    answer["failed"] = [line for line in log.splitlines() if "phoebe: failed in" in line]
    return answer


def test_each_boundary_below_is_committed(said: dict[str, Any]) -> None:
    for name, case in said["cases"].items():
        assert case["forced"]["rows"] == case["plain"]["rows"], name
        assert case["forced"]["committed"] >= 2, name
        found = case["forced"]["operators"]
        assert name == "Write" or any(o.startswith(name.split()[0]) for o in found), (name, found)


def test_nothing_of_ours_failed(said: dict[str, Any]) -> None:
    assert said["failed"] == []
    assert [name for name in said["counts"] if name.startswith("failed.")] == []
