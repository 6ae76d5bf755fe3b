"""What an ingest did and left out, counted, and where it is."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class IngestError:
    """A file and a sentence about it: why it was not taken in, or what is odd about it."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class IngestSummary:
    """What one call of `phoebe_spark.ingest.run.ingest` did.

    ``files`` counts logs (a rolling directory is one). Of these, ``skipped`` were in the tables
    already, ``too_old`` were last written before ``since``, ``errors`` names those that could not
    be read, and the rest are ``applications``: ``aborted`` ones have no end, ``incomplete`` ones
    lost events (both stay out of training). ``warnings`` are about logs that were taken in.
    """

    files: int = 0
    applications: int = 0
    executions: int = 0
    stages: int = 0
    skipped: int = 0
    too_old: int = 0
    aborted: int = 0
    incomplete: int = 0
    events: int = 0
    rows: int = 0
    bad_lines: int = 0
    seconds: float = 0.0
    errors: tuple[IngestError, ...] = ()
    warnings: tuple[IngestError, ...] = ()


@dataclass(frozen=True, slots=True)
class IngestProgress:
    """Where an ingest is: log ``file`` of ``files`` (from 1), ``events`` read of it."""

    path: str
    file: int
    files: int
    events: int


@dataclass(slots=True)
class Totals:
    applications: int = 0
    skipped: int = 0
    too_old: int = 0
    aborted: int = 0
    incomplete: int = 0
    events: int = 0
    bad_lines: int = 0
    rows: Counter[str] = field(default_factory=Counter)
    errors: list[IngestError] = field(default_factory=list)
    warnings: list[IngestError] = field(default_factory=list)

    def add(self, other: Totals) -> None:
        self.applications += other.applications
        self.skipped += other.skipped
        self.too_old += other.too_old
        self.aborted += other.aborted
        self.incomplete += other.incomplete
        self.events += other.events
        self.bad_lines += other.bad_lines
        self.rows += other.rows
        self.errors += other.errors
        self.warnings += other.warnings

    def summary(self, files: int, seconds: float) -> IngestSummary:
        return IngestSummary(
            files=files,
            applications=self.applications,
            executions=self.rows["executions"],
            stages=self.rows["stages"],
            skipped=self.skipped,
            too_old=self.too_old,
            aborted=self.aborted,
            incomplete=self.incomplete,
            events=self.events,
            rows=self.rows.total(),
            bad_lines=self.bad_lines,
            seconds=seconds,
            errors=tuple(self.errors),
            warnings=tuple(self.warnings),
        )
