"""What observing costs: TPC-H with the plugin in `observe`, without it, and with Spark's event log.

Each repeat submits three applications over the same queries into the ``noop`` sink: without
anything, with the plugin, with Spark's event log. Processor time is that of the whole process tree
(driver JVM, its Python side, companion), start-up included. ``listener_p99_us`` is Spark's own
timer of our listener's class on the listener bus.
"""

from __future__ import annotations

import csv
import statistics
from dataclasses import dataclass
from pathlib import Path

from benchmarks.frame import Options, Result, fresh, median_ratio
from tests.support import queries, tpc
from tests.support.cpu import ProcessMeter

VARIANTS = ("none", "observe", "eventlog")
LISTENER = "HarvestListener"


@dataclass(frozen=True, slots=True)
class _Run:
    cpu_s: float
    wall_s: float
    companion_rss_bytes: int
    listener_p99_us: float | None


def run(options: Options) -> Result:
    repeats = options.repeats or 5
    data = tpc.data("tpch", options.scale_factor or 1.0)
    items = [queries.Item(name, data, output=False) for name in tpc.TPCH_QUERIES]
    runs: dict[str, list[_Run]] = {v: [] for v in VARIANTS}
    done = 0
    for repeat in range(repeats):
        for variant in VARIANTS:
            measured = _measure(fresh(options.work / variant), variant, items)
            runs[variant].append(measured)
            options.say(f"{repeat} {variant}: cpu {measured.cpu_s:.1f} s, {measured.wall_s:.1f} s")
        done = repeat + 1
        if options.left_s < 1.2 * (options.budget_s - options.left_s) / done:
            break
    extra = [
        (o.cpu_s - n.cpu_s, e.cpu_s - n.cpu_s)
        for n, o, e in zip(*(runs[v] for v in VARIANTS), strict=True)
    ]
    observed, plain = runs["observe"], runs["none"]
    p99 = [r.listener_p99_us for r in observed if r.listener_p99_us is not None]
    rss = [r.companion_rss_bytes for r in observed]
    extra_eventlog = statistics.median(e for _, e in extra)
    result = Result(
        {
            "cpu_ratio": median_ratio(
                (o.cpu_s, n.cpu_s) for o, n in zip(observed, plain, strict=True)
            ),
            "wall_ratio": median_ratio(
                (o.wall_s, n.wall_s) for o, n in zip(observed, plain, strict=True)
            ),
            "cpu_vs_eventlog": (
                statistics.median(o for o, _ in extra) / extra_eventlog
                if extra_eventlog > 0
                else None
            ),
            "listener_p99_us": statistics.median(p99) if p99 else None,
            "companion_rss_mb": max(rss) / 1e6 if max(rss) else None,
            "extra_cpu_s": {"observe": [o for o, _ in extra], "eventlog": [e for _, e in extra]},
            "cpu_s": {v: [r.cpu_s for r in rs] for v, rs in runs.items()},
            "wall_s": {v: [r.wall_s for r in rs] for v, rs in runs.items()},
        },
        repeats=done,
    )
    if extra_eventlog <= 0:
        result.why_null["cpu_vs_eventlog"] = (
            "Spark's event log cost no processor time above the noise of these runs"
        )
    return result


def _measure(folder: Path, variant: str, items: list[queries.Item]) -> _Run:
    metrics = fresh(folder / "metrics")
    conf = {
        **queries.SHUFFLE_CONF,
        "spark.phoebe.home": str(folder / "home"),
        "spark.phoebe.mode": "observe",
        # In all variants alike: the file of timers is written once, when the application stops.
        "spark.metrics.conf.*.sink.csv.class": "org.apache.spark.metrics.sink.CsvSink",
        "spark.metrics.conf.*.sink.csv.period": "10",
        "spark.metrics.conf.*.sink.csv.unit": "minutes",
        "spark.metrics.conf.*.sink.csv.directory": str(metrics),
    }
    if variant == "eventlog":  # as Spark comes
        conf |= {"spark.eventLog.compress": "true", "spark.eventLog.rolling.enabled": "true"}
    with (
        queries.submit_queries(
            items,
            folder=folder / "app",
            app_name="tpch-noop",
            conf=conf,
            plugin="jars" if variant == "observe" else "none",
            with_event_log=variant == "eventlog",
            driver_memory="3g",
        ) as app,
        ProcessMeter(app.pid) as meter,
    ):
        finished = app.wait().check()
        app.close(grace_s=15)  # the companion's last work counts
    return _Run(
        meter.cpu_s,
        finished.wall_s,
        meter.peak_rss_bytes("phoebe_spark.companion"),
        _listener_p99_us(metrics),
    )


def _listener_p99_us(metrics: Path) -> float | None:
    """The 99th percentile of the listener's timer, microseconds; None when it was not there."""
    for file in metrics.rglob("*.csv"):
        if "listenerProcessingTime" in file.name and LISTENER in file.name:
            rows = list(csv.DictReader(file.open()))
            if rows:
                unit = {"milliseconds": 1e3, "microseconds": 1.0, "seconds": 1e6}
                row = rows[-1]
                return float(row["p99"]) * unit[row["duration_unit"]]
    return None
