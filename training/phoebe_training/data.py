"""The rows that training reads, as pandas frames: through delta-spark, or without Spark.

Both ways give the same frames: the last row of each key, only the columns that training needs, in
the order of the key. Where a SparkSession is given the join of rows is Spark's; else the
``deltalake`` package reads.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from phoebe_spark.tables.deltalake import Tables
from phoebe_spark.tables.rows import RECORDS

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

COLUMNS: dict[str, tuple[str, ...]] = {
    "applications": (
        "app_id", "app_attempt", "slots", "started_at", "status", "events_dropped",
    ),
    "executions": (
        "app_id", "app_attempt", "execution_id", "template", "shape", "started_at", "duration_ms",
        "slots", "restored", "complete", "status", "plan",
    ),
    "stages": (
        "app_id", "app_attempt", "stage_id", "stage_attempt", "execution_id", "template",
        "boundary_id", "parents", "operators", "status", "start_ms", "end_ms", "ttl_ms",
        "task_count", "task_time_ms", "shuffle_write_bytes", "complete",
    ),
    "boundaries": (
        "app_id", "app_attempt", "execution_id", "boundary_id", "template", "partitions",
        "catalyst_bytes", "catalyst_rows", "features",
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Frames:
    """One frame per table, rows sorted by key, integers with nulls as ``Int64``."""

    applications: pd.DataFrame
    executions: pd.DataFrame
    stages: pd.DataFrame
    boundaries: pd.DataFrame


def read_frames(home: str | Path, spark: SparkSession | None = None) -> Frames:
    """The frames of ``home``; a table that was never written is empty."""
    tables = Tables(home)
    return Frames(**{name: _frame(tables, name, spark) for name in COLUMNS})


def _frame(tables: Tables, name: str, spark: SparkSession | None) -> pd.DataFrame:
    columns = list(COLUMNS[name])
    if spark is None or not tables.exists(name):
        frame = tables.read(name, columns=columns).to_pandas()
    else:
        frame = _through_spark(spark, tables.path(name), name)[columns]
    return _normal(frame, name)


def _through_spark(spark: SparkSession, path: str, name: str) -> pd.DataFrame:
    from pyspark.sql import Window
    from pyspark.sql import functions as f

    key = list(RECORDS[name].KEY)
    last = Window.partitionBy(*key).orderBy(f.col("written_at").desc())
    rows = spark.read.format("delta").load(path)
    rows = rows.withColumn("rank_", f.row_number().over(last)).where("rank_ = 1")
    # Timestamps as microseconds: a session's time zone must not shift them.
    if "started_at" in COLUMNS[name] and "started_at" in rows.columns:
        rows = rows.withColumn("started_at", f.unix_micros("started_at"))
    there = [column for column in COLUMNS[name] if column in rows.columns]
    frame = pd.DataFrame(rows.select(*there).toPandas())
    if "started_at" in there:
        frame["started_at"] = pd.to_datetime(frame["started_at"], unit="us", utc=True)
    # A table of an earlier version has not all columns yet; what it holds reads as their defaults.
    defaults = {field.name: field.default for field in fields(RECORDS[name])}
    for column in COLUMNS[name]:
        if column not in there:
            frame[column] = defaults[column]
    return frame


def _normal(frame: pd.DataFrame, name: str) -> pd.DataFrame:
    """The same types and order whoever read the rows."""
    for column in frame.columns:
        if column.endswith(("_ms", "_bytes", "_rows", "_id", "_count")) or column in (
            "slots", "stage_attempt", "partitions", "events_dropped",
        ):  # fmt: skip
            if column not in ("app_id", "boundary_id"):
                frame[column] = frame[column].astype("Int64")
        elif column == "started_at":
            frame[column] = pd.to_datetime(frame[column], utc=True).astype("datetime64[us, UTC]")
        elif column in ("parents", "operators"):
            frame[column] = [None if v is None else list(v) for v in frame[column]]
        elif column in ("restored", "complete"):
            frame[column] = frame[column].astype(bool)
    key = [k for k in RECORDS[name].KEY if k in frame.columns]
    return frame.sort_values(key, ignore_index=True)
