"""Rows → `Run`s: finished executions as queries whose graphs hold the true figures.

Only complete, successful executions that restored nothing count, of applications that lost no
event: what was lost may be a stage, and nothing in the other rows tells. Stages that share the
plan nodes of another (the map side of ``TakeOrderedAndProject``, the sampling job of a range
partitioning) are merged into it: before a run the plan shows them as one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import pandas as pd

from phoebe_spark.graph import Boundary, Stage, StageGraph
from phoebe_spark.predict.query import Query
from phoebe_training.data import Frames

_KEY = ["app_id", "app_attempt", "execution_id"]


@dataclass(frozen=True, slots=True)
class Run:
    """One finished execution. Its history is what had ended when its application started: a driver
    loads its models then, and never again."""

    query: Query
    shape: str | None
    duration_ms: float
    app: tuple[str, str]
    execution_id: int
    app_started_at: datetime
    ended_at: datetime


@dataclass(frozen=True, slots=True)
class Applications:
    """Application ids with attempts: those that lost events, and those that did not."""

    lossy: frozenset[tuple[str, str]]
    whole: frozenset[tuple[str, str]]


def applications(frames: Frames) -> Applications:
    rows = frames.applications
    every = frozenset(rows[_KEY[:2]].itertuples(index=False, name=None))
    lost = rows[rows["events_dropped"].fillna(0) > 0]
    lossy = frozenset(lost[_KEY[:2]].itertuples(index=False, name=None))
    return Applications(lossy, every - lossy)


def build_runs(frames: Frames) -> list[Run]:
    """All runs that may be trained on, in the order of their applications' starts."""
    executions = frames.executions
    key = _KEY
    lossy = applications(frames).lossy
    told = [where not in lossy for where in executions[key[:2]].itertuples(index=False, name=None)]
    usable = executions[
        pd.Series(told, index=executions.index, dtype=bool)
        & executions["complete"]
        & ~executions["restored"]
        & (executions["status"] == "succeeded")
        & executions["template"].notna()
        & executions["duration_ms"].notna()
    ]
    rows = frames.applications.itertuples(index=False)
    started = {(row.app_id, row.app_attempt): row for row in rows}
    stages = dict(tuple(frames.stages.dropna(subset=["execution_id"]).groupby(key)))
    boundaries = dict(tuple(frames.boundaries.groupby(key)))
    runs: list[Run] = []
    for row in usable.itertuples(index=False):
        where = (row.app_id, row.app_attempt, row.execution_id)
        mine = stages.get(where)
        if mine is None:
            continue
        application = started.get((row.app_id, row.app_attempt))
        known = {b["boundary_id"]: b for b in _records(boundaries.get(where))}
        graph = _graph(list(_records(mine)), known)
        if graph is None:
            continue
        app_slots = getattr(application, "slots", None)
        app_started_at = getattr(application, "started_at", None) or row.started_at
        began = app_started_at if pd.isna(row.started_at) else row.started_at
        slots = row.slots if not pd.isna(row.slots) else app_slots
        runs.append(
            Run(
                query=Query(
                    graph=graph,
                    features=_features(graph, known),
                    template=str(row.template),
                    slots=1 if slots is None or pd.isna(slots) else max(1, int(slots)),
                ),
                shape=row.shape,
                duration_ms=float(row.duration_ms),
                app=(str(row.app_id), str(row.app_attempt)),
                execution_id=int(row.execution_id),
                app_started_at=app_started_at,
                ended_at=began + timedelta(milliseconds=float(row.duration_ms)),
            )
        )
    runs.sort(key=lambda r: (r.app_started_at, r.app, r.execution_id))
    return runs


def _records(frame: pd.DataFrame | None) -> Iterator[dict[str, Any]]:
    if frame is None:
        return
    for row in frame.to_dict("records"):
        yield {str(k): None if _is_null(v) else v for k, v in row.items()}


def _is_null(value: object) -> bool:
    return not isinstance(value, list) and bool(pd.isna(value))


