"""Reads the list of breakages and finds in the sources what each is about.

A breakage says by the end of its path which file it is about (``store/Pack.scala``), so that a
folder may move.
"""

from __future__ import annotations

import re
import shlex
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.exactness.mendings import Mending, MendingError, Replace, edited

FOLDER = Path(__file__).parent
SOURCES = ("phoebe_spark", "training/phoebe_training", "benchmarks", "listeners/src/main")
SUITES = "listeners/src/test"


class BreakageError(RuntimeError):
    """An entry of the list does not say what it must, or does not fit these sources."""


@dataclass(frozen=True, slots=True)
class Breakage:
    """``old``, which occurs once in ``file``, becomes ``new``; then ``caught_by`` fails: what
    pytest takes, or the name of a Scala suite."""

    name: str
    says: str
    file: str
    old: str
    new: str
    caught_by: str

    @property
    def is_scala(self) -> bool:
        return self.file.endswith(".scala")

    @property
    def suite(self) -> bool:
        """Whether a Scala suite is to catch it."""
        return not self.caught_by.startswith("tests/")


def read(folder: Path = FOLDER) -> list[Breakage]:
    """All breakages. Raises ``BreakageError``."""
    found = [one for path in sorted(folder.glob("*.toml")) for one in _read(path)]
    names = [one.name for one in found]
    if twice := {name for name in names if names.count(name) > 1}:
        raise BreakageError(f"two breakages have one name: {', '.join(sorted(twice))}")
    return found


def _read(path: Path) -> list[Breakage]:
    try:
        value: dict[str, Any] = tomllib.loads(path.read_text())
        return [Breakage(**one) for one in value["breakage"]]
    except (KeyError, TypeError, ValueError) as error:
        raise BreakageError(f"{path.name}: {error}") from error


def source(root: Path, breakage: Breakage) -> Path:
    """The file that it is about. Raises ``BreakageError`` where there is none, or more than one."""
    name = breakage.file.rpartition("/")[2]
    found = [
        path
        for folder in SOURCES
        for path in (root / folder).rglob(name)
        if path.as_posix().endswith(f"/{breakage.file}")
    ]
    if len(found) != 1:
        raise BreakageError(f"{breakage.name}: {len(found)} files end in {breakage.file}")
    return found[0]


def as_mending(root: Path, breakage: Breakage) -> Mending:
    """As an edit that `tests.exactness.mendings` makes, and its Workshop compiles."""
    file = source(root, breakage).relative_to(root).as_posix()
    return Mending(breakage.name, breakage.says, (Replace(file, breakage.old, breakage.new),))


def broken(root: Path, breakage: Breakage) -> str:
    """The file's text with the breakage. Raises ``BreakageError`` where ``old`` occurs not once."""
    try:
        (text,) = edited(root, as_mending(root, breakage)).values()
    except MendingError as error:
        raise BreakageError(f"{breakage.name}: {error}") from error
    return text


def suite_class(root: Path, name: str) -> str:
    """A Scala suite's full name. Raises ``BreakageError`` where there is none, or more than one."""
    found = list((root / SUITES).rglob(f"{name}.scala"))
    if len(found) != 1:
        raise BreakageError(f"{len(found)} suites are called {name}")
    package = next(
        line.removeprefix("package ").strip()
        for line in found[0].read_text().splitlines()
        if line.startswith("package ")
    )
    return f"{package}.{name}"


def absent_tests(root: Path, caught_by: str) -> list[str]:
    """What is named for pytest, and is not there: files, test functions, words after ``-k``."""
    if not caught_by.startswith("tests/"):
        return []
    wanted, _, words = caught_by.partition(" -k ")
    absent, functions = [], set[str]()
    for name in shlex.split(wanted):
        path, *inside = name.split("::")
        place = root / path
        files = [place] if place.is_file() else list(place.rglob("test_*.py"))
        found = {n for file in files for n in re.findall(r"def (test_\w+)", file.read_text())}
        if not found or (inside and inside[-1].partition("[")[0] not in found):
            absent.append(name)
        functions |= found
    named = set(re.findall(r"\w+", words)) - {"and", "or", "not"}
    excluded = set(re.findall(r"\bnot (\w+)", words))
    return absent + sorted(w for w in named - excluded if not any(w in f for f in functions))


def test_file(root: Path, breakage: Breakage) -> Path:
    """The file of the test that catches it."""
    if breakage.suite:
        name = suite_class(root, breakage.caught_by).rpartition(".")[2]
        return next((root / SUITES).rglob(f"{name}.scala"))
    return root / breakage.caught_by.partition("::")[0].partition(" ")[0]
