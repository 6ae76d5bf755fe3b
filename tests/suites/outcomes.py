"""What Spark's suites said: results of tests, what differs between runs, and what may differ.

Reads ScalaTest's JUnit reports and the committed list ``expected.toml``. Runs nothing.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

EXPECTED = Path(__file__).parent / "expected.toml"

# Characters that XML does not allow, which ScalaTest writes as they are.
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_NOT_XML_REFERENCE = re.compile(r"&#(x[0-9a-fA-F]+|[0-9]+);")


@dataclass(frozen=True, slots=True)
class Outcome:
    """A test's end: ``passed``, ``failed`` or ``skipped``, and the failure's text if it failed."""

    status: str
    why: str = ""

    @property
    def passed(self) -> bool:
        return self.status == "passed"


Outcomes = dict[str, Outcome]  # by the test's name


@dataclass(frozen=True, slots=True, order=True)
class Difference:
    """A test that passed without the plugin and did not with it."""

    suite: str
    test: str
    run: str
    why: str


@dataclass(frozen=True, slots=True)
class Reason:
    """Why tests of Spark's may fail: they count or match plan nodes. ``shows``: what such a failure
    says (one of these texts; " ... " in it stands for anything); a failure that says something else
    is not expected."""

    why: str
    shows: tuple[str, ...]
    tests: frozenset[tuple[str, str]]

    def covers(self, difference: Difference) -> bool:
        named = (difference.suite, difference.test) in self.tests
        return named and any(_says(difference.why, text) for text in self.shows)


def _says(why: str, text: str) -> bool:
    parts = map(re.escape, text.split(" ... "))
    return re.search(".*".join(parts), why, re.DOTALL) is not None


class BadListError(ValueError):
    """The committed list cannot be used; says what is wrong with it."""


def read_report(report: Path) -> Outcomes:
    """The outcomes in one JUnit file of ScalaTest's; raises ``ElementTree.ParseError``."""
    text = _NOT_XML.sub("\ufffd", report.read_text(encoding="utf-8", errors="replace"))
    root = ElementTree.fromstring(_NOT_XML_REFERENCE.sub(_reference, text))
    return {case.get("name", ""): _outcome(case) for case in root.iter("testcase")}


def _reference(match: re.Match[str]) -> str:
    digits = match[1]
    code = int(digits[1:], 16) if digits.startswith("x") else int(digits)
    allowed = code <= 0x10FFFF and not _NOT_XML.match(chr(code))
    return match[0] if allowed else "\ufffd"


def _outcome(case: ElementTree.Element) -> Outcome:
    for child in case:
        if child.tag in ("failure", "error"):
            texts = [child.get("message", ""), child.text or ""]
            return Outcome("failed", "\n".join(t for t in texts if t))
        if child.tag == "skipped":
            return Outcome("skipped")
    return Outcome("passed")


def differences(suite: str, run: str, plain: Outcomes, ours: Outcomes | None) -> list[Difference]:
    """Tests of ``suite`` that passed in the plain run and not in ``run``. ``ours`` None: the suite
    did not end."""
    found = []
    for test, outcome in plain.items():
        if not outcome.passed:
            continue
        other = None if ours is None else ours.get(test)
        if other is None:
            found.append(Difference(suite, test, run, "did not run: the suite ended before it"))
        elif not other.passed:
            found.append(Difference(suite, test, run, other.why or other.status))
    return found


def read_expected(path: Path = EXPECTED) -> list[Reason]:
    """The committed list; raises ``BadListError``."""
    rows = tomllib.loads(path.read_text()).get("reason", [])
    return [_reason(row) for row in rows]


def _reason(row: Mapping[str, object]) -> Reason:
    why, shows, suites = row.get("why"), row.get("shows"), row.get("tests")
    if set(row) != {"why", "shows", "tests"}:
        raise BadListError(f"a reason has the keys why, shows and tests, not {sorted(row)}")
    if not isinstance(why, str) or not why.strip().endswith("."):
        raise BadListError(f"a reason is a sentence: {why!r}")
    if not isinstance(shows, list) or not shows or not all(isinstance(s, str) for s in shows):
        raise BadListError(f"shows is a list of texts, for: {why}")
    if any(not text.strip() for text in shows):
        raise BadListError(f"an empty text shows nothing, for: {why}")
    if not isinstance(suites, dict) or not suites:
        raise BadListError(f"tests is a table of lists of names by suite, for: {why}")
    return Reason(
        why, tuple(shows), frozenset((s, t) for s, tests in suites.items() for t in tests)
    )


@dataclass(frozen=True, slots=True)
class Judgement:
    """``expected``: differences that the list explains; ``new``: those that it does not; ``stale``:
    names in the list whose suite ran, and that differed in nothing."""

    expected: tuple[Difference, ...]
    new: tuple[Difference, ...]
    stale: tuple[tuple[str, str], ...]


def judge(found: Iterable[Difference], reasons: Iterable[Reason], ran: Iterable[str]) -> Judgement:
    """Sets what was found against the list. ``ran``: suites that ran whole, in all runs."""
    found, reasons, ran = sorted(found), list(reasons), set(ran)
    expected = [d for d in found if any(r.covers(d) for r in reasons)]
    differ = {(d.suite, d.test) for d in found}
    named = {test for reason in reasons for test in reason.tests}
    return Judgement(
        expected=tuple(expected),
        new=tuple(d for d in found if d not in expected),
        stale=tuple(sorted(t for t in named if t[0] in ran and t not in differ)),
    )
