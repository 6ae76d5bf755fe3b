"""Writes one small event log with whatever PySpark runs this: ``make_sample.py FOLDER``.

For each version of Spark, in a virtual environment of its own:

    python -m venv v && v/bin/pip install pyspark==3.5.7 && v/bin/python make_sample.py samples

A join, an aggregate and a sort under adaptive execution, a query that fails in a task, and a plain
RDD job. The log is ``samples/spark-<version>.gz``, without what is the machine's own: properties,
paths, names.
"""

import contextlib
import getpass
import gzip
import json
import shutil
import socket
import sys
from pathlib import Path

import pyspark
from pyspark.sql import SparkSession, functions

folder = Path(sys.argv[1]).resolve()
work = folder / f"work-{pyspark.__version__}"
work.mkdir(parents=True)
spark = (
    SparkSession.builder.master("local[2]")
    .appName("sample 2026-01-31")
    .config("spark.ui.enabled", "false")
    .config("spark.driver.bindAddress", "127.0.0.1")
    .config("spark.driver.host", "127.0.0.1")
    .config("spark.eventLog.enabled", "true")
    .config("spark.eventLog.dir", work.as_uri())
    .config("spark.eventLog.rolling.enabled", "false")
    .config("spark.eventLog.compress", "false")
    .config("spark.sql.shuffle.partitions", "4")
    .config("spark.sql.autoBroadcastJoinThreshold", "-1")
    .config("spark.sql.ansi.enabled", "true")
    .config("spark.sql.warehouse.dir", str(work / "warehouse"))
    .getOrCreate()
)
context = spark.sparkContext
left = spark.range(20000).withColumn("key", functions.col("id") % 97)
right = spark.range(97).withColumnRenamed("id", "key").withColumn("name", functions.lit("n"))
context.setJobDescription("joined")
found = left.join(right, "key").groupBy("key").agg(functions.sum("id").alias("total"))
assert len(found.orderBy("total").collect()) == 97
context.setJobDescription("failing")
with contextlib.suppress(Exception):
    spark.range(10).repartition(2).selectExpr("10 / (id - 5)").collect()
context.setJobDescription(None)
assert context.parallelize(range(10), 2).map(lambda n: (n % 3, n)).reduceByKey(max).count() == 3
spark.stop()
(log,) = [path for path in work.iterdir() if path.is_file() and not path.name.startswith(".")]
neutral = {
    str(work): "/tmp/sample",
    sys.prefix: "/opt/python",
    str(Path(__file__).resolve().parent): "/tmp",
    f'"{getpass.getuser()}"': '"user"',
    f'"{socket.gethostname()}"': '"host"',
}
with gzip.GzipFile(folder / f"spark-{pyspark.__version__}.gz", "wb", mtime=0) as out:
    for line in log.read_text().splitlines():
        if '"Event":"SparkListenerEnvironmentUpdate"' in line:
            event = json.loads(line)
            line = json.dumps({name: {} if name != "Event" else event[name] for name in event})
        for text, other in neutral.items():
            line = line.replace(text, other)
        out.write(line.encode() + b"\n")
shutil.rmtree(work)
