"""Planning against a store that takes 100 ms a request: never asked boundary by boundary."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.support import apps, places

BRANCHES = 6
LATENCY_MS = 100

APP = """
import json, sys, time
import phoebe_spark
from pyspark.sql import SparkSession

folder, latency, branches, result = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
spark = SparkSession.builder.getOrCreate()
requests = spark._jvm.phoebe.testing.SlowRequests
requests.setLatencyMs(latency)

def planned(sql):
    # What was committed meanwhile is of no account: only what the store held at the start.
    before = requests.total()
    frame = spark.sql(sql)
    found = sorted(list(r) for r in frame.collect())
    last = phoebe_spark.status(spark)["planning"]["last"]
    return {"rows": found, "requests": requests.total() - before, **last}

spark.read.parquet(folder + "/in").createOrReplaceTempView("t")
one = "select {n} as b, k, sum(id) as s from t where id % 11 <> {n} group by k"
union = " union all ".join(one.format(n=n) for n in range(branches))
other = union.replace("% 11", "% 13")
said = {}
planned("select count(*) from t where id < 0")
time.sleep(2)
requests.reset()
said["found"] = planned(union)
said["most_at_once"] = requests.mostAtOnce()
said["restored"] = phoebe_spark.status(spark)["counts"].get("checkpoints.restored", 0)
time.sleep(3)
requests.reset()
spark.conf.set("spark.phoebe.force", "none")
said["nothing"] = planned(other)
said["counts"] = phoebe_spark.status(spark)["counts"]
open(result, "w").write(json.dumps(said))
spark.stop()
"""


def submit(folder: Path, name: str, latency_ms: int, force: str) -> dict[str, Any]:
    script = folder / "app.py"
    script.write_text(APP)
    result = folder / f"{name}.json"
    conf = {
        "spark.phoebe.home": str(folder / "home"),
        "spark.phoebe.checkpoint.dir": f"slow://{folder}/store",
        "spark.phoebe.checkpoint.retain": "always",
        "spark.hadoop.fs.slow.impl": "phoebe.testing.SlowFileSystem",
        "spark.phoebe.mode": "apply",
        "spark.phoebe.force": force,
        "spark.sql.shuffle.partitions": "2",
    }
    with apps.submit(
        script, [str(folder), str(latency_ms), str(BRANCHES), str(result)],
        folder=folder / name, conf=conf, plugin="jars", packages_jars=[places.testing_jar()],
        with_event_log=False,
    ) as app:  # fmt: skip
        app.wait().check()
    said: dict[str, Any] = json.loads(result.read_text())
    return said


def test_all_boundaries_of_a_level_are_admitted_at_once(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "in").mkdir()
    ids = list(range(2000))
    pq.write_table(pa.table({"id": ids, "k": [i % 5 for i in ids]}), tmp_path / "in" / "0.parquet")
    first = submit(tmp_path, "writes", 0, "all")
    second = submit(tmp_path, "restores", LATENCY_MS, "none")
    assert first["restored"] == 0
    assert second["restored"] == BRANCHES + 1  # and the first query's
    assert second["found"]["rows"] == first["found"]["rows"]
    assert second["most_at_once"] >= BRANCHES // 2
    # One after the other, their requests alone would take several times as long.
    alone_ms = second["found"]["requests"] * LATENCY_MS
    assert second["found"]["ms"] < alone_ms / 2
    # What the store does not hold costs no request at all.
    assert second["nothing"]["requests"] == 0
    assert not [name for name in second["counts"] if name.startswith("failed.")]
