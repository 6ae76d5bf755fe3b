"""docs/architecture.md and the import contracts of pyproject.toml speak of the same rooms."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
CONTRACTS = PROJECT["tool"]["importlinter"]["contracts"]


def rooms(package: str) -> set[str]:
    """The modules and packages right under ``package``."""
    found = {path.stem for path in (ROOT / package).iterdir() if path.suffix == ".py"}
    found |= {path.parent.name for path in (ROOT / package).glob("*/__init__.py")}
    return found - {"__init__", "__main__"}


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        ("optimizer and simulator know graphs and reasons alone", {"graph", "reasons"}),
        ("graph, reasons, errors and nested_json import nothing of ours", set()),
        ("views read tables only", {"tables", "reasons"}),
    ],
)
def test_what_knows_little_is_forbidden_all_the_rest(name: str, allowed: set[str]) -> None:
    (contract,) = [contract for contract in CONTRACTS if contract["name"] == name]
    sources = {module.removeprefix("phoebe_spark.") for module in contract["source_modules"]}
    forbidden = {module.removeprefix("phoebe_spark.") for module in contract["forbidden_modules"]}
    assert forbidden == rooms("phoebe_spark") - sources - allowed


@pytest.mark.parametrize("package", ["phoebe_spark", "training/phoebe_training"])
def test_every_room_stands_in_the_table_of_its_package(package: str) -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    section = page.split(f"## Rooms of `{package}/`")[1].split("\n## ")[0]
    cells = "".join(re.findall(r"^\| (`[^|]+) \|", section, re.MULTILINE))
    assert set(re.findall(r"`(\w+)(?:/|\.py)`", cells)) == rooms(package)


SCALA = ROOT / "listeners" / "src"


def test_the_table_of_jvm_rooms_is_what_the_suite_allows() -> None:
    suite = (SCALA / "test" / "scala" / "phoebe" / "DirectionsSuite.scala").read_text()
    may_know = suite.split("val MayKnow", 1)[1].split("private val Scheduler", 1)[0]
    allowed = {
        room: set(re.findall(r'"(\w+)"', known))
        for room, known in re.findall(r'"(\w+)" ->\s*Set\(([^)]*)\)', may_know)
    }
    page = (ROOT / "docs" / "architecture.md").read_text()
    table = page.split("## Rooms of `listeners/`", 1)[1].split("\n## ", 1)[0]
    rows = re.findall(r"^\| `(\w+)` \|[^|]*\| ([^|]*) \|$", table, re.MULTILINE)
    said = {
        room: set() if known == "nothing" else set(known.replace("`", "").split(", "))
        for room, known in rows
    }
    assert len(allowed) > 10
    assert said == allowed


def test_product_files_in_packages_of_spark_say_what_for() -> None:
    files = sorted((SCALA / "main" / "scala" / "org" / "apache" / "spark").rglob("*.scala"))
    assert files
    said = re.compile(r"In Spark's\s+(?:\*\s+|//\s+)?package for\s+\S+")
    silent = [str(file) for file in files if not said.search(file.read_text())]
    assert not silent
