"""Which of Spark's suites are run: ``choice.toml``, ``all`` of Spark SQL's, or names."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path

from tests.suites.jvm import Chosen

CHOICE = Path(__file__).parent / "choice.toml"


class NoSuchSuiteError(ValueError):
    """A name that no suite, or that more than one has."""


def choose(choice: str, suites: list[str], path: Path = CHOICE) -> list[Chosen]:
    """The suites of ``choice``: ``default``, ``all``, or names (short or full ones) with commas
    between them. ``suites``: the full names of all there are. Raises ``NoSuchSuiteError``."""
    table = tomllib.loads(path.read_text())
    tests: Mapping[str, list[str]] = table["default"]
    if choice == "default":
        return [Chosen(_named(name, suites), tuple(some)) for name, some in tests.items()]
    if choice == "all":
        left_out = tuple(table["left_out"])
        return [Chosen(name) for name in suites if not name.startswith(left_out)]
    return [Chosen(_named(name.strip(), suites)) for name in choice.split(",")]


def _named(name: str, suites: list[str]) -> str:
    found = [s for s in suites if s == name or s.endswith(f".{name}")]
    if len(found) != 1:
        raise NoSuchSuiteError(f"{name}: {', '.join(found) if found else 'there is no such suite'}")
    return found[0]
