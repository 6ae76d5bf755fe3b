"""The structure of an execution for its rows: the plan's stages, skipped stages, and the bytes of
its shuffle files on each host's disks."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from phoebe_spark.harvest._state import ExecutionState
from phoebe_spark.harvest._ties import resolve
from phoebe_spark.plan import Reading
from phoebe_spark.plan.stored import planned_stages, to_json

_MOST_SKIPPED = 1_000
_MOST_POINTS = 200


@dataclass(frozen=True, slots=True)
class Structure:
    """JSON for `phoebe_spark.tables.records.ExecutionRecord`."""

    plan: str | None
    skipped: str | None
    skipped_count: int


NO_STRUCTURE = Structure(None, None, 0)


@dataclass(frozen=True, slots=True)
class HostStorage:
    """Shuffle bytes of an execution on one host; ``points``: ms since its start, bytes alive."""

    host: str
    peak_bytes: int
    byte_seconds: float
    points: tuple[tuple[int, int], ...]


def structure(
    execution: ExecutionState, reading: Reading | None, ran_rdd: Mapping[int, int]
) -> Structure:
    """``ran_rdd`` gives the map stage that last computed an RDD."""
    ran = {stage_id for stage_id, _ in execution.stages}
    skipped = sorted(execution.skipped.keys() - ran)
    computed = {str(s): resolve(s, {}, execution.skipped, ran_rdd) for s in skipped[:_MOST_SKIPPED]}
    return Structure(
        to_json(planned_stages(reading.plan_graph)) if reading is not None else None,
        json.dumps(computed) if skipped else None,
        len(skipped),
    )


def temp_storage(execution: ExecutionState) -> list[HostStorage]:
    """Per host, from the first bytes to the end of the execution; empty while it runs."""
    if execution.started_ms is None or execution.ended_ms is None:
        return []
    written: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for stage in execution.stages.values():
        for host, (held, at) in stage.on_hosts.items():
            written[host].append((_clamp(execution, at), held))
    freed: list[tuple[int, int]] = []
    before: dict[str | None, int] = {}
    for at, place, so_far in execution.freed:
        freed.append((_clamp(execution, at), max(0, so_far - before.get(place, 0))))
        before[place] = so_far
    found: list[HostStorage] = []
    everything = [wrote for on_host in written.values() for wrote in on_host]
    for host, wrote in sorted(written.items()):
        steps = list(wrote)
        for moment, gone in freed:
            if there := _until(everything, moment):
                steps.append((moment, -gone * _until(wrote, moment) // there))
        found.append(_host(host, sorted(steps), _clamp(execution, execution.ended_ms)))
    return found


def _until(wrote: list[tuple[int, int]], moment: int) -> int:
    return sum(held for at, held in wrote if at <= moment)


def _clamp(execution: ExecutionState, at: int) -> int:
    assert execution.started_ms is not None
    assert execution.ended_ms is not None
    return min(max(at, execution.started_ms), execution.ended_ms) - execution.started_ms


def _host(host: str, steps: list[tuple[int, int]], ends: int) -> HostStorage:
    alive = peak = 0
    byte_ms = 0
    points: list[tuple[int, int]] = []
    since = 0
    for at, change in steps:
        byte_ms += alive * (at - since)
        since, alive = at, max(0, alive + change)
        peak = max(peak, alive)
        if points and points[-1][0] == at:
            points.pop()
        points.append((at, alive))
    byte_ms += alive * (ends - since)
    every = -(-len(points) // _MOST_POINTS) or 1
    kept = points[::every]
    if points and kept[-1] != points[-1]:
        kept.append(points[-1])
    return HostStorage(host, peak, byte_ms / 1000, tuple(kept))
