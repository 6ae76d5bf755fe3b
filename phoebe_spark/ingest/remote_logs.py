"""Event logs on any store that Spark reaches: found, and read by Spark's tasks.

Each application's logs are copied by one task to a folder of its executor, and read there: what
reads logs needs to know of files alone, and the store's credentials and settings are the session's
(``spark.hadoop.*``), on executors too. The bytes come through a class of the plugin's jar.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from phoebe_spark.errors import RemoteLogError
from phoebe_spark.ingest.eventlog import LogKind, LogSource
from phoebe_spark.ingest.finding import find_logs, kind_of
from phoebe_spark.ingest.rolled_logs import FOLDER, in_order, parts_of
from phoebe_spark.jar import jar_path

_CLASS = "phoebe.LogFiles"
_LARGEST = 2**63 - 1
_LOADED: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()
"""The jar's class where the session's class loader has none, by JVM."""
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file of a log; ``directory``: of the rolled log that it is a part of, or empty; ``first``:
    the URI of that log's first file, where others are in its directory."""

    uri: str
    directory: str
    modified_ms: int
    first: str = ""

    @property
    def log(self) -> str:
        """The URI by which messages call the log."""
        return self.first or self.directory or self.uri

    @property
    def kind(self) -> LogKind:
        return "eventlog" if self.directory else kind_of(PurePosixPath(self.uri).name)


def is_remote(path: str) -> bool:
    """Whether ``path`` is a URI of another file system than the local one."""
    return "://" in path and not path.startswith("file:")


class RemoteLogs:
    """Logs as a Spark session sees them: the active one, or one that is started here.

    Raises ``ImportError`` without PySpark and `MissingJarError` without the plugin's jar.
    """

    def __init__(self) -> None:
        from pyspark.sql import SparkSession

        self._spark: Any = SparkSession.builder.appName("phoebe ingest").getOrCreate()
        self._context: Any = self._spark.sparkContext
        self._files = self._helper()

    @property
    def slots(self) -> int:
        """How many tasks run side by side."""
        return max(1, int(self._context.defaultParallelism))

    def find(self, uri: str) -> list[tuple[RemoteFile, ...]]:
        """The logs at and below ``uri``, each as its files in their order. Raises
        `RemoteLogError`."""
        try:
            rows = [list(row) for row in self._files.list(self._context._jsc, uri)]
        except Exception as error:
            raise _plain(error) from None
        return _logs_of(RemoteFile(str(name), str(of), int(at)) for name, of, at in rows)

    def read(
        self,
        groups: Sequence[Sequence[RemoteFile]],
        work: Callable[[list[LogSource], dict[str, str]], _Result],
        most_bytes: int = _LARGEST,
    ) -> list[_Result]:
        """``work`` on each group's logs, one task a group: it gets them as local copies, and what
        could not be copied with the reason, by URI. Only the first ``most_bytes`` of each file are
        read. Raises `RemoteLogError` where a task failed, not because of a file."""
        from pyspark import RDD
        from pyspark.serializers import NoOpSerializer

        uris: Any = self._spark._jvm.java.util.ArrayList()
        for group in groups:
            inner = self._spark._jvm.java.util.ArrayList()
            for file in group:
                inner.add(file.uri)
            uris.add(inner)
        files = {file.uri: file for group in groups for file in group}

        def task(frames: Iterator[bytes]) -> Iterator[_Result]:
            # Spark removes its own directories, also when this process is killed.
            place = os.environ.get("SPARK_LOCAL_DIRS", "").split(",")[0] or None
            folder = Path(tempfile.mkdtemp(prefix="phoebe-log-", dir=place))
            try:
                yield work(*_copied(frames, files, folder))
            finally:
                shutil.rmtree(folder, ignore_errors=True)

        # The plugin, should the session have it, does not observe these jobs.
        self._context.setLocalProperty("spark.phoebe.internal", "true")
        try:
            pieces = self._files.read(self._context._jsc, uris, most_bytes)
            frames: Any = RDD(pieces, self._context, NoOpSerializer())
            found: list[_Result] = frames.mapPartitions(task).collect()
        except Exception as error:
            raise _plain(error) from None
        finally:
            self._context.setLocalProperty("spark.phoebe.internal", None)
        return found

    def _helper(self) -> Any:
        """An object of the jar's class; a session that was started without the jar gets it now."""
        jvm, gateway = self._spark._jvm, self._context._gateway
        # spark-submit's --jars are the main thread's class loader's; other threads know Spark's.
        spark = self._context._jsc.getClass().getClassLoader()
        own = jvm.java.lang.Thread.currentThread().getContextClassLoader() or spark
        try:
            kind = own.loadClass(_CLASS)
        except Exception:
            jar = jar_path()
            known = str(self._context._jsc.sc().listJars().mkString(" "))
            if f"/{Path(jar).name}" not in known:
                self._context._jsc.addJar(jar)
            if gateway not in _LOADED:  # Py4J mixes up classes of one name and two loaders
                urls = gateway.new_array(jvm.java.net.URL, 1)
                urls[0] = jvm.java.io.File(jar).toURI().toURL()
                _LOADED[gateway] = jvm.java.net.URLClassLoader(urls, spark).loadClass(_CLASS)
            kind = _LOADED[gateway]
        kinds = gateway.new_array(jvm.java.lang.Class, 0)
        return kind.getConstructor(kinds).newInstance(gateway.new_array(jvm.java.lang.Object, 0))


