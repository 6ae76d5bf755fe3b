"""Event logs on any store that Spark reaches, through Hadoop's file systems in a Spark session.

A log is copied to a local folder, one at a time, and read there: the store's credentials and its
settings are the session's (``spark.hadoop.*``), and what reads logs needs to know of files alone.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from phoebe_spark.eventlog import LogSource, find_logs


class RemoteLogError(OSError):
    """A URI that cannot be listed or copied; the message is the store's first line."""


def is_remote(path: str) -> bool:
    """Whether ``path`` is a URI of another file system than the local one."""
    return "://" in path and not path.startswith("file:")


def remote_logs(
    uri: str,
    since: datetime | None,
    unreadable: Callable[[str, OSError], None],
    too_old: Callable[[], None],
) -> Iterator[LogSource]:
    """The logs below ``uri``, each as a local copy that is gone when the next one is asked for.

    Logs last written before ``since`` are not copied, and ``too_old`` is called for each;
    ``unreadable`` is told of what cannot be read. Raises ``ImportError`` without PySpark.
    """
    from pyspark.sql import SparkSession

    spark: Any = SparkSession.builder.appName("phoebe ingest").getOrCreate()
    configuration = spark._jsc.hadoopConfiguration()
    new_path = spark._jvm.org.apache.hadoop.fs.Path
    local = new_path("file:///").getFileSystem(configuration)
    try:
        root = new_path(uri)
        files = root.getFileSystem(configuration)
        found = list(_logs(files, files.getFileStatus(root)))
    except Exception as error:
        unreadable(uri, _plain(error))
        return
    for status in found:
        name = str(status.getPath().toString())
        folder = Path(tempfile.mkdtemp(prefix="phoebe-log-"))
        try:
            if since is not None and _written_at(files, status) < since:
                too_old()
                continue
            target = folder / str(status.getPath().getName())
            local.setWriteChecksum(False)
            files.copyToLocalFile(False, status.getPath(), new_path(target.as_uri()), True)
            for source in find_logs([target]):
                yield LogSource(source.path, source.files, source.kind, name)
        except Exception as error:
            unreadable(name, _plain(error))
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _logs(files: Any, status: Any) -> Iterator[Any]:
    name = str(status.getPath().getName())
    if not status.isDirectory() or name.startswith("eventlog_v2_"):
        yield status
        return
    children = files.listStatus(status.getPath())
    for child in sorted(children, key=lambda found: str(found.getPath().getName())):
        if not str(child.getPath().getName()).startswith((".", "_")):
            yield from _logs(files, child)


def _written_at(files: Any, status: Any) -> datetime:
    parts = files.listStatus(status.getPath()) if status.isDirectory() else [status]
    last = max((int(part.getModificationTime()) for part in parts), default=0)
    return datetime.fromtimestamp(last / 1000, tz=UTC)


def _plain(error: Exception) -> RemoteLogError:
    """Java's exceptions come with a stack trace: its first line says what is wrong."""
    java = getattr(error, "java_exception", None)
    text = str(java.toString()) if java is not None else str(error)
    return RemoteLogError(text.splitlines()[0] if text else type(error).__name__)
