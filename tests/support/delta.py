"""Delta in tests: its package for Spark, and settings for tables of a few rows."""

from __future__ import annotations

from importlib.metadata import version

PACKAGE = f"io.delta:delta-spark_4.2_2.13:{version('delta-spark')}"
AVRO = f"org.apache.spark:spark-avro_2.13:{version('pyspark')}"
"""Where a test has packages anyway."""
EXTENSION = "io.delta.sql.DeltaSparkSessionExtension"
SMALL = {"spark.databricks.delta.snapshotPartitions": "1"}
"""One task reads a table's log, where Delta takes fifty."""
SETTINGS = {
    "spark.sql.extensions": EXTENSION,
    "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
    **SMALL,
}
