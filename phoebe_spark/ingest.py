"""``phoebe ingest``: event logs and spool files into the tables.

The same `phoebe_spark.harvest.Harvest` as in a live run; this module only decides what is read and
what is written. Reading the same log again adds nothing; a log that was cut off, or still in
progress, is read again when it has grown.

An application may be known from several sources. A live run and its spool know what the plugin
decided, an event log does not; an event log may know the whole run where they lost events. So an
event log never takes away what a boundary's row says, and a spool that knows less of the run than
the event log that was read before adds its boundaries and checkpoints, and nothing else. A live run
and its spool are two parts of one: they add up.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

from deltalake.exceptions import DeltaError

from phoebe_spark.eventlog import EventReader, LogSource, UnreadableLogError, find_logs
from phoebe_spark.harvest import Harvest, decode
from phoebe_spark.records import ApplicationRecord, BoundaryRecord, CheckpointRecord, Record
from phoebe_spark.tables import Tables

_ROWS_A_COMMIT = 5_000
_EVENTS_TO_NAME = 1_000  # an application is named within its first lines
_PROGRESS_EVERY = 5_000


@dataclass(frozen=True, slots=True)
class IngestError:
    """A file that could not be taken in, and why in one sentence."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class IngestSummary:
    """What one call of `ingest` did. ``files`` counts logs (a rolling directory is one),
    ``skipped`` those whose application was there already, ``aborted`` applications without an end.
    """

    files: int = 0
    applications: int = 0
    executions: int = 0
    stages: int = 0
    skipped: int = 0
    aborted: int = 0
    events: int = 0
    rows: int = 0
    bad_lines: int = 0
    seconds: float = 0.0
    errors: tuple[IngestError, ...] = ()


@dataclass(frozen=True, slots=True)
class IngestProgress:
    """Where an ingest is: log ``file`` of ``files`` (from 1), ``events`` read of it."""

    path: str
    file: int
    files: int
    events: int


@dataclass(slots=True)
class _Totals:
    applications: int = 0
    skipped: int = 0
    aborted: int = 0
    events: int = 0
    bad_lines: int = 0
    rows: dict[str, int] = field(default_factory=dict)


def ingest(
    paths: Iterable[str | Path],
    home: str | Path,
    progress: Callable[[IngestProgress], None] | None = None,
) -> IngestSummary:
    """Read the logs in ``paths`` into the tables of ``home``.

    A log that cannot be read is an entry of ``errors`` and does not stop the others. Raises
    ``FileNotFoundError`` for a path that does not exist, and what `Tables.append` raises when the
    tables cannot be written.
    """
    started = time.monotonic()
    tables, totals, errors = Tables(home), _Totals(), list[IngestError]()
    sources = find_logs(paths)
    for number, source in enumerate(sources, start=1):

        def report(events: int, source: LogSource = source, number: int = number) -> None:
            if progress is not None:
                progress(IngestProgress(str(source.path), number, len(sources), events))

        report(0)
        try:
            _ingest_one(source, tables, totals, report)
        except UnreadableLogError as error:
            errors.append(IngestError(str(source.path), str(error)))
        except DeltaError:
            raise
        except OSError as error:
            if _is_ours(error, tables.home):
                raise
            errors.append(IngestError(str(source.path), error.strerror or str(error)))
    return IngestSummary(
        files=len(sources),
        applications=totals.applications,
        executions=totals.rows.get("executions", 0),
        stages=totals.rows.get("stages", 0),
        skipped=totals.skipped,
        aborted=totals.aborted,
        events=totals.events,
        rows=sum(totals.rows.values()),
        bad_lines=totals.bad_lines,
        seconds=time.monotonic() - started,
        errors=tuple(errors),
    )


def _is_ours(error: OSError, home: str) -> bool:
    """Whether the tables, not the log, could not be accessed."""
    return error.filename is None or str(error.filename).startswith(home)


def _ingest_one(
    source: LogSource, tables: Tables, totals: _Totals, report: Callable[[int], None]
) -> None:
    known = _known(tables, _name(source))
    current = known[-1] if known else None
    mine = next((row for row in reversed(known) if row["source"] == source.kind), None)
    if current is not None and (_covers(current, source) or (mine and mine["complete"])):
        totals.skipped += 1
        return
    poorer = False  # than what is there
    if current is not None:
        # Seen before but not whole: has it grown? Known from elsewhere: better? Read once without
        # writing.
        ending = _last_application(_read(source, Harvest(source=source.kind), _Totals(), report))
        if mine is not None and ending is not None and _same(mine, ending):
            totals.skipped += 1
            return
        poorer = (
            (current["source"], source.kind) == ("eventlog", "spool")
            and ending is not None
            and (ending.complete, ending.events_dropped == 0)
            < (current["complete"], current["events_dropped"] == 0)
        )
    said = _said(tables, current) if source.kind == "eventlog" else {}
    rows: list[Record] = []
    ending = None
    for row in _read(source, Harvest(source=source.kind), totals, report):
        if isinstance(row, ApplicationRecord):
            ending = row  # only the last: it tells that the log was taken in whole
            continue
        if isinstance(row, BoundaryRecord):
            rows.append(replace(row, **said.get((row.execution_id, row.boundary_id), {})))
        elif not poorer or isinstance(row, CheckpointRecord):
            rows.append(row)
        if len(rows) >= _ROWS_A_COMMIT:
            _write(tables, rows, totals)
            rows = []
    if ending is None:
        raise UnreadableLogError("no application in it: is this a Spark event log?")
    _write(tables, rows, totals)
    if current is not None and source.kind == "eventlog":
        ending = _filled(ending, current)
    _write(tables, [ending], totals)  # last, so that an ingest cut short is done again
    if poorer and current is not None:
        # This one has been read now, but what is known of the run is the other's.
        _write(tables, [_filled(_again(current), asdict(ending))], totals)
    totals.applications += 1
    totals.aborted += ending.status == "aborted"


