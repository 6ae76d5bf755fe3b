"""Checkpoints that cannot be read once they are in a plan: the boundary is computed, and the rows
are those of the run without the plugin.

Two applications in one JVM: one writes the checkpoints of all cases, one restores them, harmed in
between.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import in_turn, stored_job
from tests.support.unreadable_app import CASES, SQL

EVERY_CHUNK, ONE_BYTE = 400, 10**9
SPLIT = {"skewed"}
"""Cases in which a result that is handed out in part might be another one, since partitions were
read in parts; others might be where nothing is held."""

Said = dict[str, dict[str, Any]]


def run(
    jvm: in_turn.Jvm,
    folder: Path,
    name: str,
    harm: int = 0,
    home: str = "home",
    held_bytes: int = 0,
) -> Said:
    here = folder / name
    here.mkdir()
    told = {
        "tables": str(folder / "tables"),
        "store": str(folder / home / "checkpoints"),
        "harm": harm,
        "result": str(here / "said.json"),
        "threads": str(here / "threads.json"),
    }
    (here / "spec.json").write_text(json.dumps(told))
    conf = {
        **stored_job.KEPT,
        "spark.phoebe.home": str(folder / home),
        "spark.phoebe.harvest.sink": "spool",
        "spark.phoebe.advice.timeout_ms": "10000",
        "spark.phoebe.checkpoint.held_bytes": str(held_bytes),
        "spark.sql.files.minPartitionNum": "8",
    }
    jvm.run(here / "app", "tests.support.unreadable_app", here / "spec.json", conf)
    said: Said = json.loads((here / "said.json").read_text())
    return said


@pytest.fixture(scope="module")
def jvm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[in_turn.Jvm]:
    with in_turn.Jvm(tmp_path_factory.mktemp("jvm")) as found:
        yield found


@pytest.fixture(scope="module")
def written(jvm: in_turn.Jvm, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unreadable")
    assert all(case["same"] for case in run(jvm, folder, "first").values())
    shutil.copytree(folder / "home", folder / "kept")
    return folder


@pytest.fixture(scope="module")
def restored(jvm: in_turn.Jvm, written: Path) -> Said:
    return run(jvm, written, "second", EVERY_CHUNK)


@pytest.mark.parametrize("case", [*CASES, *SQL])
def test_rows_are_those_of_the_run_without_the_plugin(restored: Said, case: str) -> None:
    said = restored[case]
    assert said["error"] is None
    assert said["same"], said
    assert said["checkpoints.restored"] > 0


@pytest.mark.parametrize("case", [*SQL, "lost_after_the_query"])
def test_they_were_computed_again(restored: Said, case: str) -> None:
    assert restored[case]["checkpoints.damaged"] > 0


@pytest.mark.parametrize("case", ["in_order", "after_the_query"])
def test_what_is_whole_is_read_as_often_as_it_is_asked_for(restored: Said, case: str) -> None:
    assert restored[case]["checkpoints.damaged"] == 0


def test_no_thread_outlives_the_second_context_of_a_process(written: Path, restored: Said) -> None:
    assert restored
    assert json.loads((written / "second" / "threads.json").read_text()) == []


@pytest.mark.nightly(
    guarded_by="tests/faults/test_damaged_checkpoints.py::test_damage_after_the_first_reader_is_computed"
)
def test_one_bad_byte_is_computed_or_said(jvm: in_turn.Jvm, written: Path) -> None:
    """Found when some tasks have ended: what they have handed out stands, or the query fails. Small
    boundaries that might come out otherwise are held."""
    said = run(jvm, written, "third", ONE_BYTE, "kept", held_bytes=1 << 25)
    typed = {name for name, one in said.items() if one["error"]}
    assert typed <= SPLIT, said
    assert not any(
        said[name]["checkpoints.damaged"] for name in ("sorted", "round_robin", "doubles")
    )
    assert all("DamagedCheckpointException" in said[name]["error"] for name in typed)
    assert all(one["same"] for name, one in said.items() if name not in typed)
