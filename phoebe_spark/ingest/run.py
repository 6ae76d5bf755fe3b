"""``phoebe ingest``: event logs and spool files into the tables.

Which logs there are, who reads them, and who writes: this process, several of them, or the tasks of
a Spark session, which hand the rows to this one. What becomes of one log is `ingest_log`'s.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from phoebe_spark.errors import RemoteLogError, UnreadableLogError
from phoebe_spark.ingest.eventlog import LogSource
from phoebe_spark.ingest.finding import find_logs
from phoebe_spark.ingest.log import (
    Identity,
    Name,
    Report,
    identity,
    ingest_log,
    is_covered,
    known_boundaries,
    known_rows,
    name_of,
)
from phoebe_spark.ingest.remote_logs import (
    RemoteFile,
    RemoteLogs,
    is_remote,
    written_at,
)
from phoebe_spark.ingest.summary import IngestError, IngestProgress, IngestSummary, Totals
from phoebe_spark.tables.batch import Batch
from phoebe_spark.tables.delta_spark import SparkTables
from phoebe_spark.tables.deltalake import Tables
from phoebe_spark.tables.memory import MemoryTables
from phoebe_spark.tables.protocol import AnyTables
from phoebe_spark.tables.records import ApplicationRecord, BoundaryRecord, Record, from_row
from phoebe_spark.tables.storage_options import Writer, writer_of

_BYTES_TO_NAME = 4 << 20  # of a log's first file: it holds the lines that name the application
_LOGS_A_LOOK = 50  # by one task
_MOST_TASKS = 64  # at once, however many slots there are
_TASKS_AHEAD = 2  # for each slot, so that none waits while this process writes

Progress = Callable[[IngestProgress], None]


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
    ``ImportError`` without PySpark for a URI or where Spark is to write, and `MissingJarError`
    without the plugin's jar for a URI.
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
        try:
            who = identity(source)
        except (OSError, UnreadableLogError):
            who = None  # reading it will say what is wrong
        groups.setdefault(number if who is None else who.name, []).append(source)
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
    """One Spark task for each application reads its logs; this process writes what it gives.

    What is in the tables already is not copied again.
    """
    groups = _by_application(logs, found)
    threads = min(logs.slots, _MOST_TASKS)
    running: dict[Future[_Read], _Group] = {}
    pool = ThreadPoolExecutor(threads)
    try:
        done = 0
        while groups or running:
            while groups and len(running) < _TASKS_AHEAD * threads:
                group = groups.pop()
                known = _known(tables, group.name)
                group.before = _left_out(group, known)
                if group.logs:
                    running[pool.submit(_read_group, logs, group, _records(tables, known))] = group
                else:
                    done += 1
                    yield group.before
            if not running:
                continue
            future = next(as_completed(running))
            group = running.pop(future)
            try:
                rows, part = future.result()
            except RemoteLogError as error:
                rows, part = [], Totals()
                part.errors += [IngestError(log[0].log, str(error)) for log in group.logs]
            if group.name is None and (known := _found_later(tables, rows)):
                # It did not say whose it is in its first lines: once more, with what is known.
                group.name = name_of(known[-1])
                running[pool.submit(_read_group, logs, group, _records(tables, known))] = group
                continue
            tables.append(rows)
            part.add(group.before)
            done += 1
            if progress is not None:
                last = group.logs[-1][0].log
                progress(IngestProgress(last, done, done + len(groups) + len(running), part.events))
            yield part
    finally:
        pool.shutdown(cancel_futures=True)


@dataclass(slots=True)
class _Group:
    """The logs of one application, or one that does not say whose it is; ``before``: what was left
    out of it without being read."""

    name: Name | None
    logs: list[tuple[RemoteFile, ...]] = field(default_factory=list)
    who: dict[str, Identity] = field(default_factory=dict)  # by log
    before: Totals = field(default_factory=Totals)


_Read = tuple[list[Record], Totals]


def _by_application(logs: RemoteLogs, found: Sequence[tuple[RemoteFile, ...]]) -> list[_Group]:
    """In the reverse of the logs' order."""
    firsts = [log[0] for log in found]
    shares = [firsts[n : n + _LOGS_A_LOOK] for n in range(0, len(firsts), _LOGS_A_LOOK)]
    names: dict[str, Identity] = {}
    try:
        for part in logs.read(shares, _identities, _BYTES_TO_NAME) if shares else []:
            names.update(part)
    except RemoteLogError:
        names = {}  # then each log is read by itself first, and says what is wrong
    groups: dict[object, _Group] = {}
    for log in found:
        who = names.get(log[0].log)
        name = None if who is None else who.name
        group = groups.setdefault(name or log[0].log, _Group(name))
        group.logs.append(log)
        if who is not None:
            group.who[log[0].log] = who
    return list(reversed(groups.values()))


def _identities(sources: list[LogSource], _failed: dict[str, str]) -> dict[str, Identity]:
    found = {}
    for source in sources:
        try:
            who = identity(source)
        except (OSError, UnreadableLogError):
            continue  # reading it will say what is wrong
        if who is not None:
            found[source.name] = who
    return found


def _known(tables: AnyTables, name: Name | None) -> list[dict[str, Any]]:
    return [] if name is None else known_rows(tables, name)


def _found_later(tables: AnyTables, rows: Sequence[Record]) -> list[dict[str, Any]]:
    """What is known of an application whose name only its rows tell."""
    names = {(r.app_id, r.app_attempt) for r in rows if isinstance(r, ApplicationRecord)}
    return [row for name in names for row in known_rows(tables, name)]


def _left_out(group: _Group, known: Sequence[dict[str, Any]]) -> Totals:
    """Takes those logs out of the group that add nothing, or are another application's."""
    totals, left = Totals(), []
    for log in group.logs:
        who = group.who.get(log[0].log)
        try:
            if who is not None and is_covered(known, who, log[0].kind):
                totals.skipped += 1
            else:
                left.append(log)
        except UnreadableLogError as error:
            totals.errors.append(IngestError(log[0].log, str(error)))
    group.logs = left
    return totals


def _records(tables: AnyTables, known: Sequence[dict[str, Any]]) -> list[Record]:
    """What a task is to know: the application's rows, and what was said of its boundaries."""
    rows: list[Record] = [from_row(ApplicationRecord, row) for row in known]
    for name in {name_of(row) for row in known}:
        rows += [from_row(BoundaryRecord, row) for row in known_boundaries(tables, name)]
    return rows


def _read_group(logs: RemoteLogs, group: _Group, known: list[Record]) -> _Read:
    files = [file for log in group.logs for file in log]
    (found,) = logs.read([files], partial(_ingest_in_task, known))
    return found


def _ingest_in_task(known: list[Record], sources: list[LogSource], failed: dict[str, str]) -> _Read:
    """On an executor: the rows that an application's logs add to what is known."""
    totals, tables = Totals(), MemoryTables(known)
    totals.errors += [IngestError(log, reason) for log, reason in failed.items()]
    for source in sources:
        totals.add(ingest_log(source, tables, lambda _events: None))
    return tables.added, totals
