"""A user's application: a query, a right result, no word of phoebe in it.

``--hold FILE`` says ``HOLDING`` after the first query, waits until FILE exists, and runs another.
``--off`` runs a second query in mode off, the kill switch. Among other applications of one process
the arguments come in a file, a line each (``main``).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from pyspark.sql import SparkSession


def query(spark: SparkSession, factor: int) -> int:
    rows = spark.range(1000).selectExpr("id % 10 as k", f"id * {factor} as v").groupBy("k").sum("v")
    return sum(row[1] for row in rows.orderBy("k").collect())


def run(told: Sequence[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--hold", type=Path)
    parser.add_argument("--off", action="store_true")
    arguments = parser.parse_args(told)
    spark = SparkSession.builder.appName("plugin-test").getOrCreate()
    # A string each: under spark-submit Python writes each part of a line by itself, and the JVM's
    # log goes to the same file.
    print(f"EXTENSIONS {spark.conf.get('spark.sql.extensions', '')}", flush=True)
    print(f"RESULT {query(spark, 1)}", flush=True)
    if arguments.off:
        spark.conf.set("spark.phoebe.mode", "off")
        print(f"RESULT {query(spark, 2)}", flush=True)
    if arguments.hold:
        print("HOLDING", flush=True)
        while not arguments.hold.exists():
            time.sleep(0.05)
        print(f"RESULT {query(spark, 3)}", flush=True)
    spark.stop()


def main(argument: Path) -> None:
    run(argument.read_text().splitlines())


if __name__ == "__main__":
    run(sys.argv[1:])
