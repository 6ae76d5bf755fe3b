"""Rows of a finished execution, and of stages outside any: state in, records out."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Protocol, TypedDict

from phoebe_spark.harvest._state import ExecutionState, StageState
from phoebe_spark.harvest._structure import NO_STRUCTURE, HostStorage, Structure
from phoebe_spark.harvest._ties import StageTie, Ties
from phoebe_spark.harvest._values import JsonObject, integer, number, obj, text, timestamp
from phoebe_spark.plan import Reading
from phoebe_spark.plan.nodes import body
from phoebe_spark.plan.templates import Exchange, shape, template
from phoebe_spark.tables.records import (
    BoundaryRecord,
    CheckpointRecord,
    ExecutionRecord,
    StageRecord,
    TempStorageRecord,
)


class RowStamp(TypedDict):
    """The fields that every row has."""

    date: date
    app_id: str
    app_attempt: str
    source: str
    written_at: datetime


class Stamp(Protocol):
    """Makes the identity of the next row; ``written_at`` grows from row to row."""

    def __call__(self) -> RowStamp: ...


@dataclass(frozen=True, slots=True)
class Ending:
    """How an execution ended, for the rows of its stages."""

    started_ms: int | None
    ended_ms: int | None
    aborted: bool
    lossy: bool  # events were dropped or could not be read


def execution_row(
    execution: ExecutionState, stamp: Stamp, ending: Ending, ties: Ties | None, boundary_count: int,
    slots: int | None, structure: Structure | None = None,
) -> ExecutionRecord:  # fmt: skip
    """The execution's row. Complete: it succeeded and every task of every stage was seen."""
    structure = structure or NO_STRUCTURE
    plan = execution.initial
    latest: dict[int, StageState] = {}
    for _, stage in sorted(execution.stages.items()):
        latest[stage.stage_id] = stage
    if not execution.ended:
        status = "aborted" if ending.aborted else "running"
    else:
        status = "failed" if execution.error else "succeeded"
    started, ended = execution.started_ms, execution.ended_ms if execution.ended else None
    return ExecutionRecord(
        **stamp(),
        execution_id=execution.execution_id,
        root_execution_id=execution.root_id,
        description=harmless(execution.description),
        template=template(body(plan)) if plan is not None else None,
        shape=shape(plan) if plan is not None else None,
        started_at=timestamp(started),
        ended_at=timestamp(ended),
        duration_ms=_span(started, ended),
        status=status,
        error_class=error_class(execution.error),
        stage_count=len(latest),
        boundary_count=boundary_count,
        slots=slots,
        copy_ms=sum(stage.copy_ms for stage in execution.stages.values()),
        restored=execution.restored,
        complete=(
            status == "succeeded"
            and not ending.lossy
            and not execution.damaged
            and started is not None
            and all(stage.saw_all_tasks for stage in latest.values())
        ),
        skipped_stages=structure.skipped,
        stages_skipped=structure.skipped_count,
        plan=structure.plan,
        stage_parents=(
            json.dumps({str(k): list(v) for k, v in sorted(ties.parents.items())}) if ties else None
        ),
    )


def stage_row(
    stage: StageState, stamp: Stamp, tie: StageTie | None, parents: tuple[int, ...] | None,
    ending: Ending,
) -> StageRecord:  # fmt: skip
    """One stage attempt's row; times relative to the execution where there is one."""
    p50, p90 = stage.task_times.quantiles(0.5, 0.9)
    if stage.completed:
        status = "failed" if stage.failure else "succeeded"
    else:
        status = "aborted" if ending.aborted else "running"
    start = _since(ending.started_ms, stage.launched_ms or stage.submitted_ms)
    end = _since(ending.started_ms, stage.completed_ms)
    if start is not None and end is not None:
        end = max(start, end)
    return StageRecord(
        **stamp(),
        stage_id=stage.stage_id,
        stage_attempt=stage.attempt,
        execution_id=stage.execution_id,
        job_id=stage.job_id,
        name=stage.name,
        template=tie.template if tie else None,
        boundary_id=tie.boundary_id if tie else None,
        parents=list(parents) if parents is not None else None,
        operators=list(tie.operators) if tie and tie.operators is not None else None,
        status=status,
        failure_reason=_first_line(stage.failure),
        submitted_at=timestamp(stage.submitted_ms),
        ended_at=timestamp(stage.completed_ms),
        start_ms=start,
        end_ms=end,
        ttl_ms=_span(stage.completed_ms, ending.ended_ms),
        duration_ms=_span(stage.submitted_ms, stage.completed_ms),
        task_count=stage.task_count,
        tasks_succeeded=stage.succeeded,
        tasks_failed=stage.failed,
        tasks_killed=stage.killed,
        task_time_ms=stage.task_times.total,
        task_cpu_ms=stage.cpu_ns // 1_000_000,
        task_gc_ms=stage.gc_ms,
        task_ms_p50=p50,
        task_ms_p90=p90,
        task_ms_max=stage.task_times.largest if stage.succeeded else None,
        input_bytes=stage.input_bytes,
        input_rows=stage.input_rows,
        output_bytes=stage.output_bytes,
        output_rows=stage.output_rows,
        shuffle_read_bytes=stage.read_bytes,
        shuffle_read_rows=stage.read_rows,
        shuffle_write_bytes=stage.write_bytes,
        shuffle_write_rows=stage.write_rows,
        spill_memory_bytes=stage.spill_memory,
        spill_disk_bytes=stage.spill_disk,
        peak_memory_bytes=stage.peak_memory,
        copy_ms=stage.copy_ms,
        copied_bytes=stage.copied_bytes,
        shuffle_read_bytes_max=stage.read_bytes_max,
        shuffle_write_bytes_max=stage.write_bytes_max,
        spill_disk_bytes_max=stage.spill_disk_max,
        complete=stage.saw_all_tasks and not ending.lossy,
    )


