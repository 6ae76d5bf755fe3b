"""``phoebe ingest``: event logs and spool files into the tables.

Which logs there are, who reads them, and who writes: this process, several of them, or the tasks of
a Spark session, which hand the rows to this one. What becomes of one log is `ingest_log`'s.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from datetime import datetime
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from phoebe_spark.eventlog import LogSource, find_logs
from phoebe_spark.ingest_log import AnyTables, Report, ingest_log, quick_name
from phoebe_spark.ingest_summary import IngestError, IngestProgress, IngestSummary, Totals
from phoebe_spark.ingest_tables import Batch, MemoryTables, records_of
from phoebe_spark.records import ApplicationRecord, Record
from phoebe_spark.remote_logs import (
    RemoteFile,
    RemoteLogError,
    RemoteLogs,
    is_remote,
    written_at,
)
from phoebe_spark.spark_tables import SparkTables
from phoebe_spark.stores import Writer, writer_of
from phoebe_spark.tables import Tables

_BYTES_TO_NAME = 4 << 20  # of a log's first file: it holds the lines that name the application
_TASKS_AHEAD = 2  # for each slot, so that none waits while this process writes

Progress = Callable[[IngestProgress], None]
Name = tuple[str, str]
"""An application's id and attempt."""


def ingest(
    paths: Iterable[str | Path],
    home: str | Path,
    progress: Progress | None = None,
    *,
    since: datetime | None = None,
    parallel: int = 1,
    writer: Writer = "auto",
) -> IngestSummary:
    """Read the logs in ``paths`` into the tables of ``home``.

    Paths are files and directories, or URIs of any store that Spark reaches, which its tasks read
    (`remote_logs`). Logs last written before ``since`` are passed over. With ``parallel`` so many
    processes read local logs, except where Spark writes the tables. ``writer``: who does
    (`writer_of`). A log that cannot be read is an entry of ``errors`` and does not stop the others.
    Raises what `Tables.append` raises when the tables cannot be written (or what Spark does), and
    ``ImportError`` without PySpark for a URI or where Spark is to write.
    """
    started = time.monotonic()
    given = [str(path) for path in paths]
    totals = Totals()
    by_spark = writer_of(str(home), writer) == "delta-spark"
    tables: AnyTables = SparkTables(str(home)) if by_spark else Tables(home)

    def unreadable(path: str | Path, error: OSError) -> None:
        totals.errors.append(IngestError(str(path), error.strerror or str(error)))

    local = [path.removeprefix("file://") for path in given if not is_remote(path)]
    sources = find_logs(local, unreadable)
    recent = [source for source in sources if since is None or _written_since(source, since)]
    totals.too_old = len(sources) - len(recent)
    files = len(sources)
    if parallel > 1 and len(recent) > 1 and not by_spark:
        for part in _in_processes(recent, home, parallel, progress):
            totals.add(part)
    else:
        with Batch(tables) as batch:
            for number, source in enumerate(recent, start=1):
                report = _reporter(progress, source, number, len(recent))
                totals.add(ingest_log(source, batch, report))
    uris = [path for path in given if is_remote(path)]
    if uris:
        logs = RemoteLogs()
        found: list[tuple[RemoteFile, ...]] = []
        for uri in uris:
            try:
                found += logs.find(uri)
            except RemoteLogError as error:
                unreadable(uri, error)
        new = [log for log in found if since is None or written_at(log) >= since]
        totals.too_old += len(found) - len(new)
        files += len(found)
        with Batch(tables) as batch:
            for part in _in_tasks(logs, new, batch, progress):
                totals.add(part)
    return totals.summary(files, time.monotonic() - started)


def _written_since(source: LogSource, since: datetime) -> bool:
    try:
        return source.written_at() >= since
    except OSError:
        return True  # reading it will say what is wrong


def _reporter(progress: Progress | None, source: LogSource, number: int, of: int) -> Report:
    def report(events: int) -> None:
        if progress is not None:
            progress(IngestProgress(source.name, number, of, events))

    report(0)
    return report


