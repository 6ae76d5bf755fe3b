"""Whose a home's tables are: of which format, and, on S3, of which kind of writer.

A table's description names the format of its rows; one without it is somebody else's.

S3 has no rename that fails where something is: the ``deltalake`` package commits with conditional
puts, and delta-spark's default log store with a lock inside of its JVM, which the other does not
see. So the first writer of a home leaves a marker that names its kind, and another kind refuses.
Stores with an atomic rename or create (local disks, HDFS, ABFS, GCS) need none.

The marker is the first commit of an empty Delta table, ``<home>/writer``: both kinds can write that
object only where there is none.
"""

from __future__ import annotations

import re
import uuid
from typing import TYPE_CHECKING, Any, Literal, get_args

import orjson

from phoebe_spark.errors import ForeignTableError, NewerTablesError, OtherWriterError
from phoebe_spark.tables.storage_options import S3, scheme

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

FORMAT = 1
"""What the rows mean. Raised when it changes otherwise than by columns that may be absent."""
_DESCRIPTION = re.compile(r"phoebe_spark (\w+), format (\d+)")

WriterKind = Literal["deltalake", "delta-spark"]

_SAYS = "phoebe_spark writer: "
_FIRST_COMMIT = "_delta_log/00000000000000000000.json"
# Hadoop's Options.CreateFileOptionKeys.FS_OPTION_CREATE_CONDITIONAL_OVERWRITE, S3A alone knows it.
_IF_ABSENT = "fs.option.create.conditional.overwrite"
_SCHEMA = (
    '{"type":"struct","fields":[{"name":"kind","type":"string","nullable":true,"metadata":{}}]}'
)


def description(table: str) -> str:
    """What a table says of itself."""
    return f"phoebe_spark {table}, format {FORMAT}"


def checked_format(path: str, said: str | None) -> None:
    """Raises `NewerTablesError` where a table's description names a later format, and
    `ForeignTableError` where it is not one of ours."""
    found = _DESCRIPTION.fullmatch(said or "")
    if found is None:
        raise ForeignTableError(
            f"{path} is a table that phoebe_spark has not made: name another home"
        )
    if int(found.group(2)) > FORMAT:
        raise NewerTablesError(
            f"{path} was written by a newer phoebe_spark (format {found.group(2)}, "
            f"this one knows {FORMAT}): upgrade phoebe_spark, or name another home"
        )


def needs_one(home: str) -> bool:
    return scheme(home) in S3


def claim(home: str, options: dict[str, str] | None = None) -> None:
    """Before the ``deltalake`` package writes: makes ``home`` its own, unless it is already.

    Raises `OtherWriterError`, `ForeignTableError`, and the package's errors where the store cannot
    be reached.
    """
    from arro3.core import DataType, Field, Schema
    from deltalake import DeltaTable
    from deltalake.exceptions import DeltaError

    found = kind_of(home, options)
    if found is None:
        try:
            DeltaTable.create(
                _marker(home),
                Schema([Field("kind", DataType.string(), nullable=True)]),
                mode="error",
                description=f"{_SAYS}deltalake",
                storage_options=options,
            )
        except (DeltaError, FileExistsError):
            found = kind_of(home, options)  # another one was first: of which kind?
            if found is None:
                raise
    _refuse(home, "deltalake" if found is None else found, "deltalake")


def kind_of(home: str, options: dict[str, str] | None = None) -> str | None:
    """What the marker of ``home`` says; None without one."""
    from deltalake import DeltaTable
    from deltalake.exceptions import TableNotFoundError

    try:
        said = DeltaTable(_marker(home), storage_options=options).metadata().description
    except TableNotFoundError:
        return None
    return (said or "").removeprefix(_SAYS)


def claim_by_spark(spark: SparkSession, home: str) -> None:
    """Before delta-spark writes: the same through Hadoop's file system.

    Raises `OtherWriterError`, `ForeignTableError`, and Spark's errors where the store cannot be
    reached.
    """
    jvm: Any = spark._jvm
    place = jvm.org.apache.hadoop.fs.Path(f"{_marker(home)}/{_FIRST_COMMIT}")
    files = place.getFileSystem(spark._jsc.hadoopConfiguration())
    found = _read(jvm, files, place)
    if found is None:
        try:
            builder = files.createFile(place).overwrite(False).recursive()
            out = builder.opt(_IF_ABSENT, True).build()
            out.write(_first_commit())
            out.close()
        except Exception:
            found = _read(jvm, files, place)
            if found is None:
                raise
    _refuse(home, "delta-spark" if found is None else found, "delta-spark")


def _read(jvm: Any, files: Any, place: Any) -> str | None:
    if not files.exists(place):
        return None
    stream = files.open(place)
    try:
        text = str(jvm.org.apache.commons.io.IOUtils.toString(stream, "UTF-8"))
    finally:
        stream.close()
    actions = [orjson.loads(line) for line in text.splitlines() if line.strip()]
    said = [str(a["metaData"].get("description")) for a in actions if "metaData" in a]
    return said[0].removeprefix(_SAYS) if said else ""


def _first_commit() -> bytes:
    actions: list[dict[str, Any]] = [
        {"protocol": {"minReaderVersion": 1, "minWriterVersion": 2}},
        {
            "metaData": {
                "id": str(uuid.uuid4()),
                "description": f"{_SAYS}delta-spark",
                "format": {"provider": "parquet", "options": {}},
                "schemaString": _SCHEMA,
                "partitionColumns": [],
                "configuration": {},
            }
        },
    ]
    return b"".join(orjson.dumps(action) + b"\n" for action in actions)


def _marker(home: str) -> str:
    return f"{home.rstrip('/')}/writer"


def is_kind(found: str) -> bool:
    """Whether a marker that says so is one of ours."""
    return found in get_args(WriterKind)


def _refuse(home: str, found: str, kind: WriterKind) -> None:
    if found == kind:
        return
    if not is_kind(found):
        raise ForeignTableError(
            f"{_marker(home)} is a table that phoebe_spark has not made: name another home"
        )
    raise OtherWriterError(
        f"the tables of {home} are written by {found} ({_marker(home)} says so), and on S3 {kind} "
        f"beside it would lose rows: phoebe ingest --writer {found}, and for runs "
        f"spark.phoebe.harvest.sink={'spool' if found == 'delta-spark' else 'delta'}; to change "
        f"it, delete {_marker(home)} while nothing writes there"
    )
