"""A PySpark application that runs SQL on command: ``served_app.py FOLDER``.

It takes commands (``tests.support.commands``) of ``served.Served``, and answers each with: error or
null, started and ended (epoch seconds).
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from pyspark.sql import SparkSession

from tests.support import commands
from tests.support.query_app import run


def main(folder: Path) -> int:
    spark = SparkSession.builder.getOrCreate()
    spark.sparkContext.setLogLevel("INFO")
    for name, path in json.loads((folder / "tables.json").read_text()).items():
        spark.read.parquet(path).createOrReplaceTempView(name)
    (folder / "ready").touch()
    for number, item in commands.taken(folder):
        spark.sparkContext.setJobDescription(item["name"])
        error = None
        started = time.time()
        try:
            run(spark, item)
        except Exception as e:  # the answer says what happened
            error = f"{type(e).__name__}: {e}"[:4000]
        answer = {"error": error, "started": started, "ended": time.time()}
        commands.answer(folder, number, answer)
    spark.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
