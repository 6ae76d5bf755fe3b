"""The same tables, written and read by Spark with delta-spark: for a home that only Hadoop reaches.

What ``phoebe ingest`` needs of `tables.deltalake.Tables`, with the same rows, schemas and
partitions. One process at a time: on S3 delta-spark's default log store locks within a JVM only.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from functools import reduce
from typing import TYPE_CHECKING, Any

from phoebe_spark.spark_env import spark_defaults
from phoebe_spark.tables.ownership import checked_format, claim_by_spark, description, needs_one
from phoebe_spark.tables.records import Record
from phoebe_spark.tables.rows import (
    PARTITION_COLUMN,
    RECORDS,
    Filter,
    by_table,
    empty,
    last_of_key,
    to_arrow,
    with_columns,
)

if TYPE_CHECKING:
    import pyarrow
    from pyspark.sql import DataFrame, SparkSession

_EXTENSION = "io.delta.sql.DeltaSparkSessionExtension"
_CATALOG = "org.apache.spark.sql.delta.catalog.DeltaCatalog"
_COMPARE = {"=": operator.eq, "==": operator.eq, "!=": operator.ne}


class SparkTables:
    """The tables of one home, through the active Spark session or one that is started.

    ``home``: any URI that the session's Hadoop settings reach, or a path of this machine. Raises
    ``ImportError`` without PySpark and delta-spark, and `OtherWriterError`; other errors are
    Spark's.
    """

    def __init__(self, home: str) -> None:
        self.home = home if "://" in home else f"file://{home}"
        self._spark = delta_session()
        self._checked: set[str] = set()
        if needs_one(self.home):
            claim_by_spark(self._spark, self.home)

    def path(self, table: str) -> str:
        return f"{self.home.rstrip('/')}/tables/{RECORDS[table].TABLE}"

    def append(self, records: Iterable[Record]) -> int:
        """As `Tables.append`: one commit per table, all of its rows or none."""
        import pyarrow as pa

        groups = by_table(records)
        for table, rows in groups.items():
            frame = self._spark.createDataFrame(pa.table(to_arrow(RECORDS[table], rows)))
            self._create(table)
            (
                frame.coalesce(1)
                .write.format("delta")
                .mode("append")
                .option("mergeSchema", "true")  # a later version's new columns
                .save(self.path(table))
            )
        return sum(map(len, groups.values()))

    def read(
        self, table: str, *, filters: Sequence[Filter] | None = None, latest: bool = True
    ) -> pyarrow.Table:
        """As `Tables.read`; of the filters' comparisons only equality is known here."""
        record = RECORDS[table]
        frame = self._open(table)
        if frame is None:
            return empty(record)
        wanted = [_COMPARE[compare](frame[name], value) for name, compare, value in (filters or ())]
        if wanted:
            frame = frame.where(reduce(operator.and_, wanted))
        kinds = empty(record).schema
        there = [name for name in kinds.names if name in frame.columns]
        rows = frame.select(*there).toArrow()
        rows = rows.cast(_schema([kinds.field(name).with_nullable(True) for name in there]))
        rows = with_columns(rows, record, [name for name in kinds.names if name not in there])
        return last_of_key(rows, record.KEY) if latest else rows

    def _open(self, table: str) -> DataFrame | None:
        """None: never written. Raises `NewerTablesError`."""
        from delta.tables import DeltaTable

        path = self.path(table)
        if not DeltaTable.isDeltaTable(self._spark, path):
            return None
        delta = DeltaTable.forPath(self._spark, path)
        if table not in self._checked:
            checked_format(path, delta.detail().collect()[0]["description"])
            self._checked.add(table)
        return delta.toDF()

    def _create(self, table: str) -> None:
        import pyarrow as pa
        from delta.tables import DeltaTable
        from pyspark.sql.types import StructField, StructType

        if self._open(table) is not None:
            return
        record = RECORDS[table]
        nullable = {field.name: field.nullable for field in empty(record).schema}
        kinds = self._spark.createDataFrame(pa.table(to_arrow(record, []))).schema
        columns = StructType([StructField(k.name, k.dataType, nullable[k.name]) for k in kinds])
        (
            DeltaTable.createIfNotExists(self._spark)
            .location(self.path(table))
            .comment(description(table))
            .addColumns(columns)
            .partitionedBy(PARTITION_COLUMN)
            .execute()
        )


def delta_session() -> SparkSession:
    """The active session, else a new one with Delta: its jar is Spark's own or is fetched as Spark
    fetches packages."""
    from delta import configure_spark_with_delta_pip
    from pyspark.sql import SparkSession

    active = SparkSession.getActiveSession()
    if active is not None:
        return active
    builder: Any = (
        SparkSession.builder.appName("phoebe ingest")
        .config("spark.sql.extensions", _EXTENSION)
        .config("spark.sql.catalog.spark_catalog", _CATALOG)
    )
    defaults = spark_defaults()
    given = [defaults.get(f"spark.jars{kind}", "") for kind in ("", ".packages")]
    if not any("delta-spark" in names for names in given):
        builder = configure_spark_with_delta_pip(
            builder, [name for name in given[1].split(",") if name]
        )
    session: SparkSession = builder.getOrCreate()
    return session


def _schema(fields: list[Any]) -> Any:
    import pyarrow as pa

    return pa.schema(fields)