def _graph(rows: list[dict[str, Any]], known: Mapping[str, Mapping[str, Any]]) -> StageGraph | None:
    """The graph of an execution's stages; None when a stage did not end as it should.

    A second attempt runs only the tasks whose output was lost, and counts them as all of its
    tasks: its figures are a part's. So no execution with one is a run.
    """
    if not rows or any(
        r["stage_attempt"] > 0
        or r["status"] != "succeeded"
        or not r["complete"]
        or r["end_ms"] is None
        for r in rows
    ):
        return None
    merged = _merge_twins({row["stage_id"]: row for row in rows})
    written = [r["boundary_id"] for r in merged.values() if r["boundary_id"] is not None]
    if len(set(written)) < len(written):
        return None  # run twice, for example by a job that was started over: whose figures?
    stages: list[Stage] = []
    read = {p for r in merged.values() for p in r["parents"]}
    done: set[int] = set()
    for u in sorted(merged, key=lambda s: (merged[s]["end_ms"], s)):
        row = merged[u]
        parents = tuple(p for p in row["parents"] if p in done)
        stages.append(
            Stage(
                stage_id=u,
                parents=parents,
                template=row["template"] or "",
                boundary=_boundary(row, known, u in read),
                output_bytes=float(row["shuffle_write_bytes"] or 0),
                task_count=int(row["task_count"] or 1),
                task_time_ms=float(row["task_time_ms"] or 0),
                start_ms=float(row["start_ms"] or 0),
                end_ms=float(row["end_ms"]),
                ttl_ms=float(row["ttl_ms"] or 0),
                operators=tuple(row["operators"] or ()),
            )
        )
        done.add(u)
    return StageGraph(tuple(stages))


def _merge_twins(rows: Mapping[int, dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """Stages whose template ends in ``+map`` or ``+sample`` become part of the stage they serve."""
    into: dict[int, int] = {}
    for u, row in rows.items():
        base, _, kind = (row["template"] or "").rpartition("+")
        if kind not in ("map", "sample"):
            continue
        hosts = [
            v
            for v, other in rows.items()
            if v > u
            and other["template"] == base
            and (kind == "sample" or u in (other["parents"] or ()))
        ]
        if hosts:
            into[u] = min(hosts)
    merged: dict[int, dict[str, Any]] = {}
    for v, row in rows.items():
        if v in into:
            continue
        twins = [rows[u] for u, host in into.items() if host == v]
        parents = {p for r in (row, *twins) for p in (r["parents"] or ())}
        whole = {**row, "parents": sorted({into.get(p, p) for p in parents} - {v})}
        for twin in twins:
            whole["task_time_ms"] = (whole["task_time_ms"] or 0) + (twin["task_time_ms"] or 0)
            whole["task_count"] = max(whole["task_count"] or 1, twin["task_count"] or 1)
            starts = [s for s in (whole["start_ms"], twin["start_ms"]) if s is not None]
            whole["start_ms"] = min(starts, default=0)
        merged[v] = whole
    return merged


def _boundary(
    row: Mapping[str, Any], known: Mapping[str, Mapping[str, Any]], is_read: bool
) -> Boundary | None:
    boundary_id = row["boundary_id"]
    template = row["template"] or ""
    if boundary_id is not None:
        fact = known.get(boundary_id, {})
        return Boundary(
            boundary_id,
            template,
            partitions=fact.get("partitions"),
            catalyst_bytes=fact.get("catalyst_bytes"),
            catalyst_rows=fact.get("catalyst_rows"),
        )
    if row["shuffle_write_bytes"]:
        return Boundary(f"s-{template}", template, eligible=False)  # no exchange of the first plan
    return (
        Boundary(f"b-{template}", template, eligible=False, carrier="broadcast")
        if is_read
        else None
    )


def _features(
    graph: StageGraph, known: Mapping[str, Mapping[str, Any]]
) -> dict[int, dict[str, float]]:
    found: dict[int, dict[str, float]] = {}
    for stage in graph.stages:
        if stage.boundary is None or stage.boundary.boundary_id not in known:
            continue
        text = known[stage.boundary.boundary_id].get("features")
        if text:
            found[stage.stage_id] = {k: float(v) for k, v in json.loads(text).items()}
    return found