def boundary_rows(
    execution: ExecutionState, stamp: Stamp, initial: tuple[Exchange, ...],
    reading: Reading | None, ties: Ties,
) -> list[BoundaryRecord]:  # fmt: skip
    """One row per exchange of the initial plan, with the plugin's decision about it. And one row
    for each boundary of the plugin's messages that is not in that plan: a restored one, and those
    above it.
    """
    said, unmatched = _by_boundary(execution, initial, ties)
    rows = []
    for exchange in initial:
        message = said.get(exchange.boundary_id, {})
        found = _features(reading, exchange.boundary_id) if reading is not None else None
        rows.append(
            BoundaryRecord(
                **stamp(),
                execution_id=execution.execution_id,
                boundary_id=exchange.boundary_id,
                template=exchange.template,
                stage_id=ties.boundaries.get(exchange.boundary_id),
                reused=exchange.boundary_id in ties.reused,
                features=json.dumps(found, sort_keys=True) if found is not None else None,
                **_said(message, exchange.partitions),
            )
        )
    for boundary_id, message in _unplanned(unmatched).items():
        rows.append(
            BoundaryRecord(
                **stamp(),
                execution_id=execution.execution_id,
                boundary_id=boundary_id,
                **_said(message, None),
            )
        )
    return rows


def _features(reading: Reading, boundary_id: str) -> Mapping[str, float] | None:
    planned = reading.plan_graph.stage_of_boundary.get(boundary_id)
    return reading.features.get(planned) if planned is not None else None


def _said(message: JsonObject, partitions: int | None) -> dict[str, Any]:
    """The fields of a boundary's row that a `boundary` message fills in."""
    reason, predicted = obj(message, "reason"), obj(message, "predicted")
    return {
        "fingerprint": text(message.get("fingerprint")),
        "partitions": integer(message.get("partitions")) or partitions,
        "catalyst_bytes": integer(message.get("catalyst_bytes")),
        "catalyst_rows": integer(message.get("catalyst_rows")),
        "predicted_output_bytes": number(predicted.get("output_bytes")),
        "predicted_task_time_ms": number(predicted.get("task_time_ms")),
        "predicted_start_ms": number(predicted.get("start_ms")),
        "predicted_end_ms": number(predicted.get("end_ms")),
        "predicted_ttl_ms": number(predicted.get("ttl_ms")),
        "model_version": text(message.get("model_version")),
        "decision": text(message.get("decision")),
        "reason_code": text(reason.get("code")),
        "reason_args": _json(reason.get("args")),
        "reason_message": text(reason.get("message")),
        "parts": _json(message.get("parts")),
    }


def _unplanned(messages: list[JsonObject]) -> dict[str, JsonObject]:
    """Messages about no exchange of the plan, by ids that are the same in each run."""
    found: dict[str, JsonObject] = {}
    for rank, message in enumerate(messages):
        fingerprint = text(message.get("fingerprint"))
        found[f"f-{fingerprint[:12]}" if fingerprint else f"u{rank}"] = message
    return found


