"""One log into the tables: what is read of it, and what is written.

The same `phoebe_spark.harvest.Harvest` as in a live run. Reading the same log again adds nothing; a
log that was cut off, or still in progress, is read again when it has grown.

An application may be known from several sources. A live run and its spool know what the plugin
decided, an event log does not; an event log may know the whole run where they lost events. So an
event log never takes away what a boundary's row says, and a spool that knows less of the run than
the event log that was read before adds its boundaries and checkpoints, and nothing else. A live run
and its spool are two parts of one: they add up.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

from deltalake.exceptions import DeltaError

from phoebe_spark.errors import UnreadableLogError
from phoebe_spark.harvest import Harvest, decode
from phoebe_spark.ingest.eventlog import EventReader, LogKind, LogSource
from phoebe_spark.ingest.summary import IngestError, Totals
from phoebe_spark.tables.batch import ROWS_AT_ONCE
from phoebe_spark.tables.protocol import AnyTables
from phoebe_spark.tables.records import (
    ApplicationRecord,
    BoundaryRecord,
    CheckpointRecord,
    Record,
    from_row,
)

_NEWEST_SPARK = (4, 2)
_TO_THE_SECOND = "%Y-%m-%d %H:%M:%S"
_SAME_START = timedelta(minutes=10)
_EVENTS_TO_NAME = 1_000  # an application is named within its first lines
_PROGRESS_EVERY = 5_000

Name = tuple[str, str]
"""An application's id and attempt."""

Report = Callable[[int], None]
"""Is told how many events of a log have been read."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Whose log it is, as its first lines say."""

    app_id: str
    app_attempt: str
    started_at: datetime | None

    @property
    def name(self) -> Name:
        return self.app_id, self.app_attempt


def name_of(row: Mapping[str, Any]) -> Name:
    """Whose a row of any table is."""
    return row["app_id"], row["app_attempt"]


def identity(source: LogSource) -> Identity | None:
    """None where the first lines do not tell. Raises ``OSError`` and `UnreadableLogError`."""
    harvest, reader = Harvest(source=source.kind), EventReader(source, decode)
    for event in islice(reader, _EVENTS_TO_NAME):
        harvest.consume(event)
        if harvest.app_id is not None:
            return Identity(harvest.app_id, harvest.app_attempt, harvest.started_at)
        if (named := _named_by_its_place(reader)) is not None:
            return Identity(*named, None)
    return None


def _named_by_its_place(reader: EventReader) -> Name | None:
    """Whose a log is that lacks its beginning, where the application would be named."""
    lacks = reader.source.late and reader.source.late in reader.missing
    return reader.source.application if lacks else None


def known_rows(tables: AnyTables, name: Name) -> list[dict[str, Any]]:
    """The application's rows in the tables, of all sources, in the order in which they came."""
    rows = _rows_of(tables, "applications", name, latest=False)
    return sorted(rows, key=lambda row: row["written_at"])


def known_boundaries(tables: AnyTables, name: Name) -> list[dict[str, Any]]:
    """The last row of each of the application's boundaries."""
    return _rows_of(tables, "boundaries", name, latest=True)


def _rows_of(tables: AnyTables, table: str, name: Name, *, latest: bool) -> list[dict[str, Any]]:
    filters = [(key, "=", value) for key, value in zip(ApplicationRecord.KEY, name, strict=True)]
    rows: list[dict[str, Any]] = tables.read(table, filters=filters, latest=latest).to_pylist()
    return rows


def is_covered(known: Sequence[Mapping[str, Any]], who: Identity, kind: LogKind) -> bool:
    """Whether a log of ``kind`` cannot add to what is known of its application. Raises
    `UnreadableLogError` where that is another application."""
    if not known:
        return False
    current = known[-1]
    if not _one_run(current, who):
        raise UnreadableLogError(
            f"{who.app_id} is in the tables already, of an application that started at "
            f"{current['started_at']:{_TO_THE_SECOND}}, not at {who.started_at:{_TO_THE_SECOND}}:"
            " two applications with one id"
        )
    mine = _last_of(known, kind)
    return _covers(current, kind) or (mine is not None and bool(mine["complete"]))


def ingest_log(source: LogSource, tables: AnyTables, report: Report) -> Totals:
    """One log; what is wrong with it is in ``errors``, what is wrong with the tables is raised."""
    totals = Totals()
    try:
        _ingest_one(source, tables, totals, report)
    except UnreadableLogError as error:
        totals.errors.append(IngestError(source.name, str(error)))
    except DeltaError:
        raise
    except OSError as error:
        if _is_ours(error, tables.home):
            raise
        totals.errors.append(IngestError(source.name, error.strerror or str(error)))
    return totals


def _is_ours(error: OSError, home: str) -> bool:
    """Whether the tables, not the log, could not be accessed."""
    return bool(home) and (error.filename is None or str(error.filename).startswith(home))