def _in_processes(
    sources: list[LogSource], home: str | Path, processes: int, progress: Progress | None
) -> Iterator[Totals]:
    """Each process takes all logs of an application, in their order: one may know more than the
    other, which only shows when they come after each other."""
    groups: dict[object, list[LogSource]] = {}
    for number, source in enumerate(sources):
        groups.setdefault(quick_name(source) or number, []).append(source)
    context = get_context("spawn")  # the tables' library has threads, which a fork would break
    done = 0
    with ProcessPoolExecutor(min(processes, len(groups)), mp_context=context) as pool:
        futures = {pool.submit(_ingest_group, group, home): group for group in groups.values()}
        for future in as_completed(futures):
            done += len(futures[future])
            part = future.result()
            if progress is not None:
                name = futures[future][-1].name
                progress(IngestProgress(name, done, len(sources), part.events))
            yield part


def _ingest_group(sources: list[LogSource], home: str | Path) -> Totals:
    totals = Totals()
    with Batch(Tables(home)) as batch:
        for source in sources:
            totals.add(ingest_log(source, batch, lambda _events: None))
    return totals


def _in_tasks(
    logs: RemoteLogs,
    found: Sequence[tuple[RemoteFile, ...]],
    tables: AnyTables,
    progress: Progress | None,
) -> Iterator[Totals]:
    """One Spark task for each application reads its logs; this process writes what it gives."""
    groups = _by_application(logs, found)
    ahead = _TASKS_AHEAD * logs.slots
    done = 0
    with ThreadPoolExecutor(logs.slots) as pool:
        running: dict[Future[tuple[list[Record], Totals]], list[RemoteFile]] = {}
        while groups or running:
            while groups and len(running) < ahead:
                name, group = groups.pop()
                known = [] if name is None else _known(tables, name)
                running[pool.submit(_read_group, logs, group, known)] = group
            future = next(as_completed(running))
            group = running.pop(future)
            try:
                rows, part = future.result()
            except RemoteLogError as error:
                rows, part = [], Totals()
                names = dict.fromkeys(file.log for file in group)
                part.errors += [IngestError(name, str(error)) for name in names]
            tables.append(rows)
            done += len({file.log for file in group})
            if progress is not None:
                progress(IngestProgress(group[-1].log, done, len(found), part.events))
            yield part


def _by_application(
    logs: RemoteLogs, found: Sequence[tuple[RemoteFile, ...]]
) -> list[tuple[Name | None, list[RemoteFile]]]:
    """The files of each application's logs; those of a log that does not say whose it is alone."""
    slots = min(logs.slots, len(found))
    firsts = [[log[0] for log in found[n::slots]] for n in range(slots)]
    names: dict[str, Name] = {}
    try:
        for part in logs.read(firsts, _names, _BYTES_TO_NAME) if firsts else []:
            names.update(part)
    except RemoteLogError:
        names = {}  # whatever it was, it will be met again, and told of, for each log
    groups: dict[object, tuple[Name | None, list[RemoteFile]]] = {}
    for log in found:
        name = names.get(log[0].log)
        groups.setdefault(name or log[0].log, (name, []))[1].extend(log)
    return list(reversed(groups.values()))


def _names(sources: list[LogSource], _failed: dict[str, str]) -> dict[str, Name]:
    named = {source.name: quick_name(source) for source in sources}
    return {log: name for log, name in named.items() if name is not None}


def _known(tables: AnyTables, name: Name) -> list[Record]:
    """What is known of an application already: enough to tell what its logs add."""
    filters = list(zip(ApplicationRecord.KEY, ("=", "="), name, strict=True))
    kept = tables.read("applications", filters=filters, latest=False).to_pylist()
    rows = records_of("applications", kept)
    if rows:
        boundaries = tables.read("boundaries", filters=filters).to_pylist()
        rows += records_of("boundaries", boundaries)
    return rows


def _read_group(
    logs: RemoteLogs, group: list[RemoteFile], known: list[Record]
) -> tuple[list[Record], Totals]:
    (found,) = logs.read([group], partial(_ingest_in_task, known))
    return found


def _ingest_in_task(
    known: list[Record], sources: list[LogSource], failed: dict[str, str]
) -> tuple[list[Record], Totals]:
    totals, tables = Totals(), MemoryTables(known)
    totals.errors += [IngestError(log, reason) for log, reason in failed.items()]
    for source in sources:
        totals.add(ingest_log(source, tables, lambda _events: None))
    return tables.added, totals
