"""Reading event logs: `phoebe ingest` against Spark's own replay of the same log.

The replay is the History Server's: `FsHistoryProvider.rebuildAppStore` on a `ReplayListenerBus`
with the listeners that the server attaches (application status, SQL, streaming), into its in-memory
store. Both read one zstd log of a TPC-DS run, in which each task is repeated (stages of a cluster
have more tasks than those of two cores). Each side is a process of its own, pinned to one core, its
start-up not counted. ``vs_replay`` compares the second reading of both, when the virtual machine is
warm; ``vs_replay_first`` the first one. Ratios are of processor time, but for ``vs_replay_wall``.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.frame import Options, Result, fresh
from tests.support.places import BUILD, ROOT, spark_environment
from tests.support.repeated_log import write

SOURCE = ROOT / "tests" / "data" / "eventlogs" / "12-tpcds-sf1-p32.zstd"
TASKS = 20
READINGS = 3
CORE = 1


def run(options: Options) -> Result:
    repeats = options.repeats or 5
    log, events = prepared()
    options.say(f"{log.name}: {events} events")
    ours: list[list[dict[str, float]]] = []
    theirs: list[list[dict[str, float]]] = []
    for repeat in range(repeats):
        theirs.append(measured("replay", log, options.work))
        ours.append(measured("ingest", log, fresh(options.work / "home")))
        options.say(
            f"{repeat}: cpu seconds by reading, replay "
            f"{[round(r['cpu_s'], 1) for r in theirs[-1]]}, "
            f"ingest {[round(r['cpu_s'], 1) for r in ours[-1]]}"
        )
        if options.left_s < 1.2 * (options.budget_s - options.left_s) / (repeat + 1):
            break

    def ratio(reading: int, key: str) -> float:
        pairs = zip(theirs, ours, strict=True)
        return statistics.median(r[reading][key] / i[reading][key] for r, i in pairs)

    return Result(
        {
            "events_per_s": events / statistics.median(i[1]["cpu_s"] for i in ours),
            "vs_replay": ratio(1, "cpu_s"),
            "vs_replay_wall": ratio(1, "wall_s"),
            "vs_replay_first": ratio(0, "cpu_s"),
            "vs_replay_third": ratio(2, "cpu_s"),
            "peak_rss_mb": max(r["peak_rss_mb"] for i in ours for r in i),
            "replay_rss_mb": max(r["peak_rss_mb"] for t in theirs for r in t),
            "events": events,
            "log_mb": log.stat().st_size / 1e6,
        },
        repeats=len(ours),
    )


def prepared() -> tuple[Path, int]:
    """The log, and its number of events; made once."""
    folder = BUILD / "data" / f"eventlog-tpcds-tasks{TASKS}-v1"
    log, count = folder / "app.zstd", folder / "events"
    if not count.exists():
        fresh(folder)
        count.write_text(str(write(SOURCE, log, copies=1, tasks=TASKS)))
    return log, int(count.read_text())


def measured(side: str, log: Path, work: Path) -> list[dict[str, float]]:
    """The readings of one process: wall and processor seconds, and its largest resident set."""
    command = [sys.executable, "-m", "benchmarks.ingest", side, str(log), str(work)]
    done = subprocess.run(
        command, cwd=ROOT, env=spark_environment(), capture_output=True, text=True
    )
    if done.returncode != 0:
        raise RuntimeError(f"{side} failed: {done.stderr[-2000:]}")
    found: list[dict[str, float]] = json.loads(done.stdout.splitlines()[-1])
    return found


def _ingest(log: Path, home: Path) -> list[dict[str, float]]:
    import psutil  # type: ignore[import-untyped]

    from phoebe_spark.ingest.run import ingest

    def once(reading: int) -> None:
        summary = ingest([log], home / str(reading))
        assert (summary.applications, summary.errors) == (1, ()), summary

    return _readings(once, psutil.Process())


def _replay(log: Path, _work: Path) -> list[dict[str, float]]:
    import psutil
    from pyspark import SparkConf
    from pyspark.java_gateway import launch_gateway

    conf = SparkConf(loadDefaults=False).set("spark.driver.memory", "2g")
    conf.set("spark.driver.extraJavaOptions", "-XX:ActiveProcessorCount=1")
    gateway = launch_gateway(conf)  # type: ignore[no-untyped-call]
    jvm: Any = gateway.jvm
    history = jvm.org.apache.spark.deploy.history
    server = jvm.org.apache.spark.SparkConf(False)
    server.set("spark.history.fs.logDirectory", log.parent.as_uri())
    provider = history.FsHistoryProvider(server)
    path = jvm.org.apache.hadoop.fs.Path(log.as_uri())
    files = path.getFileSystem(jvm.org.apache.hadoop.conf.Configuration())
    readers = getattr(getattr(history, "EventLogFileReader$"), "MODULE$")

    def once(_reading: int) -> None:
        store = jvm.org.apache.spark.util.kvstore.InMemoryStore()
        provider.rebuildAppStore(store, readers.apply(files, path).get(), 0)
        store.close()

    try:
        return _readings(once, psutil.Process(gateway.proc.pid))
    finally:
        gateway.shutdown()
        gateway.proc.kill()


def _readings(once: Any, process: Any) -> list[dict[str, float]]:
    import time

    found = []
    for reading in range(READINGS):
        began, before = time.monotonic(), process.cpu_times()
        once(reading)
        after = process.cpu_times()
        peak = [
            int(line.split()[1]) / 1000
            for line in Path(f"/proc/{process.pid}/status").read_text().splitlines()
            if line.startswith("VmHWM")
        ]
        found.append(
            {
                "wall_s": time.monotonic() - began,
                "cpu_s": after.user + after.system - before.user - before.system,
                "peak_rss_mb": peak[0],
            }
        )
    return found


if __name__ == "__main__":
    os.sched_setaffinity(0, {CORE % (os.cpu_count() or 1)})
    sides = {"ingest": _ingest, "replay": _replay}
    print(json.dumps(sides[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]))))
