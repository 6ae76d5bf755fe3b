"""What a checkpoint costs: ours against ``df.checkpoint()`` and against Parquet by hand.

For each shape of rows one query is run in five ways, alternating, in one application: plain; with
our checkpoint forced at its shuffle; with ``df.checkpoint()`` of the very rows that the shuffle
carries; with those rows written as Parquet and read back; and, on rows that are cached, the write
of ``df.checkpoint()`` alone. All write to the same disk. A literal that differs from repeat to
repeat keeps one repeat from restoring what another has written.
"""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

from benchmarks.frame import Options, Result, median_ratio
from tests.support import apps, eventlog, queries, tpc
from tests.support import home as homes

APP = Path(__file__).with_name("checkpoint_app.py")
SHAPES = ("narrow", "wide", "joined", "text")


def run(options: Options) -> Result:
    repeats = options.repeats or 5
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
                "budget_s": options.left_s - 120,
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
    facts: dict[str, dict[str, int]] = {}
    for line in (folder / "results.ndjson").read_text().splitlines():
        row = json.loads(line)
        if row["repeat"] > 0:  # the first round warms up
            seconds[row["shape"]][row["variant"]].append(row["seconds"])
    ran = eventlog.read(finished.event_log)
    committed = homes.checkpoint_events(folder / "home", ran.app_id)["committed"]
    for shape in SHAPES:
        facts[shape] = _facts(ran, shape)
    shapes = [_figures(s, seconds[s], facts[s], _read_ratio(ran, s)) for s in SHAPES if seconds[s]]
    expected = sum(len(seconds[s]["phoebe"]) + 1 for s in SHAPES if seconds[s])
    if committed < expected:
        raise RuntimeError(
            f"{committed} of {expected} forced checkpoints were committed: no figure is reported"
        )
    worst = {key: max(s[key] for s in shapes) for key in _KEYS}
    return Result(
        {**worst, "shapes": shapes, "checkpoints_committed": committed},
        repeats=min(len(v["phoebe"]) for v in seconds.values()),
    )


_KEYS = ("vs_df_checkpoint", "vs_df_checkpoint_write", "vs_parquet", "query_overhead",
         "read_vs_local")  # fmt: skip


def _figures(
    shape: str, seconds: dict[str, list[float]], facts: dict[str, int], read: float | None
) -> dict[str, Any]:
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
        "read_vs_local": read,
        "extra_s": {v: extra(v) for v in ("phoebe", "df_checkpoint", "parquet")},
        "write_s": seconds["df_checkpoint_write"],
        "plain_s": plain,
    }


def _facts(ran: eventlog.AppRun, shape: str) -> dict[str, int]:
    stages = ran.stages_of(f"{shape} plain 1")
    last = max((s for s in stages if s.shuffle_write_bytes), key=lambda s: s.stage_id)
    return {"shuffle_bytes": last.shuffle_write_bytes, "rows": last.shuffle_write_rows}


def _read_ratio(ran: eventlog.AppRun, shape: str) -> float | None:
    """Task time of the stage that reads the shuffle: from the checkpoint over from local files."""
    times: dict[str, list[float]] = {"phoebe": [], "plain": []}
    repeat = 1
    while all(ran.stages_of(f"{shape} {v} {repeat}") for v in times):
        for variant, found in times.items():
            reader = max(ran.stages_of(f"{shape} {variant} {repeat}"), key=lambda s: s.stage_id)
            found.append(reader.task_time_ms)
        repeat += 1
    return median_ratio(zip(times["phoebe"], times["plain"], strict=True))
