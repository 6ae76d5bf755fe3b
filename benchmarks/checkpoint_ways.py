"""The ways to write a checkpoint, against each other: what each of them adds to the query.

``phoebe`` is what the plugin does: the map task leaves its output, and an upload beside the query
copies it. In ``copy`` the task packs its output into the store itself before it ends, with the same
code; in ``tee`` every byte that the task writes goes to the store as well. One application, one
large shuffle each (the last two ways also store the few rows of the one above it), the ways in a
new order in each round.

What counts is how much later the query's result is there: ``lag_s`` is how much later still
``phoebe`` had committed. In ``narrow_400`` Spark makes a task's only spill its output by a rename;
``tee`` has it copied instead, to see its bytes.
"""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

from benchmarks.checkpoint_ways_app import PLAIN, SHAPES, WAYS
from benchmarks.frame import Options, Result, median_ratio
from tests.support import apps, queries, tpc
from tests.support.places import testing_jar

APP = Path(__file__).with_name("checkpoint_ways_app.py")
REPEATS = 5


def run(options: Options) -> Result:
    folder = options.work
    spec, results = folder / "spec.json", folder / "results.ndjson"
    data = tpc.data("tpch", options.scale_factor or 1.0)
    told = {
        "tables": {name: str(place) for name, place in tpc.tables(data).items()},
        "repeats": options.repeats or REPEATS,
        "seed": options.seed,
        "store": str(folder / "store"),
        "results": str(results),
        "budget_s": options.left_s - 60,
    }
    spec.write_text(json.dumps(told))
    conf = {
        **queries.SHUFFLE_CONF,
        "spark.phoebe.home": str(folder / "home"),
        "spark.phoebe.checkpoint.dir": str(folder / "store"),
        "spark.shuffle.sort.io.plugin.class": (
            "org.apache.spark.sql.execution.phoebe.TaskWritesDataIO"
        ),
    }
    with apps.submit(
        APP, [str(spec)], folder=folder / "app", conf=conf, plugin="jars", driver_memory="3g",
        packages_jars=[testing_jar()], with_event_log=False,
    ) as app:  # fmt: skip
        app.wait(timeout_s=options.left_s).check()
    runs: dict[str, dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for line in results.read_text().splitlines():
        row = json.loads(line)
        if row["round"] > 0:  # the first one warms up
            runs[row["shape"]][row["way"]].append(row)
    if not runs:
        raise RuntimeError("nothing was measured in the time there was")
    shapes = [_figures(shape, runs[shape]) for shape in SHAPES]
    added = {way: sum(s["extra_s"][way] for s in shapes) for way in WAYS}
    rounds = min(len(found["phoebe"]) for found in runs.values())
    return Result(
        {
            "vs_copy": added["phoebe"] / added["copy"],
            "vs_tee": added["phoebe"] / added["tee"],
            "extra_s": added,
            "stored_bytes": sum(s["stored_bytes"] for s in shapes),
            "shapes": shapes,
        },
        repeats=rounds,
        skipped=[f"{rounds} repeats instead of {REPEATS}"] if rounds < REPEATS else [],
    )


def _figures(shape: str, runs: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """One shape's, by way: extra seconds are medians over rounds, each against its round's plain
    run."""
    seconds = {way: [run["seconds"] for run in found] for way, found in runs.items()}
    paired = {way: list(zip(seconds[way], seconds[PLAIN], strict=True)) for way in WAYS}
    return {
        "shape": shape,
        "plain_s": statistics.median(seconds[PLAIN]),
        "extra_s": {way: statistics.median(a - b for a, b in paired[way]) for way in WAYS},
        "query_overhead": {way: median_ratio(paired[way]) for way in WAYS},
        "stored_bytes": runs["copy"][-1]["stored_bytes"],
        "lag_s": statistics.median(run["lag_s"] for run in runs["phoebe"]),
    }
