"""What two runs' fingerprints differ by, from the recorded parts alone."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from phoebe_spark.views.differences import Comparison, compare

INPUT = {"root": "file:/t", "version": "v1", "files": 2, "bytes": 10, "newest_ms": 5}
DATE = {"type": "date", "hash": "d1", "since_now": "s0"}
FILTER = {"name": "Filter", "shape": "f1", "literals": [DATE]}
PARTS: dict[str, Any] = {
    "settings": {"time_zone": "UTC"},
    "inputs": [INPUT],
    "partitions": 4,
    "operators": [{"name": "HashPartitioning", "shape": "h1", "literals": []}, FILTER],
}


def row(fingerprint: str | None, *, execution: int = 0, boundary: str = "e0", **parts: Any) -> Any:
    return {
        "execution_id": execution,
        "boundary_id": boundary,
        "fingerprint": fingerprint,
        "parts": orjson.dumps({**PARTS, **parts}).decode() if fingerprint else None,
    }


def diff(one: list[Any], other: list[Any]) -> Comparison:
    return compare(one, other, {})


def only(**parts: Any) -> tuple[str, str]:
    """The code and the sentence of the only cause."""
    found = diff([row("a")], [row("b", **parts)])
    assert found.changed == 1
    (difference,) = found.differences
    assert difference.boundaries == ((0, "e0"),)
    return difference.reason.code, difference.reason.message


def literal(**changed: Any) -> list[Any]:
    return [PARTS["operators"][0], {**FILTER, "literals": [{**DATE, **changed}]}]


def test_equal_runs_differ_by_nothing() -> None:
    found = diff([row("a")], [row("a", execution=7)])
    assert (found.same, found.changed, found.differences) == (1, 0, ())


@pytest.mark.parametrize(
    ("parts", "code", "said"),
    [
        ({"settings": {"time_zone": "Asia/Tokyo"}}, "setting", "time_zone: UTC became Asia/Tokyo"),
        ({"settings": {}}, "setting", "time_zone: UTC became as by default"),
        ({"partitions": 5}, "partitions", "5 partitions instead of 4"),
        (
            {"inputs": [{**INPUT, "version": "v2", "files": 3, "bytes": 17}]},
            "input",
            "input file:/t changed: 2 files became 3, 10 bytes became 17",
        ),
        (
            {"inputs": [{**INPUT, "version": "v2"}]},
            "input",
            "another version of as many files and bytes",
        ),
        ({"inputs": []}, "input", "is not read any more"),
        ({"operators": literal(hash="d2", since_now="s1")}, "literal", "a literal of type date"),
        ({"operators": literal(hash="d2")}, "literal_follows_clock", "current_date"),
        (
            {"operators": [PARTS["operators"][0], {**FILTER, "shape": "f2"}]},
            "expression",
            "an expression of Filter changed",
        ),
        (
            {"operators": PARTS["operators"][:1]},
            "operator",
            "the plan has nothing instead of Filter",
        ),
    ],
)
def test_each_cause_is_named(parts: dict[str, Any], code: str, said: str) -> None:
    found, message = only(**parts)
    assert found == code
    assert said in message


def test_one_cause_is_told_once_with_all_that_it_reaches() -> None:
    changed = {"settings": {"time_zone": "Asia/Tokyo"}}
    one = [row("a", boundary="e0"), row("b", boundary="e1")]
    other = [row("c", boundary="e0", **changed), row("d", boundary="e1", **changed)]
    (difference,) = diff(one, other).differences
    assert difference.boundaries == ((0, "e0"), (0, "e1"))


def test_what_only_lies_downstream_is_counted_and_not_explained() -> None:
    found = diff([row("a")], [row("b")])
    assert (found.changed, found.downstream, found.differences) == (1, 1, ())


def test_executions_are_partners_by_name_and_order() -> None:
    one = [row("a", execution=1), row("b", execution=2, partitions=9)]
    other = [row("c", execution=5, partitions=9), row("d", execution=6)]
    names = {"one": {1: "load", 2: "sum"}, "other": {5: "sum", 6: "load"}}
    found = compare(one, other, names)
    assert (found.changed, found.downstream, found.unmatched) == (2, 2, 0)


def test_boundaries_without_partner_or_fingerprint_are_counted() -> None:
    found = diff([row(None)], [row("b"), row(None, boundary="e1")])
    assert (found.changed, found.unmatched, found.unknown) == (1, 1, 2)
