"""Planning against a store that takes 100 ms a request: never asked boundary by boundary."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.support import home, in_turn, places

BRANCHES = 6
LATENCY_MS = 100
SOON_MS = 2000
"""The advice timeout is a quarter of it; what else runs on the machine takes its time too. That no
request is added is told by their number."""
LOOK_TIMEOUT_MS = 5000
HANG_MS = 8000

APP = """
import json, time
from pathlib import Path
import phoebe_spark
from pyspark import SparkContext
from pyspark.sql import SparkSession

def main(path):
    told = json.loads(path.read_text())
    folder, latency, hang, branches = (told[k] for k in ("folder", "latency", "hang", "branches"))
    requests = SparkContext._jvm.phoebe.testing.SlowRequests
    # What the application before has left.
    requests.setLatencyMs(0)
    requests.reset()
    spark = SparkSession.builder.getOrCreate()
    requests.setLatencyMs(latency)

    def planned(sql):
        # What was committed meanwhile is of no account: only what the store held at the start.
        before = counted()
        frame = spark.sql(sql)
        found = sorted(list(r) for r in frame.collect())
        last = phoebe_spark.status(spark)["planning"]["last"]
        made = {kind: n - before[kind] for kind, n in counted().items()}
        return {"rows": found, "requests": made, **last}

    def counted():
        kinds = ("status", "list", "read", "write", "mkdirs", "rename", "delete")
        return {kind: requests.count(kind) for kind in kinds}

    lists = 0
    def reset():
        # What the application has asked for so far is forgotten, but for its listings.
        nonlocal lists
        lists += requests.count("list")
        requests.reset()

    spark.read.parquet(folder + "/in").createOrReplaceTempView("t")
    one = "select {n} as b, k, sum(id) as s from t where id % 11 <> {n} group by k"
    union = " union all ".join(one.format(n=n) for n in range(branches))
    other = union.replace("% 11", "% 13")
    late, after = (one.format(n=1).replace("% 11", mod) for mod in ("% 17", "% 19"))
    said = {"app_id": spark.sparkContext.applicationId}
    planned("select count(*) from t where id < 0")
    time.sleep(2)
    reset()
    said["found"] = planned(union)
    said["most_at_once"] = requests.mostAtOnce()
    said["restored"] = phoebe_spark.status(spark)["counts"].get("checkpoints.restored", 0)
    if spark.conf.get("spark.phoebe.force") == "all":
        planned(late)
        planned(after)
    time.sleep(3)
    reset()
    spark.conf.set("spark.phoebe.force", "none")
    said["nothing"] = planned(other)
    reset()
    said["lists"] = lists
    if hang:
        def restored():
            return phoebe_spark.status(spark)["counts"]["checkpoints.restored"]
        before = restored()
        requests.setLatencyMs(hang)
        said["late"] = planned(late)
        said["late_restored"] = restored() - before
        requests.setLatencyMs(latency)
        said["after"] = planned(after)
        said["late_again"] = planned(late)
        said["after_restored"] = restored() - before
    said["counts"] = phoebe_spark.status(spark)["counts"]
    Path(told["result"]).write_text(json.dumps(said))
    spark.stop()
"""


def run(
    jvm: in_turn.Jvm, folder: Path, name: str, latency_ms: int, force: str, hang_ms: int = 0
) -> dict[str, Any]:
    result = folder / f"{name}.json"
    told = {
        "folder": str(folder),
        "latency": latency_ms,
        "hang": hang_ms,
        "branches": BRANCHES,
        "result": str(result),
    }
    argument = folder / f"{name}-told.json"
    argument.write_text(json.dumps(told))
    conf = {
        "spark.phoebe.home": str(folder / "home"),
        "spark.phoebe.checkpoint.dir": f"slow://{folder}/store",
        "spark.phoebe.checkpoint.retain": "always",
        "spark.hadoop.fs.slow.impl": "phoebe.testing.SlowFileSystem",
        "spark.phoebe.checkpoint.look_timeout_ms": str(LOOK_TIMEOUT_MS),
        "spark.phoebe.mode": "apply",
        "spark.phoebe.force": force,
        "spark.sql.shuffle.partitions": "2",
        "spark.eventLog.enabled": "false",
    }
    jvm.run(folder / name, "slow_app", argument, conf)
    said: dict[str, Any] = json.loads(result.read_text())
    return said


def look_ms(place: Path, said: dict[str, Any]) -> list[int]:
    """How long it took to find each checkpoint whole that the query ``found`` restored."""
    return [
        json.loads(boundary["reason_args"])["look_ms"]
        for boundary in home.records(place, "boundaries", said["app_id"])
        if boundary["execution_id"] == said["found"]["execution_id"]
    ]


def test_all_boundaries_of_a_level_are_admitted_at_once(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "in").mkdir()
    ids = list(range(2000))
    pq.write_table(pa.table({"id": ids, "k": [i % 5 for i in ids]}), tmp_path / "in" / "0.parquet")
    # Garbage was collected just now: no application lists the store for that.
    (tmp_path / "store" / "catalog").mkdir(parents=True)
    (tmp_path / "store" / "catalog" / "collected").touch()
    marker = {"format": 1, "store_id": "0" * 32}
    (tmp_path / "store" / "phoebe-store.json").write_text(json.dumps(marker))
    (tmp_path / "jvm").mkdir()
    jars = [places.testing_jar()]
    with in_turn.of_text(tmp_path / "jvm", "slow_app", APP, jars=jars) as jvm:
        first = run(jvm, tmp_path, "writes", 0, "all")
        fast = run(jvm, tmp_path, "restores-fast", 0, "none")
        slow = run(jvm, tmp_path, "restores", LATENCY_MS, "none", HANG_MS)
    assert first["restored"] == 0
    for again in (fast, slow):
        assert again["restored"] == BRANCHES + 1  # and the first query's
        assert again["found"]["rows"] == first["found"]["rows"]
        # The catalogue, once since the application's start, and each restored one's files.
        assert again["lists"] == 1 + again["restored"]
        # For each its mark and manifest, its files' lengths, and its pack in two parts, the footer
        # to look at it and the rows; once for all the store's marker, now and then the
        # application's lease.
        assert sum(again["found"]["requests"].values()) <= 7 * BRANCHES + 6, again["found"]
        # What the store does not hold costs no request at all.
        assert not any(again["nothing"]["requests"].values())
        assert not [name for name in again["counts"] if name.startswith("failed.")]
    assert slow["most_at_once"] >= BRANCHES // 2
    # Planning waits for a look at all of them at once, which reads each; what else it does takes no
    # longer than where the store holds nothing.
    fast_looks, slow_looks = (look_ms(tmp_path / "home", again) for again in (fast, slow))
    for again, looks in ((fast, fast_looks), (slow, slow_looks)):
        assert len(looks) == BRANCHES
        assert again["found"]["ms"] - max(looks) < SOON_MS
        assert again["nothing"]["ms"] < SOON_MS
    assert min(slow_looks) >= 3 * LATENCY_MS  # a mark, the manifest, a pack: one after the other
    assert slow["found"]["ms"] < sum(slow_looks) / 2
    # A look that gets no answer costs its boundary, and no other one.
    assert slow["late_restored"] == 0
    assert LOOK_TIMEOUT_MS <= slow["late"]["ms"] < HANG_MS
    assert slow["late"]["rows"] == slow["late_again"]["rows"]
    assert slow["after_restored"] == 1
    assert slow["late_again"]["ms"] < SOON_MS  # nobody waits for it again
