"""Sixty random pairs of applications give what plain Spark gives (docs/testing.md)."""

from __future__ import annotations

from tests.exactness.__main__ import SEED
from tests.exactness.engine import Engine
from tests.exactness.fuzz import fuzz, store
from tests.support.places import BUILD

PAIRS = 60


def test_random_pairs_of_applications() -> None:
    out = BUILD / "exactness" / "defects-test"
    lines: list[str] = []
    with Engine() as engine:
        report = fuzz([engine], SEED, PAIRS, 900, lines.append, shrink_s=60)
    store(report.defects, out)
    assert not report.defects, "\n".join(["", *(d.text() for d in report.defects), f"see {out}"])
    assert report.pairs == PAIRS, lines[-1:]
    assert not report.left, "what applications end with"
    assert report.restored_share is not None
    assert report.restored_share >= 0.4, lines[-1:]
