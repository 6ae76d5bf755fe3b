"""How much local shuffle storage is freed, sampled from the disks: the twelve queries.

One application runs each query three times in turn, in an order that rotates: without the plugin
(mode `off`), with the oracle's cuts forced, and with the cuts that the companion advises; and all
of that in as many rounds as the time allows. The shuffle files under the executor's local
directory are sampled every 50 ms. A byte-second freed is one that the plain run held and the other
did not; that carries the noise of how long both took. Removed is what one run shows by itself:
files that came and went before the query's end. Computed is what the model says of the oracle's
cuts under the true values. Which of two stages runs first differs from run to run, and with it how
long a cut can live, so ``removed_vs_computed_in_run`` sets what was removed against what the same
checkpoints can free with the sizes and times of the run that made them. Without checkpoints Spark's
own clean-up is on, in all three. The checkpoint store is new in each bench and looked at once, when
the application starts, so nothing is restored; should something be after all, ``skipped`` says so,
because it would count as freed. Byte-seconds, seconds and peaks of a query are means over its
rounds; ``ratios`` are of pairs. Spilled rows and cached blocks lie in the same directories; they
are reported beside (``spill_byte_seconds``, ``cached_byte_seconds``, per query and as sums), and
count in no share.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Any

from benchmarks.frame import Options, Result, median_ratio
from benchmarks.oracle import Best, through
from benchmarks.twelve import (
    Prepared,
    Query,
    conf,
    data_of,
    judge,
    prepare,
    true_query,
    warm_items,
)
from tests.support import eventlog, queries
from tests.support import home as homes
from tests.support.compare import compare_results
from tests.support.disk import DiskSampler, Usage

HOTSPOTS = 3
PAPER_HOTSPOT_FREED = 0.7
"""What the paper says of hotspots, for comparison (PVLDB 14(11), 2505)."""

_OFF = {"spark.phoebe.mode": "off", "spark.phoebe.force": "none"}
VARIANTS = ("plain", "oracle", "advised")
MOST_ROUNDS = 5
SETTLE_S = 0.5
WARM_UP_S = 90.0
"""What the application's start and the warm texts take."""

COMPUTED = ("freed_vs_computed", "removed_vs_computed", "removed_vs_computed_in_run")
KEYS = (
    *COMPUTED,
    "hotspot_freed_oracle",
    "hotspot_freed_advised",
    "advised_vs_oracle",
    "peak_ratio",
    "wall_ratio",
)


@dataclass(frozen=True, slots=True)
class _Measured:
    usage: Usage
    spill: Usage
    cached: Usage
    removed: float
    seconds: float
    committed: int
    restored: int
    computed: float | None
    """Byte-seconds that the oracle's checkpoints can free with this run's sizes and times; None in
    another variant, or where the tables do not tell."""


def computed_in(query: Query, answer: Best, ran: Query) -> float:
    """Byte-seconds that ``answer``'s checkpoints of ``query`` can free in another run of it.

    Stage ids differ between the runs, fingerprints do not. What a stage wrote can go once it is
    checkpointed itself, or once all that read it can. Times to live count from the stages' ends,
    not from commits. Raises ``LookupError`` where the run has no stage for a checkpoint.
    """
    prints = {query.fingerprints[u] for u in answer.checkpointed}
    if missing := prints - set(ran.fingerprints.values()):
        raise LookupError(f"{query.name}: no stage wrote {', '.join(sorted(missing))}")
    kept = through(ran.stages)
    readers: dict[int, list[int]] = {u: [] for u in kept}
    for u, stage in kept.items():
        for parent in stage.parents:
            readers[parent].append(u)

    @cache
    def freed_for(u: int) -> float:
        """Seconds before the end from which on what ``u`` wrote is not needed locally."""
        if ran.fingerprints.get(u) in prints:
            return kept[u].ttl_s
        return min((freed_for(v) for v in readers[u]), default=0.0)

    return sum(stage.output_bytes * freed_for(u) for u, stage in kept.items())


