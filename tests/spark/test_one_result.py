"""Within a query no two consumers see different results of one and the same computation.

One application stores some boundaries of each query, one restores them with other file splits: what
follows from the order of rows comes out otherwise there. Beside it, exchanges are reused as Spark
reuses them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support import eventlog, home, in_turn
from tests.support.consumers_app import QUERIES, write_tables

CONF = {
    "spark.sql.shuffle.partitions": "2",
    "spark.sql.autoBroadcastJoinThreshold": "-1",
    "spark.sql.optimizer.dynamicPartitionPruning.reuseBroadcastOnly": "true",
    "spark.phoebe.mode": "apply",
    "spark.phoebe.checkpoint.retain": "always",
    "spark.phoebe.advice.timeout_ms": "10000",  # for which the first query waits for the index
}
APART = {
    "spark.sql.files.openCostInBytes": "128MB",
    "spark.sql.leafNodeDefaultParallelism": "2",
}
TOGETHER = {
    "spark.sql.files.openCostInBytes": "0",
    "spark.sql.files.minPartitionNum": "1",
    "spark.sql.leafNodeDefaultParallelism": "1",
}


@dataclass(frozen=True)
class Ran:
    """What an application's queries gave, with the plugin and without it, and what was decided."""

    ours: dict[str, Any]
    plain: dict[str, Any]
    decided: dict[str, list[str]]


def run(jvm: in_turn.Jvm, folder: Path, name: str, stores: int, conf: dict[str, str]) -> Ran:
    here = folder / name
    here.mkdir()
    told = {
        "tables": str(folder / "tables"), "queries": list(QUERIES), "stores": stores,
        "compare": True, "result": str(here / "said.json"),
    }  # fmt: skip
    (here / "spec.json").write_text(json.dumps(told))
    settings = {**CONF, **conf, "spark.phoebe.home": str(folder / "home")}
    module, spec = "tests.support.consumers_app", here / "spec.json"
    finished = jvm.run(here / "app", module, spec, settings)
    said = json.loads((here / "said.json").read_text())
    log = eventlog.read(finished.event_log)
    executions = {
        e["execution_id"]: str(e["description"])
        for e in home.records(folder / "home", "executions", log.app_id)
    }
    decided: dict[str, list[str]] = {name: [] for name in QUERIES}
    for b in home.records(folder / "home", "boundaries", log.app_id):
        decided.get(executions.get(b["execution_id"], ""), []).append(str(b["reason_code"]))
    return Ran(said["ours"], said["plain"], decided)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Ran, Ran]:
    """The application that stored, and the one that restores."""
    folder = tmp_path_factory.mktemp("consumers")
    write_tables(folder / "tables")
    with in_turn.Jvm(folder / "jvm") as jvm:
        stored = run(jvm, folder, "stores", 11, APART)
        return stored, run(jvm, folder, "restores", 0, TOGETHER)


RESTORED = {"both_sums": 2, "exact": 1, "alone": 1, "pruned": 1}
REFUSED = {
    "sums": 1,
    "tries": 1,
    "subquery": 2,
    "above": 1,
    "constants": 1,
    "renamed": 1,
    "at_hand": 1,
}


@pytest.mark.parametrize("name", QUERIES)
def test_rows_are_those_of_one_run_without_the_plugin(pair: tuple[Ran, Ran], name: str) -> None:
    stored, restores = pair
    assert stored.ours[name]["rows"] == stored.plain[name]["rows"]
    assert stored.plain[name]["rows"]
    # What is restored is the first run's, whole.
    expected = stored if name in RESTORED else restores
    assert restores.ours[name]["rows"] == expected.plain[name]["rows"]


@pytest.mark.parametrize("name", QUERIES)
def test_no_exchange_runs_that_spark_would_reuse(pair: tuple[Ran, Ran], name: str) -> None:
    stored, restores = pair
    assert stored.ours[name]["spared"] == stored.plain[name]["spared"]
    assert restores.ours[name]["spared"] >= restores.plain[name]["spared"]
    assert stored.plain["pruned"]["spared"] == 1


def test_the_splits_decide_what_a_sum_is(pair: tuple[Ran, Ran]) -> None:
    """Or nothing would be shown here."""
    for name in ("sums", "tries", "both_sums", "alone", "above", "constants", "renamed", "at_hand"):
        assert pair[0].plain[name]["rows"] != pair[1].plain[name]["rows"]


@pytest.mark.parametrize("name", QUERIES)
def test_what_the_query_computes_elsewhere_too_is_restored_for_all_or_for_none(
    pair: tuple[Ran, Ran], name: str
) -> None:
    reasons = pair[1].decided[name]
    assert reasons.count("restored") == RESTORED.get(name, 0)
    assert reasons.count("computed_twice") == REFUSED.get(name, 0)
