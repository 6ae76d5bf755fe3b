"""Outcomes of Spark's suites: reports, comparison, the committed list, the choice. No JVM."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from benchmarks import suites
from benchmarks.frame import Options
from tests.suites.choice import NoSuchSuiteError, choose
from tests.suites.classes import is_concrete
from tests.suites.jvm import Chosen, Ran, read_counts
from tests.suites.outcomes import (
    BadListError,
    Difference,
    Outcome,
    differences,
    judge,
    read_expected,
    read_report,
)

REPORT = """<?xml version="1.0" encoding="UTF-8" ?>
<testsuite errors="0" failures="1" name="a.JoinSuite" tests="4">
  <properties><property name="java.version" value="17"/></properties>
  <testcase name="equi join" classname="a.JoinSuite" time="0.1"> </testcase>
  <testcase name="one &lt; two" classname="a.JoinSuite" time="0.1">
    <failure message="1 did not equal 2 &#1;" type="x">at line \x02 7</failure>
  </testcase>
  <testcase name="left for later" classname="a.JoinSuite" time="0.0"><skipped/></testcase>
  <testcase name="died" classname="a.JoinSuite" time="0.0"><error message="boom"/></testcase>
</testsuite>"""

LIST = """
[[reason]]
why = "It counts exchanges."
shows = ["did not equal ... (JoinSuite.scala:7)", "exchanges"]
[reason.tests]
JoinSuite = ["counts"]
"""


def test_a_report_with_characters_that_xml_does_not_allow_is_read(tmp_path: Path) -> None:
    report = tmp_path / "TEST-a.JoinSuite.xml"
    report.write_text(REPORT)
    found = read_report(report)
    assert {test: o.status for test, o in found.items()} == {
        "equi join": "passed",
        "one < two": "failed",
        "left for later": "skipped",
        "died": "failed",
    }
    assert found["one < two"].why == "1 did not equal 2 \ufffd\nat line \ufffd 7"


def test_only_what_passed_without_the_plugin_can_differ() -> None:
    plain = {
        "same": Outcome("passed"),
        "worse": Outcome("passed"),
        "gone": Outcome("passed"),
        "canceled": Outcome("passed"),
        "never": Outcome("failed", "no network"),
    }
    ours = {
        "same": Outcome("passed"),
        "worse": Outcome("failed", "wrong row"),
        "canceled": Outcome("skipped"),
        "never": Outcome("failed", "other"),
        "new": Outcome("failed"),
    }
    found = differences("S", "restored", plain, ours)
    assert {(d.test, d.why) for d in found} == {
        ("worse", "wrong row"),
        ("gone", "did not run: the suite ended before it"),
        ("canceled", "skipped"),
    }
    assert len(differences("S", "restored", plain, None)) == 4


def test_an_expected_failure_that_says_something_else_is_new(tmp_path: Path) -> None:
    path = tmp_path / "expected.toml"
    path.write_text(LIST)
    shape = Difference(
        "JoinSuite", "counts", "written", "2 did not equal 3\nat f(JoinSuite.scala:7)"
    )
    elsewhere = Difference("JoinSuite", "counts", "written", "2 did not equal 3\nat (A.scala:7)")
    wrong = Difference("JoinSuite", "counts", "restored", "Results do not match")
    other = Difference("JoinSuite", "joins", "restored", "2 did not equal 3")
    judgement = judge([shape, elsewhere, wrong, other], read_expected(path), ["JoinSuite"])
    assert judgement.expected == (shape,)
    assert judgement.new == (wrong, elsewhere, other)
    assert judgement.stale == ()


def test_a_name_that_no_longer_differs_is_said(tmp_path: Path) -> None:
    path = tmp_path / "expected.toml"
    path.write_text(LIST)
    assert judge([], read_expected(path), ["JoinSuite"]).stale == (("JoinSuite", "counts"),)
    assert judge([], read_expected(path), ["OtherSuite"]).stale == ()


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (("It counts exchanges.", ""), "sentence"),
        (('"did not equal ... (JoinSuite.scala:7)", "exchanges"', '" "'), "shows nothing"),
        (('shows = ["did not equal ... (JoinSuite.scala:7)", "exchanges"]', ""), "keys"),
        (('JoinSuite = ["counts"]', ""), "table of lists"),
    ],
)
def test_a_list_that_explains_nothing_is_refused(
    tmp_path: Path, change: tuple[str, str], complaint: str
) -> None:
    path = tmp_path / "expected.toml"
    path.write_text(LIST.replace(*change))
    with pytest.raises(BadListError, match=complaint):
        read_expected(path)


def test_the_committed_list_and_choice_are_whole(tmp_path: Path) -> None:
    read_expected()
    chosen = choose("default", ["org.x.JoinSuite"], _choice_of(tmp_path, ["JoinSuite"]))
    assert chosen == [Chosen("org.x.JoinSuite", ("inner",))]


def _choice_of(folder: Path, names: list[str]) -> Path:
    path = folder / "choice.toml"
    rows = "\n".join(f'"{name}" = ["inner"]' for name in names)
    path.write_text(f'[default]\n{rows}\n[left_out]\n"org.y" = "needs a network."\n')
    return path


def test_suites_are_chosen_by_their_end(tmp_path: Path) -> None:
    names = ["org.x.CsvSuite", "org.x.sub.CsvSuite", "org.x.JsonSuite", "org.y.NetSuite"]
    path = _choice_of(tmp_path, ["JsonSuite"])
    assert choose("org.x.CsvSuite,JsonSuite", names, path) == [
        Chosen("org.x.CsvSuite"),
        Chosen("org.x.JsonSuite"),
    ]
    assert [c.name for c in choose("all", names, path)] == names[:3]
    with pytest.raises(NoSuchSuiteError, match=r"org\.x\.sub\.CsvSuite"):
        choose("CsvSuite", names, path)
    with pytest.raises(NoSuchSuiteError, match="no such suite"):
        choose("XmlSuite", names, path)


@pytest.mark.parametrize(("flags", "concrete"), [(0x21, True), (0x421, False), (0x601, False)])
def test_abstract_suites_are_told_by_their_class_files(flags: int, concrete: bool) -> None:
    text = b"\x01" + struct.pack(">H", 3) + b"abc"
    long_number = b"\x05" + bytes(8)  # takes two places of the pool
    class_name, method = b"\x07\x00\x01", b"\x0f\x06\x00\x01"
    pool = text + long_number + class_name + method
    head = b"\xca\xfe\xba\xbe" + struct.pack(">HHH", 0, 61, 6)
    assert is_concrete(head + pool + struct.pack(">H", flags)) is concrete


def test_counters_are_summed_over_contexts_and_guarded_failures_are_not(tmp_path: Path) -> None:
    lines = tmp_path / "counts"
    lines.write_text(
        '{"checkpoints.committed":2,"failed.plan":1}\n'
        '{"checkpoints.committed":3,"failed.plan":1}\n'
        '{"threads_left":["phoebe-x-0"]}\n'
    )
    assert read_counts(lines) == ({"checkpoints.committed": 5, "failed.plan": 1}, ("phoebe-x-0",))
    assert read_counts(tmp_path / "none") == ({}, ())


@pytest.mark.parametrize(
    ("ran", "newly_failed", "broken"),
    [
        (Ran({"a.S": {"one": Outcome("passed")}}, {"checkpoints.committed": 4}), 0, False),
        (Ran({"a.S": {"one": Outcome("failed", "wrong row")}}), 1, True),
        (Ran({}, ended=False), 1, True),
        (Ran({"a.S": {"one": Outcome("passed")}}, {"failed.commit": 1}), 0, True),
        (Ran({"a.S": {"one": Outcome("passed")}}, threads_left=("phoebe-x-0",)), 0, True),
    ],
)
def test_any_difference_a_guarded_failure_and_a_thread_left_break_the_bench(
    tmp_path: Path, ran: Ran, newly_failed: int, broken: bool
) -> None:
    found = suites.Found(plain={"a.S": {"one": Outcome("passed"), "two": Outcome("failed")}})
    suites.note(found, Options("suites", tmp_path), found.plain, ran, "written-kept")
    result = suites.result(found)
    assert (result.figures["suites"], result.figures["tests"]) == (1, 1)
    assert result.figures["newly_failed"] == newly_failed
    assert result.figures["committed"] == ran.counts.get("checkpoints.committed", 0)
    assert result.broken is broken
