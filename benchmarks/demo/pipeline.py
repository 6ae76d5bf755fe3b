"""A plain recurring PySpark job: TPC-H reports over one day's tables, each written as Parquet.

    spark-submit pipeline.py --data DAY --queries SQL_FOLDER --out RESULTS

It knows nothing of phoebe_spark: what the plugin does, it does to an unchanged job.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from pyspark.sql import SparkSession


def main() -> None:
    parser = argparse.ArgumentParser(description="TPC-H reports over one day's tables")
    parser.add_argument("--data", type=Path, required=True, help="folder of Parquet tables")
    parser.add_argument("--queries", type=Path, required=True, help="folder of .sql files")
    parser.add_argument("--out", type=Path, required=True, help="where the results go")
    arguments = parser.parse_args()

    spark = SparkSession.builder.appName("tpch-reports").getOrCreate()
    for table in sorted(arguments.data.iterdir()):
        spark.read.parquet(str(table)).createOrReplaceTempView(table.stem)
    for report in sorted(arguments.queries.glob("*.sql")):
        started = time.monotonic()
        spark.sparkContext.setJobDescription(report.stem)
        result = spark.sql(report.read_text())
        result.write.mode("overwrite").parquet(str(arguments.out / report.stem))
        print(f"REPORT {report.stem} {time.monotonic() - started:.2f}", flush=True)
    spark.stop()


if __name__ == "__main__":
    main()
