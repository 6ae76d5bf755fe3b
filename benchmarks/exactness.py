"""Bench ``exactness``: random pairs of applications, with the plugin and without it.

``repeats`` is the number of pairs (3,000). Known faults are looked for again afterwards, each in at
most 1,000 pairs, as far as the time goes: a list that was not gone through leaves
``mendings_found`` null, with the reason. ``--choice pairs`` or ``mendings`` leaves the other out.
tests/exactness does the work; docs/testing.md says how.
"""

from __future__ import annotations

from benchmarks.frame import Options, Result
from tests.exactness import mendings
from tests.exactness.engine import engines
from tests.exactness.fuzz import fuzz, store
from tests.support.places import BUILD

PAIRS = 3000
_SHARE_FOR_PAIRS = 0.4
_SIDE_BY_SIDE = 2
_PAIRS_FOR_A_MENDING = 1000


def run(options: Options) -> Result:
    """Fuzzes for two fifths of the time at most, then takes mendings back in what is left."""
    known = mendings.read() if options.choice != "pairs" else []
    share = _SHARE_FOR_PAIRS if known else 1.0
    pairs = (options.repeats or PAIRS) if options.choice != "mendings" else 0
    with engines(_SIDE_BY_SIDE) as side_by_side:
        report = fuzz(side_by_side, options.seed, pairs, share * options.left_s, options.say)
    defects = BUILD / "bench" / "exactness-defects"
    for path in store(report.defects, defects):
        options.say(f"python -m tests.exactness replay {path}")
    results = []
    if known:
        results = mendings.find_again(
            [], options.seed, _PAIRS_FOR_A_MENDING, options.left_s, options.say, options.left_s
        )
    why_null = {}
    if len(results) < len(known):
        why_null["mendings_found"] = f"time for {len(results)} of {len(known)} mendings: --minutes"
    elif not known:
        why_null["mendings_found"] = "they were not looked for: --choice pairs"
    found = sum(r.found for r in results)
    return Result(
        {
            "pairs": report.pairs,
            "wrong": report.count("wrong"),
            "failed_only_with_us": report.count("failed", "broken"),
            "typed": report.typed,
            "damaged": report.damaged,
            "internal": report.count("internal"),
            "more_work": report.count("work"),
            "restored_share": report.restored_share,
            "mendings_found": None if why_null else found / len(known),
            "mendings": [
                {
                    "name": r.mending.name,
                    "found": r.found,
                    "pairs": r.pairs,
                    "seconds": r.seconds,
                }
                for r in results
            ],
            "plain_errors": report.plain_errors,
            "left": sorted(report.left),
            "not_seen_again": len(report.unconfirmed),
            "pairs_per_minute": 60 * report.pairs / max(report.seconds, 1e-9),
        },
        repeats=report.pairs,
        why_null=why_null,
        broken=bool(report.defects or report.left or report.has_too_many_typed),
        skipped=[] if report.pairs >= pairs else [f"{pairs - report.pairs} pairs: no time"],
    )