def _copied(
    frames: Iterable[bytes], files: dict[str, RemoteFile], folder: Path
) -> tuple[list[LogSource], dict[str, str]]:
    """The logs in a task's frames, below ``folder``: files of one directory together."""
    failed: dict[str, str] = {}
    places: dict[str, Path] = {}
    names: dict[Path, str] = {}
    times: dict[Path, float] = {}
    target: Any = None
    file: RemoteFile | None = None
    try:
        for frame in frames:
            kind, body = frame[:1], frame[1:]
            if kind == b"F":
                if target is not None:
                    target.close()
                file = files[body.decode()]
                path = _place(file, folder, places)
                names[path] = file.log
                if file.directory:
                    names[path.parent] = file.log
                times[path] = file.modified_ms / 1000
                target = path.open("wb")
            elif kind == b"D":
                target.write(body)
            else:
                assert file is not None
                failed[file.log] = body.decode().splitlines()[0]
    finally:
        if target is not None:
            target.close()
    for path, modified in times.items():  # spool files of one run are read in their order
        os.utime(path, (modified, modified))
    sources = []
    for place in sorted(set(places.values())):
        for source in find_logs([place]):
            origin = names.get(source.path, str(source.path))
            if failed.keys().isdisjoint({origin, *(names.get(f, origin) for f in source.files)}):
                sources.append(replace(source, origin=origin))
    return sources, failed


def _logs_of(files: Iterable[RemoteFile]) -> list[tuple[RemoteFile, ...]]:
    """The logs that a store's files are, in the files' order."""
    logs: dict[tuple[str, str], list[RemoteFile]] = {}
    folders: dict[str, list[RemoteFile]] = {}
    for file in files:
        folders.setdefault(str(PurePosixPath(file.uri).parent), []).append(file)
    for folder, inside in folders.items():
        names = [PurePosixPath(file.uri).name for file in inside]
        called = {name: log for log, mine in parts_of(names).items() for name in mine}
        for name, file in zip(names, inside, strict=True):
            if name not in called:
                logs.setdefault((file.log, ""), []).append(file)
                continue
            parent = file.directory or file.uri.rpartition("/")[0]
            logs.setdefault((folder, called[name]), []).append(replace(file, directory=parent))
    return [_whole(found) for found in logs.values()]


def _whole(files: list[RemoteFile]) -> tuple[RemoteFile, ...]:
    """A log's events in order, then what tells whether it is whole."""
    if not files[0].directory:
        return tuple(files)
    part = in_order(PurePosixPath(file.uri).name for file in files)
    told = {name for name, _ in part.copies}
    others = [
        file
        for file in files
        if (name := PurePosixPath(file.uri).name) in told or name.startswith("appstatus_")
    ]
    found = dict.fromkeys((*_in_order(files), *others))
    named = PurePosixPath(files[0].directory).name.startswith(FOLDER)
    if named or not part.names or part.names[-1].startswith("eventlog"):
        return tuple(found)
    first = next(iter(found)).uri
    return tuple(replace(file, first=first) for file in found)


def _in_order(files: list[RemoteFile]) -> tuple[RemoteFile, ...]:
    by_name = {PurePosixPath(file.uri).name: file for file in files}
    events = in_order(by_name).names if files[0].directory else ()
    return tuple(by_name[name] for name in events) or tuple(files)


def _place(file: RemoteFile, folder: Path, places: dict[str, Path]) -> Path:
    """Where a file is copied to, below ``folder``: ``places`` holds a directory for each of the
    store's, so that files of one name do not meet."""
    path = PurePosixPath(file.uri)
    outer = str(PurePosixPath(file.directory).parent if file.directory else path.parent)
    place = places.setdefault(outer, folder / str(len(places)))
    inside = place / PurePosixPath(file.directory).name if file.directory else place
    inside.mkdir(parents=True, exist_ok=True)
    return inside / path.name


def written_at(files: Iterable[RemoteFile]) -> datetime:
    """When a log was written last."""
    return datetime.fromtimestamp(max(file.modified_ms for file in files) / 1000, tz=UTC)


def _plain(error: Exception) -> RemoteLogError:
    """Java's exceptions come with stack traces, and a task's with two: the line that says what is
    wrong is Java's first, or the last one of Python's traceback."""
    java = getattr(error, "java_exception", None)
    lines = (str(java.toString()) if java is not None else str(error)).splitlines()
    python = [n for n, line in enumerate(lines) if line.startswith("Traceback (most recent")]
    if python:
        after = [line for line in lines[python[-1] + 1 :] if line and not line.startswith(" ")]
        if after:
            return RemoteLogError(after[0])
    return RemoteLogError(lines[0] if lines else type(error).__name__)
