"""Which tests are left to the nightly run, and which test guards the same in every run."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.breakages import listed

_NAMED = re.compile(r"tests/[\w/]+\.py(?=::)")


@dataclass(frozen=True, slots=True)
class Collected:
    """A test as pytest names it. ``guarded_by`` is None unless it is nightly, and empty if that
    mark names no guard."""

    name: str
    guarded_by: str | None


class Collector:
    """Keeps what pytest collects; a plugin of one call of ``pytest.main``."""

    def __init__(self) -> None:
        self.found: list[Collected] = []

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        for item in session.items:
            mark = item.get_closest_marker("nightly")
            guard = mark and str(mark.kwargs.get("guarded_by", ""))
            self.found.append(Collected(item.nodeid, guard))


def files(tests: Path) -> set[Path]:
    """Test files that mark something nightly, and those that they name as guards."""
    marking = {p for p in tests.rglob("test_*.py") if "mark.nightly" in p.read_text()}
    named = {name for path in marking for name in _NAMED.findall(path.read_text())}
    return marking | {path for name in named if (path := tests.parent / name).exists()}


def unguarded(root: Path, collected: Iterable[Collected]) -> dict[str, str]:
    """What is wrong with the guard of each nightly test, where something is."""
    every = list(collected)
    wrong = {
        one.name: _wrong(root, one.guarded_by, every) for one in every if one.guarded_by is not None
    }
    return {name: why for name, why in wrong.items() if why}


def _wrong(root: Path, guard: str, collected: list[Collected]) -> str:
    place, _, test = guard.partition("::")
    if not test:
        return "names no test"
    if not place.startswith("tests/"):
        return "" if _in_suite(root, place, test) else f"{guard} is not there"
    named = [one for one in collected if one.name == guard or one.name.startswith(f"{guard}[")]
    if not named:
        return f"{guard} is not there"
    return "" if all(one.guarded_by is None for one in named) else f"{guard} is nightly itself"


def _in_suite(root: Path, suite: str, test: str) -> bool:
    found = (root / listed.SUITES).rglob(f"{suite}.scala")
    return any(f'test("{test}")' in path.read_text() for path in found)
