"""Training reads the same frames through delta-spark as without Spark."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from phoebe_training import train
from phoebe_training.data import COLUMNS, read_frames
from phoebe_training.fit import FitSettings
from pyspark.sql import SparkSession

from phoebe_spark.ingest import ingest
from phoebe_spark.tables import Tables
from tests.unit.training.test_pipeline import day

LOG = Path(__file__).parents[1] / "data" / "eventlogs" / "01-tpch-sf0.1-p8.zstd"


@pytest.fixture(scope="module")
def spark() -> Iterator[SparkSession]:
    from delta import configure_spark_with_delta_pip

    builder = (
        SparkSession.builder.master("local[2]")
        .config("spark.driver.memory", "1g")
        .config("spark.ui.enabled", "false")
        .config("spark.sql.shuffle.partitions", "4")
        .config("spark.sql.session.timeZone", "Asia/Kathmandu")
        .config("spark.sql.extensions", "io.delta.sql.DeltaSparkSessionExtension")
        .config(
            "spark.sql.catalog.spark_catalog", "org.apache.spark.sql.delta.catalog.DeltaCatalog"
        )
    )
    session = configure_spark_with_delta_pip(builder).getOrCreate()
    yield session
    session.stop()


def test_both_ways_give_the_same_frames(spark: SparkSession, tmp_path: Path) -> None:
    ingest([LOG], tmp_path)
    Tables(tmp_path).append(day(1, 50.0))
    Tables(tmp_path).append(day(1, 60.0))  # the same keys again: the last row wins
    plain, delta = read_frames(tmp_path), read_frames(tmp_path, spark)
    for name in COLUMNS:
        assert len(getattr(plain, name)) > 0
        pd.testing.assert_frame_equal(getattr(plain, name), getattr(delta, name), obj=name)


def test_training_through_spark_promotes(spark: SparkSession, tmp_path: Path) -> None:
    Tables(tmp_path).append([*day(0, 50.0), *day(1, 80.0)])
    summary = train(tmp_path, spark=spark, settings=FitSettings(rounds=5))
    assert summary.promoted
    assert summary.runs == 8
