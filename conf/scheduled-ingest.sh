#!/bin/sh
# Reads event logs into the tables, as a Spark job: each application's logs by one task, wherever the
# logs are. What is in the tables already is passed over, so it may run as often as you like:
#
#   0 * * * *  PHOEBE_HOME=/var/lib/phoebe /path/to/conf/scheduled-ingest.sh --since 2d s3a://logs/events
#
# PHOEBE_HOME is spark.phoebe.home of the observed jobs. The master and the stores' settings are those
# of spark-defaults.conf; executors need this package in their Python too (PHOEBE_PYTHON).
set -eu
: "${PHOEBE_HOME:=$HOME/.phoebe}"
: "${PHOEBE_PYTHON:=python3}"

job=$("$PHOEBE_PYTHON" -c 'import phoebe_spark.__main__ as job; print(job.__file__)')
jar=$("$PHOEBE_PYTHON" -m phoebe_spark jar)

PYSPARK_PYTHON="$PHOEBE_PYTHON" exec spark-submit \
  --name phoebe-ingest \
  --jars "$jar" \
  --conf spark.phoebe.mode=off \
  --packages io.delta:delta-spark_4.2_2.13:4.4.0 \
  --conf spark.sql.extensions=io.delta.sql.DeltaSparkSessionExtension \
  --conf spark.sql.catalog.spark_catalog=org.apache.spark.sql.delta.catalog.DeltaCatalog \
  "$job" ingest --home "$PHOEBE_HOME" "$@"
