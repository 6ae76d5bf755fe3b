"""The rows of the Delta tables, one frozen dataclass per table.

The field order and types here are the tables' schemas (`tables.rows` derives the Arrow
schemas from them). Tables are logically append-only: the last row of a key (by ``written_at``)
wins. Times ending in ``_at`` are UTC timestamps; ``_ms`` and ``_bytes`` are integers; ``start_ms``
and ``end_ms`` of a stage count from the start of its SQL execution; a stage starts with its first
task.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import date, datetime
from typing import Any, ClassVar, TypeVar


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What every row carries: the partition column and the application's identity."""

    TABLE: ClassVar[str]
    KEY: ClassVar[tuple[str, ...]]

    date: date
    app_id: str
    app_attempt: str  # "" where the cluster manager has none
    source: str  # "live" | "spool" | "eventlog"
    written_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ApplicationRecord(Record):
    """A start row, lease renewals, and an end row share one key; the last one wins."""

    TABLE: ClassVar[str] = "applications"
    KEY: ClassVar[tuple[str, ...]] = ("app_id", "app_attempt")

    app_name: str | None = None
    job: str | None = None  # what recurs: links the attempts and days of one job
    user: str | None = None
    spark_version: str | None = None
    plugin_version: str | None = None
    mode: str | None = None
    slots: int | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    status: str = "running"  # running | finished | aborted
    lease_until: datetime | None = None
    events_dropped: int = 0
    complete: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionRecord(Record):
    TABLE: ClassVar[str] = "executions"
    KEY: ClassVar[tuple[str, ...]] = ("app_id", "app_attempt", "execution_id")

    execution_id: int
    root_execution_id: int | None = None
    description: str | None = None
    template: str | None = None
    shape: str | None = None  # protocol.md, "Plan shape"
    started_at: datetime | None = None
    ended_at: datetime | None = None
    duration_ms: int | None = None
    status: str = "running"  # running | succeeded | failed | aborted
    error_class: str | None = None
    stage_count: int = 0
    boundary_count: int = 0
    slots: int | None = None
    copy_ms: int = 0  # time spent copying checkpoints, in task time
    restored: bool = False  # at least one boundary was restored: never trained on
    complete: bool = False
    stage_parents: str | None = None  # JSON: {"<stage_id>": [parent stage ids]}
    # JSON: {"<stage_id>": stage that computed it before, or null}, of stages that a job listed and
    # that did not run; the first thousand
    skipped_stages: str | None = None
    stages_skipped: int = 0
    # JSON, a list of the first plan's stages: template, boundary, operators, and what it reads as
    # [place in the list, connector]; see `phoebe_spark.plan.stages`
    plan: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StageRecord(Record):
    """One row per stage attempt."""

    TABLE: ClassVar[str] = "stages"
    KEY: ClassVar[tuple[str, ...]] = ("app_id", "app_attempt", "stage_id", "stage_attempt")

    stage_id: int
    stage_attempt: int
    execution_id: int | None = None
    job_id: int | None = None
    name: str | None = None
    template: str | None = None  # of the stage: boundary template, or of the result stage
    boundary_id: str | None = None  # the exchange that it wrote, if any
    parents: list[int] | None = None  # stage ids, of this execution, whose output it reads
    operators: list[str] | None = None
    status: str = "running"  # running | succeeded | failed | skipped | aborted
    failure_reason: str | None = None
    submitted_at: datetime | None = None
    ended_at: datetime | None = None
    start_ms: int | None = None
    end_ms: int | None = None
    ttl_ms: int | None = None
    duration_ms: int | None = None
    task_count: int = 0
    tasks_succeeded: int = 0
    tasks_failed: int = 0
    tasks_killed: int = 0
    task_time_ms: int = 0  # sum of executor run times, successful tasks, net of checkpoint copies
    task_cpu_ms: int = 0
    task_gc_ms: int = 0
    task_ms_p50: int | None = None
    task_ms_p90: int | None = None
    task_ms_max: int | None = None
    input_bytes: int = 0
    input_rows: int = 0
    output_bytes: int = 0
    output_rows: int = 0
    shuffle_read_bytes: int = 0
    shuffle_read_rows: int = 0
    shuffle_write_bytes: int = 0
    shuffle_write_rows: int = 0
    spill_memory_bytes: int = 0
    spill_disk_bytes: int = 0
    peak_memory_bytes: int = 0
    copy_ms: int = 0
    copied_bytes: int = 0
    complete: bool = False
    # The largest of one task; against the sum over the tasks they show skew.
    shuffle_read_bytes_max: int = 0
    shuffle_write_bytes_max: int = 0
    spill_disk_bytes_max: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundaryRecord(Record):
    """Each exchange of each planned query, whether or not it ran."""

    TABLE: ClassVar[str] = "boundaries"
    KEY: ClassVar[tuple[str, ...]] = ("app_id", "app_attempt", "execution_id", "boundary_id")

    execution_id: int
    boundary_id: str
    template: str | None = None
    fingerprint: str | None = None
    stage_id: int | None = None  # the stage that ran it, tied by accumulator ids
    reused: bool = False  # run by the stage of an equal boundary: read twice, written once
    partitions: int | None = None
    catalyst_bytes: int | None = None
    catalyst_rows: int | None = None
    features: str | None = None  # JSON: what plan features the predictors saw or can see
    predicted_output_bytes: float | None = None
    predicted_task_time_ms: float | None = None
    predicted_start_ms: float | None = None
    predicted_end_ms: float | None = None
    predicted_ttl_ms: float | None = None
    model_version: str | None = None
    decision: str | None = None  # checkpoint | skip | restore | refuse
    reason_code: str | None = None
    reason_args: str | None = None  # JSON
    reason_message: str | None = None
    parts: str | None = None  # JSON: what the fingerprint was made of; protocol.md, "Parts"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutorRecord(Record):
    TABLE: ClassVar[str] = "executors"
    KEY: ClassVar[tuple[str, ...]] = ("app_id", "app_attempt", "executor_id")

    executor_id: str
    host: str | None = None
    cores: int | None = None
    added_at: datetime | None = None
    removed_at: datetime | None = None
    removal_reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TempStorageRecord(Record):
    """Shuffle files of one execution on one host's disks, over time.

    They stay until the execution has ended, at the earliest; what checkpoints freed before is
    taken off every host by its share. Bytes written again (a lost output, a second attempt of a
    task) count again.
    """

    TABLE: ClassVar[str] = "temp_storage"
    KEY: ClassVar[tuple[str, ...]] = ("app_id", "app_attempt", "execution_id", "host")

    execution_id: int
    host: str
    peak_bytes: int = 0
    byte_seconds: float = 0.0
    series: str | None = None  # JSON: [[ms since the execution's start, bytes alive], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointRecord(Record):
    """What happened to a checkpoint: committed, freed, restored, abandoned or damaged."""

    TABLE: ClassVar[str] = "checkpoints"
    KEY: ClassVar[tuple[str, ...]] = (
        "app_id", "app_attempt", "execution_id", "fingerprint", "event",
    )  # fmt: skip

    execution_id: int | None
    fingerprint: str
    event: str  # committed | freed | restored | abandoned | damaged
    at: datetime
    boundary_id: str | None = None
    path: str | None = None
    bytes: int | None = None
    rows: int | None = None
    map_count: int | None = None
    partitions: int | None = None
    copy_ms: int | None = None
    freed_bytes: int | None = None
    from_app_id: str | None = None  # restored: the application that wrote it
    reason_code: str | None = None
    reason_args: str | None = None
    reason_message: str | None = None


_Row = TypeVar("_Row", bound=Record)


def from_row(kind: type[_Row], row: Mapping[str, Any]) -> _Row:
    """A table's row as a record; what an older row does not have is as its default."""
    names = {field.name for field in fields(kind)}
    return kind(**{k: v for k, v in row.items() if k in names and v is not None})
