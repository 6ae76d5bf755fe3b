"""Rows → `Run`s: finished executions as queries whose graphs hold the true figures.

The graph is that of the first plan, as the driver asked about it, not that of the stages that ran:
adaptive execution may skip a planned stage, or run one that no plan foresaw. Figures are those of
the stages that ran for planned ones; the others have none, and nothing is learned from them.

Only complete, successful executions that restored nothing count, of applications that lost no
event: what was lost may be a stage, and nothing in the other rows tells. Stages that share the
plan nodes of another (the map side of ``TakeOrderedAndProject``, the sampling job of a range
partitioning) are merged into it: before a run the plan shows them as one.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import pandas as pd

from phoebe_spark.graph import Boundary, Stage, StageGraph
from phoebe_spark.plan.stored import from_json
from phoebe_spark.predict.query import Query, build_query
from phoebe_training.data import Frames

_KEY = ["app_id", "app_attempt", "execution_id"]


@dataclass(frozen=True, slots=True)
class Run:
    """One finished execution; ``ran``: the stages of its graph that ran, and have figures. Its
    history is what had ended when its application started: a driver loads its models then, and
    never again."""

    query: Query
    ran: frozenset[int]
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


def count_without_plan(frames: Frames) -> int:
    """Executions that would be runs, if the tables held the plans that they were asked about."""
    return int(_usable(frames)["plan"].isna().sum())


def _usable(frames: Frames) -> pd.DataFrame:
    """Executions that ended as they should, of applications that lost no event."""
    executions = frames.executions
    lossy = applications(frames).lossy
    told = [where not in lossy for where in executions[_KEY[:2]].itertuples(index=False, name=None)]
    return executions[
        pd.Series(told, index=executions.index, dtype=bool)
        & executions["complete"]
        & ~executions["restored"]
        & (executions["status"] == "succeeded")
        & executions["template"].notna()
        & executions["duration_ms"].notna()
    ]


def build_runs(frames: Frames) -> list[Run]:
    """All runs that may be trained on, in the order of their applications' starts."""
    key = _KEY
    usable = _usable(frames)
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
        app_slots = getattr(application, "slots", None)
        app_started_at = getattr(application, "started_at", None) or row.started_at
        began = app_started_at if pd.isna(row.started_at) else row.started_at
        slots = row.slots if not pd.isna(row.slots) else app_slots
        slots = 1 if slots is None or pd.isna(slots) else max(1, int(slots))
        done = _ran(list(_records(mine)))
        asked = _query(row, _records(boundaries.get(where)), slots)
        if done is None or asked is None:
            continue
        query, ran = _with_truth(asked, done)
        if not ran:
            continue
        runs.append(
            Run(
                query=query,
                ran=ran,
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


def _ran(rows: list[dict[str, Any]]) -> list[dict[str, Any]] | None:
    """The stages that ran, each once, in the order of their ids; None when a stage did not end as
    it should.

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
    return [merged[stage_id] for stage_id in sorted(merged)]


def _with_truth(query: Query, rows: list[dict[str, Any]]) -> tuple[Query, frozenset[int]]:
    """``query`` with the figures of the stages that ran, and which of its stages those are.

    A shuffle is told by the boundary that it wrote, a broadcast by its template, in order. Result
    stages are those of the others that no stage reads: the last plan, which a result stage has its
    template from, may look otherwise than the first one.
    """
    written = {row["boundary_id"]: row for row in rows if row["boundary_id"] is not None}
    read = {parent for row in rows for parent in row["parents"] or ()}
    broadcasts = {s.template for s in query.graph.stages if s.boundary and not s.is_shuffle}
    others: dict[str, list[dict[str, Any]]] = defaultdict(list)
    results: list[dict[str, Any]] = []
    for other in rows:
        if other["boundary_id"] or other["shuffle_write_bytes"] or not other["template"]:
            continue
        if other["template"] in broadcasts:
            others[other["template"]].append(other)
        elif other["stage_id"] not in read:
            results.append(other)
    stages: list[Stage] = []
    ran: set[int] = set()
    for stage in query.graph.stages:
        row: dict[str, Any] | None = None
        if stage.boundary is None:
            row = _result(results)
        elif stage.is_shuffle:
            row = written.get(stage.boundary.boundary_id)
        elif others[stage.template]:
            row = others[stage.template].pop(0)
        if row is not None:
            ran.add(stage.stage_id)
            stage = replace(
                stage,
                output_bytes=float(row["shuffle_write_bytes"] or 0),
                task_count=int(row["task_count"] or 1),
                task_time_ms=float(row["task_time_ms"] or 0),
                start_ms=float(row["start_ms"] or 0),
                end_ms=float(row["end_ms"]),
                ttl_ms=float(row["ttl_ms"] or 0),
            )
        stages.append(stage)
    return replace(query, graph=StageGraph(tuple(stages))), frozenset(ran)


def _result(rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The last result stage, with those of its kind before it: a limit is collected in several
    jobs, each over more partitions."""
    if not rows:
        return None
    whole = dict(rows[-1])
    for row in rows[:-1]:
        if row["template"] == whole["template"]:
            _take_in(whole, row)
    return whole


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
            _take_in(whole, twin)
        merged[v] = whole
    return merged


def _take_in(whole: dict[str, Any], part: Mapping[str, Any]) -> None:
    """Add a stage's work to that of the one that it is counted to."""
    whole["task_time_ms"] = (whole["task_time_ms"] or 0) + (part["task_time_ms"] or 0)
    whole["task_count"] = max(whole["task_count"] or 1, part["task_count"] or 1)
    starts = [s for s in (whole["start_ms"], part["start_ms"]) if s is not None]
    whole["start_ms"] = min(starts, default=0)


def _query(row: Any, facts: Iterable[Mapping[str, Any]], slots: int) -> Query | None:
    """The query as the driver asked about it before the run; None where the plan is not known."""
    try:
        stages = from_json(row.plan)
    except (ValueError, LookupError, TypeError):
        return None
    boundaries: dict[str, Boundary] = {}
    features: dict[str, dict[str, float]] = {}
    for fact in facts:
        name = fact["boundary_id"]
        boundaries[name] = Boundary(
            name,
            fact["template"] or "",
            partitions=fact["partitions"],
            catalyst_bytes=fact["catalyst_bytes"],
            catalyst_rows=fact["catalyst_rows"],
        )
        if fact["features"]:
            features[name] = {k: float(v) for k, v in json.loads(fact["features"]).items()}
    return build_query(stages, boundaries, features, str(row.template), slots)