def _ingest_one(source: LogSource, tables: AnyTables, totals: Totals, report: Report) -> None:
    who = identity(source)
    known = [] if who is None else known_rows(tables, who.name)
    if who is not None and is_covered(known, who, source.kind):
        totals.skipped += 1
        return
    current, mine = (known[-1], _last_of(known, source.kind)) if known else (None, None)
    poorer = False  # than what is there
    if current is not None:
        # Seen before but not whole: has it grown? Known from elsewhere: better? Read once without
        # writing.
        once = EventReader(source, decode)
        ending = _last_application(_read(once, Harvest(source=source.kind), Totals(), report))
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
    harvest, reader = Harvest(source=source.kind), EventReader(source, decode)
    for row in _read(reader, harvest, totals, report):
        if isinstance(row, ApplicationRecord):
            ending = row  # only the last: it tells that the log was taken in whole
            continue
        if isinstance(row, BoundaryRecord):
            rows.append(replace(row, **said.get((row.execution_id, row.boundary_id), {})))
        elif not poorer or isinstance(row, CheckpointRecord):
            rows.append(row)
        if len(rows) >= ROWS_AT_ONCE:
            _write(tables, rows, totals)
            rows = []
    if ending is None:
        raise UnreadableLogError(_no_application(source, reader))
    if current is not None and source.kind == "eventlog":
        ending = _filled(ending, current)
    # The application comes last, so that an ingest cut short is done again.
    _write(tables, [*rows, ending], totals)
    if poorer and current is not None:
        # This one has been read now, but what is known of the run is the other's.
        _write(tables, [_filled(_again(current), asdict(ending))], totals)
    totals.applications += 1
    totals.aborted += ending.status == "aborted"
    totals.incomplete += ending.status != "aborted" and not ending.complete
    totals.warnings += [IngestError(source.name, text) for text in _odd(harvest, reader)]


def _no_application(source: LogSource, reader: EventReader) -> str:
    """Why a log that could be read is nobody's."""
    if not reader.lines:
        return "no application in it: it is empty, no event has been written yet"
    if reader.missing or source.kind == "spool":
        why = reader.missing or ["its first line is missing"]
        return f"no application in it: {', '.join(why)}"
    return (
        "no application in it: it is no Spark event log, or its beginning, which names the "
        "application, is missing"
    )


def _odd(harvest: Harvest, reader: EventReader) -> Iterator[str]:
    """Sentences about a log that was read, and that may not say what it seems to say."""
    for lost in reader.missing:
        yield f"{lost}: events are lost, what ran then and later counts as incomplete"
    version = re.match(r"(\d+)\.(\d+)", harvest.spark_version or "")
    if version is not None and tuple(map(int, version.groups())) > _NEWEST_SPARK:
        yield (
            f"written by Spark {harvest.spark_version}, newer than "
            f"{'.'.join(map(str, _NEWEST_SPARK))}: events that are not known yet were passed over"
        )
    if harvest.clock_jumps:
        yield (
            f"the driver's clock was set back: {harvest.clock_jumps} stages or queries end before "
            "they start; their executions count as incomplete"
        )
    if harvest.unread_plans:
        yield (
            f"{harvest.unread_plans} queries have plans that no Spark writes; only these queries "
            "count as incomplete"
        )
    if harvest.malformed:
        yield f"{harvest.malformed} events have a shape that no Spark writes; they were passed over"


def _last_of(known: Sequence[Mapping[str, Any]], kind: LogKind) -> Mapping[str, Any] | None:
    return next((row for row in reversed(known) if row["source"] == kind), None)


def _one_run(known: Mapping[str, Any], who: Identity) -> bool:
    """Whether a row of the same application id is of the same run; a plugin and Spark's own events
    may differ by what an application's start takes."""
    if known["started_at"] is None or who.started_at is None:
        return True
    return bool(abs(known["started_at"] - who.started_at) < _SAME_START)


def _write(tables: AnyTables, rows: list[Record], totals: Totals) -> None:
    tables.append(rows)
    totals.rows.update(row.TABLE for row in rows)


def _read(
    reader: EventReader, harvest: Harvest, totals: Totals, report: Callable[[int], None]
) -> Iterator[Record]:
    source = reader.source
    lost = 0

    def missing() -> list[Record]:
        """Tells harvest where something is missing, before what comes after it."""
        nonlocal lost
        known, lost = lost, reader.bad_lines + reader.gaps
        found: list[Record] = []
        named = _named_by_its_place(reader) if harvest.app_id is None else None
        if named is not None:
            hello = {"type": "hello", "app_id": named[0], "app_attempt": named[1]}
            found += harvest.consume(hello)
        return found + harvest.lost(lost - known) if lost > known else found

    said = 0
    for event in reader:
        if reader.lines - said >= _PROGRESS_EVERY:
            said = reader.lines
            report(said)
        yield from missing()
        yield from harvest.consume(event)
    cut_off = source.over and not harvest.ended and reader.lines > 0
    if cut_off:
        reader.missing.append("its end is missing, though Spark had closed it")
    yield from missing()
    totals.events += reader.lines
    totals.bad_lines += reader.bad_lines
    report(reader.lines)
    yield from harvest.close(aborted=False if cut_off else None)


def _said(
    tables: AnyTables, application: Mapping[str, Any] | None
) -> dict[tuple[int, str], dict[str, Any]]:
    """What the plugin said of the application's boundaries, by execution and boundary: fields of
    their rows. Which stage ran one is for every source to tell."""
    if application is None:
        return {}
    names = {f.name for f in fields(BoundaryRecord)} - {"date", "written_at", "stage_id"}
    rows = known_boundaries(tables, name_of(application))
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
    return replace(from_row(ApplicationRecord, known), written_at=datetime.now(UTC))


def _same(known: Mapping[str, Any], ending: ApplicationRecord) -> bool:
    """Whether reading a log again gave what it gave before."""
    names = ("status", "complete", "ended_at", "events_dropped")
    return all(known[name] == getattr(ending, name) for name in names)


def _covers(known: Mapping[str, Any], kind: LogKind) -> bool:
    """Whether what is there is whole, and not poorer than what a log of ``kind`` can give: a live
    run or its spool also has what the plugin decided, which no event log knows."""
    rank = {"eventlog": 0, "spool": 1, "live": 1}
    return known["complete"] is True and rank.get(str(known["source"]), 0) >= rank[kind]


def _last_application(rows: Iterable[Record]) -> ApplicationRecord | None:
    last: ApplicationRecord | None = None
    for row in rows:
        if isinstance(row, ApplicationRecord):
            last = row
    return last