def run(options: Options) -> Result:
    prepared = prepare(options)
    judged = judge(prepared.queries, "temp")
    answers, proven = judged.answers, judged.queries(prepared.queries)
    if not proven:
        return _result([], 0, judged.skipped)
    # First all texts on small data, not measured: code that is compiled and caches that are warm.
    listed = warm_items(prepared.scale_factor, _OFF)
    rounds = options.repeats or _rounds(options, proven)
    for turn, (number, query) in product(range(rounds), enumerate(proven)):
        first = (turn + number) % len(VARIANTS)
        order = VARIANTS[first:] + VARIANTS[:first]
        for variant in order if turn % 2 == 0 else reversed(order):
            force = query.force(answers[query.name])
            listed.append(_item(prepared, query, variant, turn, force))
    folder, store = options.work / "app", options.work / "store"
    options.say(f"the twelve: plain, oracle, advised; {rounds} rounds")
    with (
        queries.submit_queries(
            listed,
            folder=folder,
            app_name="the-twelve",
            conf=conf(prepared.home, "apply", objective="temp", checkpoint__dir=str(store)),
            plugin="jars",
            driver_memory="4g",
            settle_s=SETTLE_S,
        ) as app,
        DiskSampler([folder / "local"]) as sampler,
    ):
        finished = app.wait(timeout_s=1500).check()
        app.close(grace_s=15)
    app_id = eventlog.read(finished.event_log).app_id
    timings = queries.timings(folder)
    committed = _events(prepared, app_id, "committed")
    restored = _events(prepared, app_id, "restored")
    usage, spill, cached = sampler.usage, sampler.spill, sampler.cached
    rows = []
    for query in proven:
        runs, wrong = [], []
        for turn in range(rounds):
            measured = {}
            for variant in VARIANTS:
                name = _name(query, variant, turn)
                timing = timings[name]
                window = (timing.started, timing.ended + 0.4)
                measured[variant] = _Measured(
                    usage.between(*window),
                    spill.between(*window),
                    cached.between(*window),
                    sampler.removed(timing.started, timing.ended),
                    timing.seconds,
                    committed[name],
                    restored[name],
                    _computed(prepared, query, answers[query.name], app_id, name)
                    if variant == "oracle"
                    else None,
                )
            runs.append(measured)
            expected = queries.output(folder, _name(query, "plain", turn))
            wrong += [
                name
                for name in (_name(query, v, turn) for v in VARIANTS[1:])
                if compare_results(expected, queries.output(folder, name))
            ]
        rows.append(_row(query, runs, answers[query.name].value, wrong))
    return _result(rows, rounds, judged.skipped)


def _computed(
    prepared: Prepared, query: Query, answer: Best, app_id: str, name: str
) -> float | None:
    try:
        return computed_in(query, answer, true_query(prepared.home, app_id, name))
    except LookupError:  # named in `skipped`
        return None


def _rounds(options: Options, proven: Sequence[Query]) -> int:
    """As many as fit into the time that is left, where each run takes what the true one took."""
    seconds = len(VARIANTS) * sum(q.seconds + SETTLE_S for q in proven)
    return max(1, min(MOST_ROUNDS, int((options.left_s - WARM_UP_S) / seconds)))


def _name(query: Query, variant: str, turn: int) -> str:
    return f"{query.name} {variant} {turn}"


def _item(prepared: Prepared, query: Query, variant: str, turn: int, force: str) -> queries.Item:
    settings = {
        "spark.phoebe.mode": "off" if variant == "plain" else "apply",
        "spark.phoebe.force": force if variant == "oracle" else "none",
    }
    if variant == "oracle" and force == "none":
        settings["spark.phoebe.mode"] = "off"  # the oracle's answer is to checkpoint nothing
    return queries.Item(
        _name(query, variant, turn),
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
    query: Query, runs: Sequence[dict[str, _Measured]], computed: float, wrong: list[str]
) -> dict[str, Any]:
    def mean(of: Callable[[_Measured], float]) -> dict[str, float]:
        return {v: statistics.mean(of(run[v]) for run in runs) for v in VARIANTS}

    held = mean(lambda m: m.usage.byte_seconds)
    in_runs = [run["oracle"].computed for run in runs]
    told = [computed for computed in in_runs if computed is not None]
    return {
        "query": query.name,
        "stages": len(query.stages),
        "shuffle_bytes": query.shuffle_bytes,
        "computed_byte_seconds": computed,
        "computed_in_run": statistics.mean(told) if len(told) == len(in_runs) else None,
        "byte_seconds": held,
        "spill_byte_seconds": mean(lambda m: m.spill.byte_seconds),
        "cached_byte_seconds": mean(lambda m: m.cached.byte_seconds),
        "freed": {v: held["plain"] - held[v] for v in VARIANTS[1:]},
        "removed": mean(lambda m: m.removed),
        "peak_bytes": mean(lambda m: m.usage.peak_bytes),
        "seconds": mean(lambda m: m.seconds),
        "ratios": {
            v: [run[v].seconds / run["plain"].seconds for run in runs] for v in VARIANTS[1:]
        },
        "checkpoints": mean(lambda m: m.committed),
        "restored": mean(lambda m: m.restored),
        "wrong_results": wrong,
    }