def _write(tables: Tables, rows: list[Record], totals: _Totals) -> None:
    tables.append(rows)
    for row in rows:
        totals.rows[row.TABLE] = totals.rows.get(row.TABLE, 0) + 1


def _read(
    source: LogSource, harvest: Harvest, totals: _Totals, report: Callable[[int], None]
) -> Iterator[Record]:
    reader = EventReader(source, decode)
    lost = 0

    def missing() -> list[Record]:
        """Tells harvest where something is missing, before what comes after it."""
        nonlocal lost
        known, lost = lost, reader.bad_lines + reader.gaps
        return harvest.lost(lost - known) if lost > known else []

    said = 0
    for event in reader:
        if reader.lines - said >= _PROGRESS_EVERY:
            said = reader.lines
            report(said)
        yield from missing()
        yield from harvest.consume(event)
    yield from missing()
    totals.events += reader.lines
    totals.bad_lines += reader.bad_lines
    report(reader.lines)
    yield from harvest.close()


def _name(source: LogSource) -> tuple[str, str] | None:
    """Application id and attempt, from the log's first lines."""
    harvest = Harvest(source=source.kind)
    for event in islice(EventReader(source, decode), _EVENTS_TO_NAME):
        harvest.consume(event)
        if harvest.app_id is not None:
            return harvest.app_id, harvest.app_attempt
    return None


def _known(tables: Tables, name: tuple[str, str] | None) -> list[dict[str, Any]]:
    """The application's rows in the tables, of all sources, in the order in which they came."""
    if name is None:
        return []
    rows: list[dict[str, Any]] = tables.read(
        "applications",
        filters=[("app_id", "=", name[0]), ("app_attempt", "=", name[1])],
        latest=False,
    ).to_pylist()
    return sorted(rows, key=lambda row: row["written_at"])


def _said(
    tables: Tables, application: Mapping[str, Any] | None
) -> dict[tuple[int, str], dict[str, Any]]:
    """What the plugin said of the application's boundaries, by execution and boundary: fields of
    their rows. Which stage ran one is for every source to tell."""
    if application is None:
        return {}
    names = {f.name for f in fields(BoundaryRecord)} - {"date", "written_at", "stage_id"}
    rows = tables.read(
        "boundaries", filters=[(name, "=", application[name]) for name in ApplicationRecord.KEY]
    ).to_pylist()
    return {
        (row["execution_id"], row["boundary_id"]): {
            name: row[name] for name in names if row.get(name) is not None
        }
        for row in rows
        if row["decision"] is not None
    }


def _filled(row: ApplicationRecord, other: Mapping[str, Any]) -> ApplicationRecord:
    """``row`` with what only the plugin knows from the row of another source."""
    return replace(
        row,
        mode=row.mode or other["mode"],
        plugin_version=row.plugin_version or other["plugin_version"],
    )


def _again(known: Mapping[str, Any]) -> ApplicationRecord:
    """A row that is in the tables, as the last of its key."""
    same = {f.name: known[f.name] for f in fields(ApplicationRecord) if f.name in known}
    return ApplicationRecord(**{**same, "written_at": datetime.now(UTC)})


def _same(known: Mapping[str, Any], ending: ApplicationRecord) -> bool:
    """Whether reading a log again gave what it gave before."""
    names = ("status", "complete", "ended_at", "events_dropped")
    return all(known[name] == getattr(ending, name) for name in names)


def _covers(known: Mapping[str, Any], source: LogSource) -> bool:
    """Whether what is there is whole, and not poorer than what ``source`` can give: a live run or
    its spool also has what the plugin decided, which no event log knows."""
    rank = {"eventlog": 0, "spool": 1, "live": 1}
    return known["complete"] is True and rank.get(str(known["source"]), 0) >= rank[source.kind]


def _last_application(rows: Iterable[Record]) -> ApplicationRecord | None:
    last: ApplicationRecord | None = None
    for row in rows:
        if isinstance(row, ApplicationRecord):
            last = row
    return last
