"""A PySpark application that shuffles generated rows over a slow store: ``shuffle_app.py SPEC``.

The spec is JSON: ``rows``, ``maps``, ``reducers``, ``row_bytes``, ``latency_ms`` of each request to
the store, ``work`` steps that a reading task takes on each row (some 40 ns each), ``hold`` (whether
the store finishes no file before a reading task has ended), and ``result``, where one JSON object
is written: the rows' count and sum, requests by kind before and while the query ran, and the bytes
of shuffle files that are left on the local disk at the end.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from pyspark.sql import SparkSession

KINDS = ("status", "list", "read", "write", "mkdirs", "rename", "delete")


@contextmanager
def held_writes(spark: SparkSession, requests: Any, reducers: int) -> Iterator[None]:
    """The store finishes no file before a task of the stage with ``reducers`` tasks has ended."""
    tracker = spark.sparkContext.statusTracker()
    over = threading.Event()

    def has_read() -> bool:
        running = map(tracker.getStageInfo, tracker.getActiveStageIds())
        return any(s and s.numTasks == reducers and s.numCompletedTasks for s in running)

    def wait() -> None:
        try:
            while not over.wait(0.05) and not has_read():
                pass
        finally:
            requests.releaseWrites()

    requests.holdWrites()
    waiting = threading.Thread(target=wait)
    waiting.start()
    try:
        yield
    finally:
        over.set()
        waiting.join()


def main(spec: dict[str, Any]) -> int:
    spark = SparkSession.builder.appName("shuffle").getOrCreate()
    jvm: Any = spark._jvm
    requests = jvm.phoebe.testing.SlowRequests
    requests.setLatencyMs(spec["latency_ms"])
    # Hashes hardly compress: the shuffle is about as large as its rows.
    words = spec["row_bytes"] // 16
    payload = "concat(" + ", ".join(f"hex(xxhash64(id, {i}))" for i in range(words)) + ")"
    rows = spark.range(0, spec["rows"], 1, spec["maps"]).selectExpr("id", f"{payload} as payload")
    shuffled = rows.repartition(spec["reducers"], "id")
    if spec["work"]:
        # Deterministic, so that the reading stage lasts.
        shuffled = shuffled.selectExpr(
            "id",
            "payload",
            f"aggregate(sequence(1, {spec['work']}), 0L, (a, x) -> a + x * id % 7) as work",
        ).where("work >= 0")
    before = {kind: requests.count(kind) for kind in KINDS}
    started = time.monotonic()
    with held_writes(spark, requests, spec["reducers"]) if spec.get("hold") else nullcontext():
        row = shuffled.selectExpr("count(*)", "sum(id)", "bit_xor(xxhash64(payload))").collect()[0]
    seconds = time.monotonic() - started
    after = {kind: requests.count(kind) for kind in KINDS}
    time.sleep(spec.get("settle_s", 0))
    local = Path(spark.conf.get("spark.local.dir") or "")
    left = sum(f.stat().st_size for f in local.rglob("*shuffle_0_*.data"))
    found = {
        "answer": [int(v) for v in row],
        "seconds": seconds,
        "requests": {kind: after[kind] - before[kind] for kind in KINDS},
        "local_bytes_left": left,
    }
    Path(spec["result"]).write_text(json.dumps(found))
    spark.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
