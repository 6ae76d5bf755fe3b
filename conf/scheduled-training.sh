#!/bin/sh
# Trains the three predictors from the harvested tables, and promotes them if they beat what runs
# today. Run it from a scheduler, once a day is plenty:
#
#   0 3 * * *  PHOEBE_HOME=/var/lib/phoebe /path/to/conf/scheduled-training.sh
#
# PHOEBE_HOME is spark.phoebe.home of the observed jobs. Runs are logged in MLflow, by default in
# $PHOEBE_HOME/mlflow.db; set MLFLOW_TRACKING_URI for a server. Needs the package's [train] extra.
set -eu
: "${PHOEBE_HOME:=$HOME/.phoebe}"
: "${PHOEBE_PYTHON:=python3}"

job=$("$PHOEBE_PYTHON" -c 'import phoebe_training.__main__ as job; print(job.__file__)')

PYSPARK_PYTHON="$PHOEBE_PYTHON" exec spark-submit \
  --name phoebe-training \
  --packages io.delta:delta-spark_4.2_2.13:4.4.0 \
  --conf spark.sql.extensions=io.delta.sql.DeltaSparkSessionExtension \
  --conf spark.sql.catalog.spark_catalog=org.apache.spark.sql.delta.catalog.DeltaCatalog \
  "$job" --spark --home "$PHOEBE_HOME" "$@"
