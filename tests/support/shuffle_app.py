"""A PySpark application that shuffles generated rows over a slow store: ``shuffle_app.py SPEC``.

The spec is JSON: ``rows``, ``maps``, ``reducers``, ``row_bytes``, ``latency_ms`` of each request to
the store, ``switch_amid_readers`` (whether the locations switch when some reading tasks have ended
and others have not begun), and ``result``, where one JSON object is written: the rows' count and
sum, requests by kind while the query ran, and the bytes of shuffle files that are left on the local
disk at the end.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from pyspark.sql import SparkSession

KINDS = ("status", "list", "read", "write", "mkdirs", "rename", "delete")


@contextmanager
def switched_amid_readers(spark: SparkSession, reducers: int) -> Iterator[None]:
    """The first shuffle's locations switch when a few of its reading tasks have begun or ended.

    The store finishes no file before one of them has ended, and only a few are let go before the
    switch.
    """
    jvm: Any = spark._jvm
    testing, phoebe = jvm.phoebe.testing, jvm.org.apache.spark.sql.execution.phoebe
    tracker = spark.sparkContext.statusTracker()
    shuffles = jvm.org.apache.spark.SparkEnv.get().mapOutputTracker().shuffleStatuses()
    over = threading.Event()

    def has_read() -> bool:
        running = [tracker.getStageInfo(i) for i in tracker.getActiveStageIds()]
        return any(s and s.numTasks == reducers and s.numCompletedTasks for s in running)

    def has_switched() -> bool:
        outputs = shuffles.apply(0).mapStatuses()
        return all(phoebe.StoreLocation.isStoreHost(o.location().host()) for o in outputs)

    def lead() -> None:
        try:
            while not over.wait(0.05) and not has_read():
                pass
            testing.SlowRequests.releaseWrites()
            while not over.wait(0.05) and not has_switched():
                pass
        finally:
            testing.SlowRequests.releaseWrites()
            testing.HeldReaders.release()

    testing.SlowRequests.holdWrites()
    leading = threading.Thread(target=lead)
    leading.start()
    try:
        yield
    finally:
        over.set()
        leading.join()


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
    total: str = "sum(id)"
    switched: AbstractContextManager[None] = nullcontext()
    if spec.get("switch_amid_readers"):
        spark.udf.registerJavaFunction("held", "phoebe.testing.HeldReaders", "bigint")
        # Its argument is what was shuffled, so it is called where that is read.
        total, switched = "sum(held(id))", switched_amid_readers(spark, spec["reducers"])
    before = {kind: requests.count(kind) for kind in KINDS}
    started = time.monotonic()
    with switched:
        row = shuffled.selectExpr("count(*)", total, "bit_xor(xxhash64(payload))").collect()[0]
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
