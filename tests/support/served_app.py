"""A PySpark application that runs SQL on command: ``served_app.py FOLDER``.

It takes ``FOLDER/commands/<number>.json`` one after the other (see ``served.Served``), and answers
each with ``FOLDER/answers/<number>.json``: error or null, started and ended (epoch seconds). The
command ``null`` ends it.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from pyspark.sql import SparkSession

from tests.support.query_app import run


def main(folder: Path) -> int:
    spark = SparkSession.builder.getOrCreate()
    spark.sparkContext.setLogLevel("INFO")
    for name, path in json.loads((folder / "tables.json").read_text()).items():
        spark.read.parquet(path).createOrReplaceTempView(name)
    (folder / "ready").touch()
    number = 0
    while True:
        command = folder / "commands" / f"{number}.json"
        while not command.exists():
            time.sleep(0.01)
        item = json.loads(command.read_text())
        if item is None:
            break
        spark.sparkContext.setJobDescription(item["name"])
        error = None
        started = time.time()
        try:
            run(spark, item)
        except Exception as e:  # the answer says what happened
            error = f"{type(e).__name__}: {e}"[:4000]
        answer = {"error": error, "started": started, "ended": time.time()}
        aside = folder / "answers" / f"{number}.tmp"
        aside.write_text(json.dumps(answer))
        aside.rename(folder / "answers" / f"{number}.json")
        number += 1
    spark.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
