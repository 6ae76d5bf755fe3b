"""How much local shuffle storage is freed, sampled from the disks: the twelve queries.

One application runs each query three times in turn, in an order that rotates: without the plugin
(mode `off`), with the oracle's cuts forced, and with the cuts that the companion advises. The
shuffle files under the executor's local directory are sampled every 50 ms. A byte-second freed is
one that the plain run held and the other did not. Without checkpoints Spark's own clean-up is on,
in all three. The checkpoint store is new in each bench, so nothing is restored; should something be
after all, ``skipped`` says so, because it would count as freed.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.frame import Options, Result, median_ratio
from benchmarks.twelve import HISTORY, Prepared, Query, conf, data_of, judge, prepare
from tests.support import eventlog, queries
from tests.support import home as homes
from tests.support.compare import compare_results
from tests.support.disk import DiskSampler, Usage

HOTSPOTS = 3
_OFF = {"spark.phoebe.mode": "off", "spark.phoebe.force": "none"}
VARIANTS = ("plain", "oracle", "advised")
KEYS = (
    "freed_vs_computed",
    "hotspot_freed_oracle",
    "hotspot_freed_advised",
    "advised_vs_oracle",
    "peak_ratio",
    "wall_ratio",
)


@dataclass(frozen=True, slots=True)
class _Measured:
    usage: Usage
    seconds: float
    committed: int
    restored: int


def run(options: Options) -> Result:
    prepared = prepare(options)
    judged = judge(prepared.queries, "temp")
    answers, proven = judged.answers, judged.queries(prepared.queries)
    # First all texts on small data, not measured: code that is compiled and caches that are warm.
    small = prepared.scale_factor * HISTORY[0]
    listed = [
        queries.Item(f"{q.name} warm", data_of(q.name, small), text=q.name, conf=_OFF)
        for q in proven
    ]
    for number, query in enumerate(proven):
        turn = number % len(VARIANTS)
        for variant in VARIANTS[turn:] + VARIANTS[:turn]:
            listed.append(_item(prepared, query, variant, query.force(answers[query.name])))
    folder, store = options.work / "app", options.work / "store"
    options.say("the twelve: plain, oracle, advised")
    with (
        queries.submit_queries(
            listed,
            folder=folder,
            app_name="the-twelve",
            conf=conf(prepared.home, "apply", objective="temp", checkpoint__dir=str(store)),
            plugin="jars",
            driver_memory="4g",
            settle_s=0.5,
        ) as app,
        DiskSampler([folder / "local"]) as sampler,
    ):
        finished = app.wait(timeout_s=1500).check()
        app.close(grace_s=15)
    app_id = eventlog.read(finished.event_log).app_id
    timings = queries.timings(folder)
    committed = _events(prepared, app_id, "committed")
    restored = _events(prepared, app_id, "restored")
    rows = []
    for query in proven:
        measured = {}
        for variant in VARIANTS:
            name = f"{query.name} {variant}"
            timing = timings[name]
            usage = sampler.usage.between(timing.started, timing.ended + 0.4)
            measured[variant] = _Measured(usage, timing.seconds, committed[name], restored[name])
        wrong = [
            v
            for v in VARIANTS[1:]
            if compare_results(
                queries.output(folder, f"{query.name} plain"),
                queries.output(folder, f"{query.name} {v}"),
            )
        ]
        rows.append(_row(query, measured, answers[query.name].value, wrong))
    return _result(rows, judged.skipped)


def _item(prepared: Prepared, query: Query, variant: str, force: str) -> queries.Item:
    settings = {
        "spark.phoebe.mode": "off" if variant == "plain" else "apply",
        "spark.phoebe.force": force if variant == "oracle" else "none",
    }
    if variant == "oracle" and force == "none":
        settings["spark.phoebe.mode"] = "off"  # the oracle's answer is to checkpoint nothing
    return queries.Item(
        f"{query.name} {variant}",
        data_of(query.name, prepared.scale_factor),
        text=query.name,
        conf=settings,
    )


def _events(prepared: Prepared, app_id: str, event: str) -> Counter[str]:
    """How many checkpoints had ``event``, by the name of the item that ran."""
    names = {
        r["execution_id"]: str(r["description"])
        for r in homes.records(prepared.home, "executions", app_id)
    }
    return Counter(
        names.get(row["execution_id"], "")
        for row in homes.records(prepared.home, "checkpoints", app_id)
        if row["event"] == event
    )


def _row(
    query: Query, measured: dict[str, _Measured], computed: float, wrong: list[str]
) -> dict[str, Any]:
    plain = measured["plain"].usage
    return {
        "query": query.name,
        "stages": len(query.stages),
        "shuffle_bytes": query.shuffle_bytes,
        "computed_byte_seconds": computed,
        "byte_seconds": {v: m.usage.byte_seconds for v, m in measured.items()},
        "freed": {
            v: plain.byte_seconds - m.usage.byte_seconds
            for v, m in measured.items()
            if v != "plain"
        },
        "peak_bytes": {v: m.usage.peak_bytes for v, m in measured.items()},
        "seconds": {v: m.seconds for v, m in measured.items()},
        "checkpoints": {v: m.committed for v, m in measured.items()},
        "restored": {v: m.restored for v, m in measured.items()},
        "wrong_results": wrong,
    }


def _result(rows: list[dict[str, Any]], unproven: Sequence[str] = ()) -> Result:
    if not rows:
        return Result(dict.fromkeys(KEYS), 0, skipped=list(unproven))
    by_use = sorted(rows, key=lambda r: -r["byte_seconds"]["plain"])
    hot = by_use[:HOTSPOTS]
    forced = [r for r in rows if r["checkpoints"]["oracle"]]
    why = {}

    def total(of: list[dict[str, Any]], key: str, variant: str) -> float:
        return float(sum(r[key][variant] for r in of))

    def share(variant: str) -> float | None:
        held = total(hot, "byte_seconds", "plain")
        return total(hot, "freed", variant) / held if held else None

    computed = sum(r["computed_byte_seconds"] for r in forced)
    freed_oracle = total(rows, "freed", "oracle")
    figures = {
        "freed_vs_computed": total(forced, "freed", "oracle") / computed if computed else None,
        "hotspot_freed_oracle": share("oracle"),
        "hotspot_freed_advised": share("advised"),
        "advised_vs_oracle": (
            total(rows, "freed", "advised") / freed_oracle if freed_oracle > 0 else None
        ),
        "peak_ratio": median_ratio(
            (r["peak_bytes"]["advised"], r["peak_bytes"]["plain"]) for r in rows
        ),
        "wall_ratio": median_ratio((r["seconds"]["advised"], r["seconds"]["plain"]) for r in rows),
        "wall_ratio_oracle": median_ratio(
            (r["seconds"]["oracle"], r["seconds"]["plain"]) for r in rows
        ),
        "hotspots": [r["query"] for r in hot],
        "wrong_results": sum(len(r["wrong_results"]) for r in rows),
        "mean_checkpoints": {
            v: statistics.mean(r["checkpoints"][v] for r in rows) for v in VARIANTS[1:]
        },
        "queries": rows,
    }
    if not forced:
        why["freed_vs_computed"] = "no forced checkpoint was committed"
    if freed_oracle <= 0:
        why["advised_vs_oracle"] = "the oracle's cuts freed nothing"
    return Result(figures, repeats=1, why_null=why, skipped=[*unproven, *_doubts(rows)])


def _doubts(rows: Sequence[dict[str, Any]]) -> list[str]:
    """What falls short of the rules fixed for this bench."""
    found = ["repeats: one round of each query; the rule is at least 5 pairs"]
    for row in rows:
        for variant in VARIANTS[1:]:
            if row["restored"][variant]:
                found.append(f"{row['query']} {variant}: restored, so not only freed")
    nothing = [r["query"] for r in rows if not r["checkpoints"]["advised"]]
    if nothing:
        found.append(f"no advised checkpoint was committed: {', '.join(nothing)}")
    return found
