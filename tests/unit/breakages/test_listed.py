"""Every breakage of the list fits the sources as they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.breakages import listed
from tests.breakages.listed import Breakage, BreakageError, read
from tests.support.places import ROOT

LISTED = read()


@pytest.mark.parametrize("breakage", LISTED, ids=lambda one: one.name)
def test_it_applies_and_its_test_is_there(breakage: Breakage) -> None:
    assert listed.broken(ROOT, breakage) != listed.source(ROOT, breakage).read_text()
    assert "\n" not in breakage.old, "a single line"
    assert listed.test_file(ROOT, breakage).exists()
    assert listed.absent_tests(ROOT, breakage.caught_by) == []
    assert breakage.says


def test_a_test_that_is_not_there_is_named(tmp_path: Path) -> None:
    file = tmp_path / "tests" / "unit" / "test_a.py"
    file.parent.mkdir(parents=True)
    file.write_text("def test_one_thing() -> None: ...\n")
    there = ("tests/unit/test_a.py::test_one_thing", "tests/unit -k 'one_thing and not other'")
    for caught_by in (*there, "tests/unit/test_a.py tests/unit"):
        assert listed.absent_tests(tmp_path, caught_by) == []
    for caught_by, absent in {
        "tests/unit/test_a.py::test_other[x]": ["tests/unit/test_a.py::test_other[x]"],
        "tests/unit/test_a.py -k other": ["other"],
        "tests/unit/test_a.py tests/unit/test_b.py": ["tests/unit/test_b.py"],
    }.items():
        assert listed.absent_tests(tmp_path, caught_by) == absent


def test_all_parts_are_in_the_list() -> None:
    at_least = {
        "phoebe_spark": {"checkpoints", "cli", "cluster", "companion", "harvest", "ingest"}
        | {"optimize", "plan", "predict", "tables", "views"},
        "training": {"phoebe_training"},
        "benchmarks": {"benchmarks"},
        "listeners": {"compat", "driver", "exchange", "executor", "files", "fingerprint"}
        | {"harvest", "planner", "plugin", "rpc", "settings", "store", "tool"},
    }
    alone = {"doctor.py", "graph.py", "jar.py", "session.py", "spark_env.py"}
    found: dict[str, set[str]] = {}
    for one in LISTED:
        path = listed.source(ROOT, one).relative_to(ROOT)
        found.setdefault(path.parts[0], set()).add(path.parent.name)
        alone.discard(path.name)
    assert len(LISTED) >= 25
    assert not alone
    for part, rooms in at_least.items():
        assert rooms <= found[part], part


def test_a_text_that_occurs_twice_is_refused(tmp_path: Path) -> None:
    breakage = Breakage("one", "says", "plan/a.py", "x = 1", "x = 2", "tests/unit/test_a.py")
    file = tmp_path / "phoebe_spark" / "plan" / "a.py"
    file.parent.mkdir(parents=True)
    file.write_text("x = 1\n")
    assert listed.broken(tmp_path, breakage) == "x = 2\n"
    file.write_text("x = 1\nx = 1\n")
    with pytest.raises(BreakageError, match="2 times"):
        listed.broken(tmp_path, breakage)
    (tmp_path / "phoebe_spark" / "other" / "plan").mkdir(parents=True)
    (tmp_path / "phoebe_spark" / "other" / "plan" / "a.py").write_text("x = 1\n")
    with pytest.raises(BreakageError, match="2 files"):
        listed.source(tmp_path, breakage)
