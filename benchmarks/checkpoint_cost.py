"""What a checkpoint costs: ours against ``df.checkpoint()`` and against Parquet by hand.

For each shape of rows (``checkpoint_app.SHAPES``) one query is run, alternating, in one
application: plain; with our checkpoint forced at its shuffle; with ``df.checkpoint()`` of the
DataFrame as it comes out of that shuffle; with the same written as Parquet and read back; on such
rows that are cached, the write of ``df.checkpoint()`` alone; and a job that only reads the shuffle,
from local files and from the store. All write the same rows at the same place, after the one
shuffle that the plain query has too (``frame.repartition(n, key)``), so that each variant's extra
time is what it adds, and what the query computes next reads what was kept. All write to the same
disk. A literal that differs from repeat to repeat keeps one repeat from restoring what another has
written.

Uploads go on beside the query: ``phoebe`` is the time until the query's result is there, as a user
waits for it; ``lag_s`` is how much later the checkpoint was committed, which the next variant waits
for.
"""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import checkpoint_app
from benchmarks.frame import Options, Result, median_ratio
from tests.support import apps, eventlog, queries, tpc
from tests.support import home as homes

APP = Path(__file__).with_name("checkpoint_app.py")
SHAPES = tuple(checkpoint_app.SHAPES)
REPEATS = 5


def run(options: Options) -> Result:
    repeats = options.repeats or REPEATS
    data = tpc.data("tpch", options.scale_factor or 1.0)
    folder = options.work
    spec = folder / "spec.json"
    spec.write_text(
        json.dumps(
            {
                "tables": {n: str(p) for n, p in tpc.tables(data).items()},
                "shapes": SHAPES,
                "repeats": repeats,
                "seed": options.seed,
                "scratch": str(folder / "scratch"),
                "store": str(folder / "store"),
                "results": str(folder / "results.ndjson"),
                "budget_s": options.left_s - 240,
            }
        )
    )
    conf = {
        **queries.SHUFFLE_CONF,
        "spark.phoebe.home": str(folder / "home"),
        "spark.phoebe.mode": "apply",
        "spark.phoebe.checkpoint.dir": str(folder / "store"),
    }
    with apps.submit(
        APP, [str(spec)], folder=folder / "app", conf=conf, plugin="jars", driver_memory="3g"
    ) as app:
        finished = app.wait(timeout_s=options.left_s).check()
    seconds: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    lags: dict[str, list[float]] = defaultdict(list)
    rounds: dict[str, set[int]] = defaultdict(set)
    facts: dict[str, dict[str, Any]] = {}
    for line in (folder / "results.ndjson").read_text().splitlines():
        row = json.loads(line)
        if row["repeat"] > 0:  # the first round warms up
            seconds[row["shape"]][row["variant"]].append(row["seconds"])
            rounds[row["shape"]].add(row["repeat"])
            if row["variant"] == "phoebe":
                lags[row["shape"]].append(row["lag_s"])
    if not all(seconds[s] for s in SHAPES):
        raise RuntimeError(f"only {sorted(seconds)} were measured in the time there was")
    ran = eventlog.read(finished.event_log)
    committed = homes.checkpoint_events(folder / "home", ran.app_id)["committed"]
    for shape in SHAPES:
        facts[shape] = {**_facts(ran, shape), "lag_s": statistics.median(lags[shape])}
    shapes = [_figures(s, seconds[s], facts[s]) for s in SHAPES]
    worst = {key: max(s[key] for s in shapes) for key in _KEYS}
    # The bound on the whole query is for what is at most a fifth of its shuffle bytes.
    worst["query_overhead"] = next(
        (s["query_overhead"] for s in shapes if s["shape"] == "sixth"), None
    )
    expected = sum(len(found["phoebe"]) for found in seconds.values())
    if committed < expected:
        raise RuntimeError(
            f"{committed} of {expected} forced checkpoints were committed: no figure is reported"
        )
    return Result(
        {**worst, "shapes": shapes, "checkpoints_committed": committed},
        repeats=min(len(v["phoebe"]) for v in seconds.values()),
        skipped=_few({shape: len(found) for shape, found in rounds.items()}),
    )


def _few(rounds: Mapping[str, int]) -> list[str]:
    """What to say of shapes that were measured less often than is the rule: the large one always,
    others when time was up."""
    return [
        f"{shape}: {count} repeats instead of {REPEATS}"
        for shape, count in rounds.items()
        if count < REPEATS
    ]


_KEYS = ("vs_df_checkpoint", "vs_df_checkpoint_write", "vs_parquet", "query_overhead",
         "read_vs_local")  # fmt: skip


def _figures(shape: str, seconds: dict[str, list[float]], facts: dict[str, int]) -> dict[str, Any]:
    """Ratios of one shape: medians over repeats; extra times are against the same repeat."""
    plain = seconds["plain"]

    def extra(variant: str) -> list[float]:
        return [a - b for a, b in zip(seconds[variant], plain, strict=False)]

    ours = statistics.median(extra("phoebe"))
    return {
        "shape": shape,
        **facts,
        "vs_df_checkpoint": ours / statistics.median(extra("df_checkpoint")),
        "vs_df_checkpoint_write": ours / statistics.median(seconds["df_checkpoint_write"]),
        "vs_parquet": ours / statistics.median(extra("parquet")),
        "query_overhead": median_ratio(zip(seconds["phoebe"], plain, strict=False)),
        "read_vs_local": median_ratio(
            zip(seconds["read_store"], seconds["read_local"], strict=False)
        ),
        "seconds": {name: statistics.median(values) for name, values in seconds.items()},
        "extra_s": {v: extra(v) for v in ("phoebe", "df_checkpoint", "parquet")},
    }


def _facts(ran: eventlog.AppRun, shape: str) -> dict[str, int]:
    """Of the shuffle that is checkpointed: the largest, or one of those of its size."""
    largest = max(ran.stages_of(f"{shape} plain 1"), key=lambda s: s.shuffle_write_bytes)
    return {"shuffle_bytes": largest.shuffle_write_bytes, "rows": largest.shuffle_write_rows}