def _by_boundary(
    execution: ExecutionState, initial: tuple[Exchange, ...], ties: Ties
) -> tuple[dict[str, JsonObject], list[JsonObject]]:
    """The plugin's `boundary` messages by boundary id, matched by accumulator, else by order; and
    those that belong to no boundary of the plan."""
    found: dict[str, JsonObject] = {}
    left: list[JsonObject] = []
    absent: list[JsonObject] = []
    for message in execution.messages:
        acc_id = integer(message.get("acc_id"))
        boundary_id = ties.boundary_of_acc.get(acc_id) if acc_id is not None else None
        if acc_id is not None and acc_id < 0:
            absent.append(message)  # the message itself says: not in the plan that runs
        elif boundary_id is None:
            left.append(message)
        else:
            found[boundary_id] = message
    free = [e.boundary_id for e in initial if e.boundary_id not in found]
    if left and len(left) == len(free):  # all or none: matches off by one would all be wrong
        found.update(zip(free, left, strict=True))
        left = []
    return found, absent + left


def boundary_facts(
    execution: ExecutionState, initial: tuple[Exchange, ...], ties: Ties
) -> list[dict[str, Any]]:
    """The messages in the form that `phoebe_spark.plan.stages.derive` takes."""
    nodes = {e.boundary_id: e.node.index for e in initial}
    return [
        {**message, "node": nodes[boundary_id]}
        for boundary_id, message in _by_boundary(execution, initial, ties)[0].items()
    ]


def temp_storage_row(held: HostStorage, execution_id: int, stamp: Stamp) -> TempStorageRecord:
    return TempStorageRecord(
        **stamp(),
        execution_id=execution_id,
        host=held.host,
        peak_bytes=held.peak_bytes,
        byte_seconds=held.byte_seconds,
        series=json.dumps(held.points),
    )


def checkpoint_row(
    message: JsonObject, stamp: Stamp, at: datetime, boundary_id: str | None
) -> CheckpointRecord:
    reason = obj(message, "reason")
    return CheckpointRecord(
        **stamp(),
        execution_id=integer(message.get("execution_id")),
        fingerprint=text(message.get("fingerprint")) or "",
        event=text(message.get("event")) or "",
        at=at,
        boundary_id=boundary_id,
        path=text(message.get("path")),
        bytes=integer(message.get("bytes")),
        rows=integer(message.get("rows")),
        map_count=integer(message.get("map_count")),
        partitions=integer(message.get("partitions")),
        copy_ms=integer(message.get("copy_ms")),
        freed_bytes=integer(message.get("freed_bytes")),
        from_app_id=text(message.get("from_app_id")),
        reason_code=text(reason.get("code")),
        reason_args=_json(reason.get("args")),
        reason_message=text(reason.get("message")),
    )


def _json(value: object) -> str | None:
    return json.dumps(value, sort_keys=True) if isinstance(value, Mapping) and value else None


def _since(start: int | None, at: int | None) -> int | None:
    return max(0, at - start) if start is not None and at is not None else None


def _span(start: int | None, end: int | None) -> int | None:
    return _since(start, end)


def _first_line(message: str | None) -> str | None:
    """The first line only, which has the kind of failure: the rest may quote rows."""
    if message is None:
        return None
    return message.splitlines()[0].split(":", 1)[0][:200] if message.strip() else None


_ERROR_CLASS = re.compile(r"\[([A-Z][A-Z0-9_.]+)\]")
_EXCEPTION = re.compile(r"\b[\w.$]*(?:Exception|Error)\b")


def error_class(message: str | None) -> str | None:
    """Spark's error class ("DIVIDE_BY_ZERO"), or the exception's name; never the message."""
    if not message:
        return None
    found = _ERROR_CLASS.search(message) or _EXCEPTION.search(message)
    if found is None:
        return "UNKNOWN"
    return found.group(found.lastindex or 0)


_SQL_TEXT = re.compile(
    r"\b(select|insert|update|delete|merge|with|create|alter|drop|from|where|values|set|call)\b",
    re.IGNORECASE,
)


def harmless(description: str | None) -> str | None:
    """A job's description, unless it looks like SQL text or holds a quoted literal."""
    if description is None or len(description) > 200:
        return None
    if len(_SQL_TEXT.findall(description)) >= 2 or re.search(r"['\"=;\n]", description):
        return None
    return description


_VARYING = re.compile(r"\d+")
_SEPARATORS = re.compile(r"[\s_\-.:/]{2,}")


def job_name(app_name: str | None) -> str | None:
    """An application's name without digits and dates, so that it is the same in each run.

    >>> job_name("daily-sales 2026-01-31")
    'daily-sales'
    """
    if app_name is None:
        return None
    return _SEPARATORS.sub("-", _VARYING.sub("", app_name)).strip(" _-.:/") or app_name
