"""A PySpark application that shuffles generated rows over a slow store: ``shuffle_app.py SPEC``.

The spec is JSON: ``rows``, ``maps``, ``reducers``, ``row_bytes``, ``latency_ms`` of each request to
the store, ``switch_amid_readers`` (whether the locations switch when some reading tasks have ended
and others have not begun), and ``result``, where one JSON object is written: the rows' count and
sum, requests by kind while the query ran, and where the locations switched the bytes of the
shuffle's files on the local disk before that and at the end.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from concurrent.futures import Future
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from pyspark.sql import SparkSession

KINDS = ("status", "list", "read", "write", "mkdirs", "rename", "delete")


class SwitchAmidReaders:
    """The first shuffle's locations switch when a few of its reading tasks have begun or ended.

    The store finishes no file before one of them has ended, and only a few are let go before the
    switch. ``found`` is filled: the shuffle's id and the most bytes of its files on the local disk.
    """

    def __init__(self, spark: SparkSession, reducers: int) -> None:
        self.found: dict[str, int] = {"local_bytes": 0}
        self._spark = spark
        self._jvm: Any = spark._jvm
        self._reducers = reducers
        self._over = threading.Event()
        self._led: Future[None] = Future()

    def __enter__(self) -> None:
        self._jvm.phoebe.testing.SlowRequests.holdWrites()
        threading.Thread(target=self._run).start()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._over.set()
        problem = self._led.exception()
        if problem is not None and kind is None:
            raise problem

    def _run(self) -> None:
        try:
            self._lead()
            self._led.set_result(None)
        except BaseException as error:
            self._led.set_exception(error)
        finally:
            self._jvm.phoebe.testing.SlowRequests.releaseWrites()
            self._jvm.phoebe.testing.HeldReaders.release()

    def _lead(self) -> None:
        while not has_read(self._spark, self._reducers):
            self._pause()
        shuffle_id, status = first_shuffle(self._spark)
        self.found["shuffle_id"] = shuffle_id
        self.found["local_bytes"] = local_bytes(self._spark, shuffle_id)
        self._jvm.phoebe.testing.SlowRequests.releaseWrites()
        is_store = (
            self._jvm.org.apache.spark.sql.execution.phoebe.exchange.StoreLocation.isStoreHost
        )
        while not all(is_store(o.location().host()) for o in status.mapStatuses()):
            self._pause()

    def _pause(self) -> None:
        if self._over.wait(0.05):
            raise RuntimeError("the query was over before its locations had switched")


def has_read(spark: SparkSession, readers: int) -> bool:
    """Whether the first of ``readers`` tasks that read a shuffle has ended, and not all of them."""
    tracker = spark.sparkContext.statusTracker()
    running = [tracker.getStageInfo(i) for i in tracker.getActiveStageIds()]
    return any(s and s.numTasks == readers and s.numCompletedTasks for s in running)


def first_shuffle(spark: SparkSession) -> tuple[int, Any]:
    """The id of the application's first shuffle, and what the map output tracker knows of it."""
    jvm: Any = spark._jvm
    shuffles = jvm.org.apache.spark.SparkEnv.get().mapOutputTracker().shuffleStatuses()
    as_java = jvm.scala.jdk.javaapi.CollectionConverters.asJavaCollection
    shuffle_id: int = min(jvm.java.util.ArrayList(as_java(shuffles.keys())))
    return shuffle_id, shuffles.apply(shuffle_id)


def local_bytes(spark: SparkSession, shuffle_id: int) -> int:
    """Bytes of the shuffle's data files on the local disk."""
    local = Path(spark.conf.get("spark.local.dir") or "")
    return sum(f.stat().st_size for f in local.rglob(f"shuffle_{shuffle_id}_*.data"))


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
    total = "sum(id)"
    switched: SwitchAmidReaders | None = None
    if spec.get("switch_amid_readers"):
        spark.udf.registerJavaFunction("held", "phoebe.testing.HeldReaders", "bigint")
        # Its argument is what was shuffled, so it is called where that is read.
        total, switched = "sum(held(id))", SwitchAmidReaders(spark, spec["reducers"])
    before = {kind: requests.count(kind) for kind in KINDS}
    started = time.monotonic()
    with switched or nullcontext():
        row = shuffled.selectExpr("count(*)", total, "bit_xor(xxhash64(payload))").collect()[0]
    seconds = time.monotonic() - started
    after = {kind: requests.count(kind) for kind in KINDS}
    time.sleep(spec.get("settle_s", 0))
    found = {
        "answer": [int(v) for v in row],
        "seconds": seconds,
        "requests": {kind: after[kind] - before[kind] for kind in KINDS},
    }
    if switched:
        left = local_bytes(spark, switched.found["shuffle_id"])
        found |= {"local_bytes": switched.found["local_bytes"], "local_bytes_left": left}
    Path(spec["result"]).write_text(json.dumps(found))
    spark.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
