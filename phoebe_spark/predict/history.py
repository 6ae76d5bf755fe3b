"""Per-template history: what past runs did, and what it says about the next.

History is kept at two levels, this boundary of this template and the stage's own template in any
query. A past figure is carried to today's input size by the slope that the runs themselves show
(log figure over log size, shrunk towards a prior while there are few or equal sizes), so inputs
that grow from day to day do not leave the last value behind.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from phoebe_spark.graph import Stage
from phoebe_spark.predict.query import Query, log_partitions, log_size, stage_key, template_key

FIGURES = ("task_time", "output", "start", "end", "tasks")
"""Log1p of task time (ms), output (bytes), start and end (ms), and of the number of tasks."""

KEEP = 8
"""Runs of one key that are kept: a bounded window, over which median and spread are exact."""
_PRIOR_SLOPE = {"task_time": 0.7, "output": 0.7, "start": 0.7, "end": 0.7, "tasks": 0.5}
_PRIOR_WEIGHT = 0.1  # in squared log size: one doubling (0.48) outweighs it fivefold


@dataclass(frozen=True, slots=True)
class Past:
    """One past run of a stage: log1p figures, and the size they belong to (NaN: not known)."""

    figures: Mapping[str, float]
    log_size: float
    log_partitions: float
    at: float = math.nan  # its end, days since the epoch


@dataclass(frozen=True, slots=True)
class Stats:
    """What the past says of one figure: ``count`` of runs in all; over the window ``last`` and
    ``median`` in the figure's unit, ``spread`` (the median absolute deviation of its log1p, scaled
    to a normal's standard deviation) and ``trend`` (log1p per day, the median slope between two
    runs: Theil-Sen; 0 where times are not known)."""

    count: int
    last: float
    median: float
    spread: float
    trend: float


@dataclass(slots=True)
class StageHistory:
    """The last runs of one key, oldest first, and how many there were in all."""

    count: int = 0
    runs: list[Past] = field(default_factory=list)

    def add(self, past: Past) -> None:
        self.count += 1
        self.runs.append(past)
        del self.runs[:-KEEP]

    def median(self, figure: str) -> float:
        return median(run.figures[figure] for run in self.runs)

    def stats(self, figure: str) -> Stats:
        """The window's ``figure`` in short. Raises ``IndexError`` where there is no run."""
        values = [run.figures[figure] for run in self.runs]
        middle = median(values)
        slopes = [
            (b.figures[figure] - a.figures[figure]) / (b.at - a.at)
            for n, a in enumerate(self.runs)
            for b in self.runs[n + 1 :]
            if b.at > a.at
        ]
        return Stats(
            count=self.count,
            last=math.expm1(values[-1]),
            median=math.expm1(middle),
            spread=1.4826 * median(abs(value - middle) for value in values),
            trend=median(slopes) if slopes else 0.0,
        )

    def slope(self, figure: str) -> float:
        """Log figure per log size over the runs whose size is known."""
        known = [r for r in self.runs if not math.isnan(r.log_size)]
        if not known:
            return _PRIOR_SLOPE[figure]
        mean_x = sum(r.log_size for r in known) / len(known)
        mean_y = sum(r.figures[figure] for r in known) / len(known)
        sxx = sum((r.log_size - mean_x) ** 2 for r in known)
        sxy = sum((r.log_size - mean_x) * (r.figures[figure] - mean_y) for r in known)
        slope = (sxy + _PRIOR_WEIGHT * _PRIOR_SLOPE[figure]) / (sxx + _PRIOR_WEIGHT)
        return max(-0.5, min(2.0, slope))

    def baseline(self, figure: str, size: float) -> float:
        """Log1p of what the past says for an input of ``size`` (log): the median of the past
        figures, each carried to that size; the later half of the runs where sizes are unknown."""
        known = [r for r in self.runs if not math.isnan(r.log_size)]
        if known and not math.isnan(size):
            slope = self.slope(figure)
            carried = [r.figures[figure] + slope * (size - r.log_size) for r in known]
            return max(0.0, median(carried))
        recent = self.runs[-max(1, (len(self.runs) + 1) // 2) :]
        return median(r.figures[figure] for r in recent)


@dataclass(slots=True)
class ExecutionHistory:
    """Past runs of a whole template: durations and total task times, ms, oldest first."""

    count: int = 0
    durations_ms: list[float] = field(default_factory=list)
    task_times_ms: list[float] = field(default_factory=list)


@dataclass(slots=True)
class History:
    """All that the bundle's ``history.json`` holds."""

    stages: dict[str, StageHistory] = field(default_factory=dict)
    executions: dict[str, ExecutionHistory] = field(default_factory=dict)
    shapes: dict[str, list[float]] = field(default_factory=dict)

    def add(self, query: Query, shape: str | None, duration_ms: float) -> None:
        """Add one finished execution: ``query.graph`` with true figures."""
        size = log_size(query)
        for stage in query.graph.stages:
            past = Past(figures_of(stage), size, log_partitions(stage))
            for key in keys(query, stage):
                self.stages.setdefault(key, StageHistory()).add(past)
        run = self.executions.setdefault(query.template, ExecutionHistory())
        run.count += 1
        run.durations_ms = [*run.durations_ms, duration_ms][-KEEP:]
        total = sum(s.task_time_ms for s in query.graph.stages)
        run.task_times_ms = [*run.task_times_ms, total][-KEEP:]
        if shape:
            self.shapes[shape] = [*self.shapes.get(shape, []), duration_ms][-KEEP:]

    def lookup(self, query: Query, stage: Stage) -> tuple[StageHistory | None, int]:
        """The history that speaks for ``stage`` and its level: 2 this boundary of this template,
        1 the same stage template elsewhere, 0 none."""
        exact = self.stages.get(stage_key(query, stage))
        if exact is not None:
            return exact, 2
        elsewhere = self.stages.get(template_key(stage)) if stage.template else None
        return elsewhere, 1 if elsewhere is not None else 0

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; ``shapes`` maps a plan shape to its median duration in ms."""
        return {
            "stages": {
                key: {
                    "count": h.count,
                    "runs": [past_to_json(r) for r in h.runs],
                }
                for key, h in self.stages.items()
            },
            "executions": {key: asdict(h) for key, h in self.executions.items()},
            "shapes": {shape: median(ms) for shape, ms in self.shapes.items()},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> History:
        return cls(
            stages={
                key: StageHistory(h["count"], [past_from_json(r) for r in h["runs"]])
                for key, h in data["stages"].items()
            },
            executions={key: ExecutionHistory(**h) for key, h in data["executions"].items()},
            shapes={shape: [ms] for shape, ms in data["shapes"].items()},
        )


def figures_of(stage: Stage) -> dict[str, float]:
    """Log1p of a stage's figures."""
    return {
        "task_time": math.log1p(max(0.0, stage.task_time_ms)),
        "output": math.log1p(max(0.0, stage.output_bytes)),
        "start": math.log1p(max(0.0, stage.start_ms)),
        "end": math.log1p(max(0.0, stage.end_ms)),
        "tasks": math.log1p(max(0, stage.task_count)),
    }


def keys(query: Query, stage: Stage) -> tuple[str, ...]:
    """Under what a stage's run is remembered."""
    exact = stage_key(query, stage)
    return (exact, template_key(stage)) if stage.template else (exact,)


def past_to_json(past: Past) -> dict[str, Any]:
    return {
        "figures": dict(past.figures),
        "log_size": _null(past.log_size),
        "log_partitions": _null(past.log_partitions),
        "at": _null(past.at),
    }


def past_from_json(data: Mapping[str, Any]) -> Past:
    """``at`` is absent in a bundle that an earlier version wrote."""
    return Past(
        data["figures"],
        _nan(data["log_size"]),
        _nan(data["log_partitions"]),
        _nan(data.get("at")),
    )


def _null(value: float) -> float | None:
    return None if math.isnan(value) else value


def _nan(value: float | None) -> float:
    return float("nan") if value is None else value