def _result(rows: list[dict[str, Any]], rounds: int, unproven: Sequence[str] = ()) -> Result:
    if not rows:
        return Result(dict.fromkeys(KEYS), rounds, skipped=list(unproven))
    by_use = sorted(rows, key=lambda r: -r["byte_seconds"]["plain"])
    hot = by_use[:HOTSPOTS]
    forced = [r for r in rows if r["checkpoints"]["oracle"]]
    why: dict[str, str] = {}

    def total(of: list[dict[str, Any]], key: str, variant: str) -> float:
        return float(sum(r[key][variant] for r in of))

    def share(variant: str) -> float | None:
        held = total(hot, "byte_seconds", "plain")
        return total(hot, "freed", variant) / held if held else None

    computed = sum(r["computed_byte_seconds"] for r in forced)
    freed_oracle = total(rows, "freed", "oracle")

    def removed(of: list[dict[str, Any]]) -> float:
        return total(of, "removed", "oracle") - total(of, "removed", "plain")

    told = [r for r in forced if r["computed_in_run"]]
    in_run = sum(r["computed_in_run"] for r in told)
    figures = {
        "freed_vs_computed": total(forced, "freed", "oracle") / computed if computed else None,
        "removed_vs_computed": removed(forced) / computed if computed else None,
        "removed_vs_computed_in_run": removed(told) / in_run if in_run else None,
        "hotspot_freed_oracle": share("oracle"),
        "hotspot_freed_advised": share("advised"),
        "advised_vs_oracle": (
            total(rows, "freed", "advised") / freed_oracle if freed_oracle > 0 else None
        ),
        "peak_ratio": median_ratio(
            (r["peak_bytes"]["advised"], r["peak_bytes"]["plain"]) for r in rows
        ),
        "wall_ratio": statistics.median(x for r in rows for x in r["ratios"]["advised"]),
        "wall_ratio_oracle": statistics.median(x for r in rows for x in r["ratios"]["oracle"]),
        "hotspots": [r["query"] for r in hot],
        "paper_hotspot_freed": PAPER_HOTSPOT_FREED,
        **{
            key: {v: total(rows, key, v) for v in VARIANTS}
            for key in ("byte_seconds", "spill_byte_seconds", "cached_byte_seconds")
        },
        "wrong_results": sum(len(r["wrong_results"]) for r in rows),
        "mean_checkpoints": {
            v: statistics.mean(r["checkpoints"][v] for r in rows) for v in VARIANTS[1:]
        },
        "queries": rows,
    }
    if not forced:
        why |= dict.fromkeys(COMPUTED, "no forced checkpoint was committed")
    elif not in_run:
        why["removed_vs_computed_in_run"] = "the tables do not tell the runs' stages"
    if freed_oracle <= 0:
        why["advised_vs_oracle"] = "the oracle's cuts freed nothing"
    return Result(figures, rounds, why_null=why, skipped=[*unproven, *_doubts(rows, rounds)])


def _doubts(rows: Sequence[dict[str, Any]], rounds: int) -> list[str]:
    """What falls short of the rules fixed for this bench."""
    found = []
    if rounds < MOST_ROUNDS:
        found.append(f"repeats: {rounds} rounds of each query; the rule is {MOST_ROUNDS} pairs")
    for row in rows:
        for variant in VARIANTS[1:]:
            if row["restored"][variant]:
                found.append(f"{row['query']} {variant}: restored, so not only freed")
        if row["computed_in_run"] is None:
            found.append(f"{row['query']}: not in removed_vs_computed_in_run, no times of its run")
    nothing = [r["query"] for r in rows if not r["checkpoints"]["advised"]]
    if nothing:
        found.append(f"no advised checkpoint was committed: {', '.join(nothing)}")
    return found
