"""What the planner hook adds to a query, summed over all of its re-plans, advice included.

The hook's own clock (``phoebe_spark.status``) says what each query of 100 exchanges paid, in five
cases: with advice asked for about a query that comes again and again, and about one that is another
each time; with boundaries checkpointed throughout the plan, so that re-plans have work to do; and
the first and the third with a table of 100,000 files among the inputs. A short query is run by
turns with the plugin applied and switched off, and compared end to end.
"""

from __future__ import annotations

import json
import os
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import twelve
from benchmarks.frame import Options, Result
from phoebe_spark.ingest.run import ingest
from tests.support import apps
from tests.support.places import ROOT

APP = Path(__file__).with_name("plan_latency_app.py")
LOGS = ROOT / "tests" / "data" / "eventlogs"
TABLES, ROWS = 12, 1000
PARTITIONS, FILES = 101, 1000
CUTS = "e10,e30,e50,e70,e90"
"""Boundaries that the cases ``cuts`` checkpoint: more than advice ever names (three cuts)."""

ADVISED = {"spark.phoebe.min_duration_ms": "0"}
FORCED = {"spark.phoebe.force": CUTS}


def run(options: Options) -> Result:
    pairs = options.repeats or 40
    folder = options.work
    home = folder / "home"
    ingest(sorted(LOGS.glob("*.zstd")), home)
    twelve.train(home, folder / "train.log")
    options.say("models trained")
    tables = _tables(folder / "tables")
    tables["files"] = _many_files(folder / "files", tables["t0"])
    options.say(f"{PARTITIONS * FILES} files made")
    cases = [
        _case("wide_advised", "wide", ADVISED, pairs, warm_up=15, explained=60),
        _case("other_advised", "other", ADVISED, pairs, explained=40),
        _case("wide_cuts", "wide", FORCED, pairs, warm_up=10, explained=40),
        _case("files_advised", "files", ADVISED, pairs // 2, explained=5),
        _case("files_cuts", "files", FORCED, pairs // 2, explained=5),
        _case("short", "short", {}, 10 * pairs, paired=True, warm_up=60),
    ]
    shares = (0.25, 0.4, 0.55, 0.75, 0.9, 1.0)
    for case, share in zip(cases, shares, strict=True):
        case["until_s"] = share * (options.left_s - 240)
    spec = folder / "spec.json"
    results = folder / "results.ndjson"
    told = {"tables": {n: str(p) for n, p in tables.items()}, "cases": cases}
    spec.write_text(json.dumps({**told, "results": str(results)}))
    conf = {
        "spark.phoebe.home": str(home),
        "spark.phoebe.mode": "apply",
        "spark.sql.shuffle.partitions": "2",
        "spark.sql.autoBroadcastJoinThreshold": "-1",
        "spark.sql.classic.shuffleDependency.fileCleanup.enabled": "true",
        "spark.phoebe.checkpoint.retain": "failure",
    }
    with apps.submit(
        APP, [str(spec)], folder=folder / "app", conf=conf, plugin="jars", driver_memory="2g",
        with_event_log=False,
    ) as app:  # fmt: skip
        app.wait(timeout_s=options.left_s).check()
    rows = [json.loads(line) for line in results.read_text().splitlines()]
    by_case: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        if row["pair"] >= 0:
            by_case[row["case"]].append(row)
    figures = {name: _hook(found) for name, found in by_case.items()}
    plans = [f for name, f in figures.items() if name != "short"]
    extra = _extra(by_case["short"])
    return Result(
        {
            "p50_ms": max(f["p50_ms"] for f in plans),
            "p99_ms": max(f["p99_ms"] for f in plans),
            "stages": min(f["stages"] for f in plans),
            "short_query_extra_ms": statistics.median(extra),
            "short_query_ms": statistics.median(
                r["seconds"] * 1000 for r in by_case["short"] if r["mode"] == "off"
            ),
            "short_pairs": len(extra),
            **figures,
        },
        repeats=min(f["runs"] for f in plans),
    )


def _case(
    name: str, text: str, conf: dict[str, str], pairs: int, *, paired: bool = False,
    warm_up: int = 5, explained: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """``warm_up`` runs are not counted, and before them the query is ``explained`` so often."""
    return {
        "name": name, "text": text, "conf": conf, "pairs": pairs, "paired": paired,
        "warm_up": warm_up, "explained": explained,
    }  # fmt: skip


def _hook(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Over the runs with the plugin on: what its hook cost, and how often it was called."""
    hooks = [r["hook"] for r in rows if r["hook"]]
    ms = sorted(h["ms"] for h in hooks)
    return {
        "p50_ms": statistics.median(ms),
        "p99_ms": ms[min(len(ms) - 1, int(0.99 * len(ms)))],
        "advice_p50_ms": statistics.median(h["advice_ms"] for h in hooks),
        "passes": statistics.median(h["passes"] for h in hooks),
        "stages": min(h["boundaries"] for h in hooks),
        "runs": len(ms),
        "query_s": statistics.median(r["seconds"] for r in rows if r["hook"]),
    }


def _extra(rows: list[dict[str, Any]]) -> list[float]:
    """Milliseconds that a run with the plugin took longer than its partner without it."""
    pairs: dict[int, dict[str, float]] = defaultdict(dict)
    for row in rows:
        pairs[row["pair"]][row["mode"]] = row["seconds"] * 1000
    return [p["apply"] - p["off"] for p in pairs.values() if len(p) == 2]


def _tables(folder: Path) -> dict[str, Path]:
    """Small tables of one file each: keys in another order in each of them."""
    made = {}
    folder.mkdir(parents=True)
    for number in range(TABLES):
        keys = [(i * (2 * number + 3)) % ROWS for i in range(ROWS)]
        table = pa.table(
            {"k": keys, "g": [k % 20 for k in keys], "v": [(k * 7 + number) % ROWS for k in keys]}
        )
        made[f"t{number}"] = folder / f"t{number}"
        made[f"t{number}"].mkdir()
        pq.write_table(table, made[f"t{number}"] / "part-0.parquet")
    return made


def _many_files(folder: Path, like: Path) -> Path:
    """A partitioned table of 100,000 files, all but a few of them links. A query names the one
    partition with a single file by a subquery: all are listed when it is planned, one is read."""
    rows = pq.read_table(like / "part-0.parquet")
    for partition in range(PARTITIONS):
        number_of_files = FILES if partition < PARTITIONS - 1 else 1
        inside = folder / f"p={ROWS - PARTITIONS + partition}"
        inside.mkdir(parents=True)
        pq.write_table(rows, inside / "part-0.parquet")
        for number in range(1, number_of_files):
            os.link(inside / "part-0.parquet", inside / f"part-{number}.parquet")
    return folder
