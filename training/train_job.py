"""The scheduled training job, for spark-submit: reads the Delta tables through delta-spark.

::

    spark-submit --packages io.delta:delta-spark_4.2_2.13:4.4.0 \
        --conf spark.sql.extensions=io.delta.sql.DeltaSparkSessionExtension \
        --conf spark.sql.catalog.spark_catalog=org.apache.spark.sql.delta.catalog.DeltaCatalog \
        training/train_job.py --home /var/lib/phoebe
"""

from phoebe_training.__main__ import main

if __name__ == "__main__":
    raise SystemExit(main(spark=True))
