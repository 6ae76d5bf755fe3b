"""A PySpark application that runs a list of SQL queries: ``query_app.py SPEC.json``.

It knows nothing of the plugin; what it does is in the spec (see ``queries.Item``). After each
query it appends one JSON line to ``results.ndjson`` beside the spec: name, seconds, started and
ended (epoch seconds), error or null; then it rests ``settle_s`` seconds. ``pause_before`` and
``pause_after`` name files: the application writes ``<file>.reached`` and waits until ``<file>``
exists, so that a test can act at a known point.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from pyspark.sql import DataFrame, SparkSession


def _pause(gate: str | None) -> None:
    if gate is None:
        return
    Path(f"{gate}.reached").touch()
    deadline = time.monotonic() + 300
    while not Path(gate).exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"nobody opened {gate}")
        time.sleep(0.02)


def _unique_columns(frame: DataFrame) -> DataFrame:
    names = frame.columns
    if len({n.lower() for n in names}) == len(names):
        return frame
    return frame.toDF(*(f"c{i}_{n}" for i, n in enumerate(names)))


def run(spark: SparkSession, item: dict[str, Any]) -> None:
    """Runs one item: settings, SQL, and where the rows go."""
    for key, value in item.get("conf", {}).items():
        spark.conf.set(key, value)
    frame = spark.sql(item["sql"])
    if item.get("again"):
        # The rows come from the same plan, after two executions of it have ended.
        frame.collect()
        frame.collect()
        frame = spark.createDataFrame(frame.rdd.collect(), frame.schema).coalesce(1)
    if item.get("output"):
        _unique_columns(frame).write.mode("overwrite").parquet(item["output"])
    else:
        frame.write.format("noop").mode("overwrite").save()


def main(spec_path: Path) -> int:
    spec = json.loads(spec_path.read_text())
    spark = SparkSession.builder.appName(spec["app_name"]).getOrCreate()
    spark.sparkContext.setLogLevel(spec.get("log_level", "WARN"))
    failed = 0
    registered = ""
    with (spec_path.parent / "results.ndjson").open("a", buffering=1) as results:
        for item in spec["queries"]:
            if item["data"] != registered:
                registered = item["data"]
                for name, path in spec["tables"][registered].items():
                    spark.read.parquet(path).createOrReplaceTempView(name)
            _pause(item.get("pause_before"))
            spark.sparkContext.setJobDescription(item["name"])
            error = None
            started = time.time()
            try:
                run(spark, item)
            except Exception as e:  # the line says what happened; the other queries still count
                error = f"{type(e).__name__}: {e}"[:2000]
                failed += 1
            ended = time.time()
            spark.sparkContext.setLocalProperty("spark.job.description", None)  # type: ignore[arg-type]
            line = {"name": item["name"], "seconds": ended - started, "error": error}
            results.write(json.dumps({**line, "started": started, "ended": ended}) + "\n")
            time.sleep(spec.get("settle_s", 0.0))
            _pause(item.get("pause_after"))
    spark.stop()
    return 1 if failed and not spec.get("allow_failures") else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
