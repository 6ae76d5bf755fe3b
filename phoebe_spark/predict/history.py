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

_KEEP = 8
_PRIOR_SLOPE = {"task_time": 0.7, "output": 0.7, "start": 0.7, "end": 0.7, "tasks": 0.5}
_PRIOR_WEIGHT = 0.1  # in squared log size: one doubling (0.48) outweighs it fivefold


@dataclass(frozen=True, slots=True)
class Past:
    """One past run of a stage: log1p figures, and the size they belong to (NaN: not known)."""

    figures: Mapping[str, float]
    log_size: float
    log_partitions: float


@dataclass(slots=True)
class StageHistory:
    """The last runs of one key, oldest first, and how many there were in all."""

    count: int = 0
    runs: list[Past] = field(default_factory=list)

    def add(self, past: Past) -> None:
        self.count += 1
        self.runs.append(past)
        del self.runs[:-_KEEP]

    def median(self, figure: str) -> float:
        return median(run.figures[figure] for run in self.runs)

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
        run.durations_ms = [*run.durations_ms, duration_ms][-_KEEP:]
        total = sum(s.task_time_ms for s in query.graph.stages)
        run.task_times_ms = [*run.task_times_ms, total][-_KEEP:]
        if shape:
            self.shapes[shape] = [*self.shapes.get(shape, []), duration_ms][-_KEEP:]

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
                    "runs": [
                        {
                            "figures": dict(r.figures),
                            "log_size": _null(r.log_size),
                            "log_partitions": _null(r.log_partitions),
                        }
                        for r in h.runs
                    ],
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
                key: StageHistory(
                    h["count"],
                    [
                        Past(r["figures"], _nan(r["log_size"]), _nan(r["log_partitions"]))
                        for r in h["runs"]
                    ],
                )
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


def _null(value: float) -> float | None:
    return None if math.isnan(value) else value


def _nan(value: float | None) -> float:
    return float("nan") if value is None else value
