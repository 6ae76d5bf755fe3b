"""Per-template history: what past runs did, and what it says about the next.

History is kept at two levels, this boundary of this template and the stage's own template in any
query. A past figure is carried to today's input size by the slope that the runs themselves show
(log figure over log size, shrunk towards a prior while there are few or equal sizes), so inputs
that grow from day to day do not leave the last value behind.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Protocol

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


class Histories(Protocol):
    """The past of every template: in memory (`History`), or in a bundle's file."""

    def stages(self, keys: Iterable[str]) -> Mapping[str, StageHistory]:
        """The histories that there are among ``keys`` (`keys`)."""
        ...

    def task_times_ms(self, template: str) -> Sequence[float]:
        """Total task times of past runs of a whole template, ms, oldest first."""
        ...


@dataclass(slots=True)
class History:
    """A past that grows in memory, run after run; training replays it."""

    _stages: dict[str, StageHistory] = field(default_factory=dict)
    _task_times_ms: dict[str, list[float]] = field(default_factory=dict)

    def add(self, query: Query, ran: Container[int] | None = None) -> None:
        """Add one finished execution: ``query.graph`` with true figures, of the stages ``ran``
        (None: of all)."""
        size = log_size(query)
        for stage in query.graph.stages:
            if ran is not None and stage.stage_id not in ran:
                continue
            past = Past(figures_of(stage), size, log_partitions(stage))
            for key in keys(query, stage):
                self._stages.setdefault(key, StageHistory()).add(past)
        total = sum(s.task_time_ms for s in query.graph.stages)
        known = self._task_times_ms.setdefault(query.template, [])
        known.append(total)
        del known[:-KEEP]

    def stages(self, keys: Iterable[str]) -> dict[str, StageHistory]:
        return {key: self._stages[key] for key in keys if key in self._stages}

    def task_times_ms(self, template: str) -> list[float]:
        return self._task_times_ms.get(template, [])


def look_up(histories: Histories, query: Query) -> dict[int, tuple[StageHistory | None, int]]:
    """By stage id, the history that speaks for the stage and its level: 2 this boundary of this
    template, 1 the same stage template elsewhere, 0 none."""
    wanted = {stage.stage_id: keys(query, stage) for stage in query.graph.stages}
    known = histories.stages({key for those in wanted.values() for key in those})
    found: dict[int, tuple[StageHistory | None, int]] = {}
    for stage_id, those in wanted.items():
        at = next(((known[key], 2 - n) for n, key in enumerate(those) if key in known), None)
        found[stage_id] = at if at is not None else (None, 0)
    return found


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
    """Under what a stage's run is remembered, the most exact one first."""
    exact = stage_key(query, stage)
    return (exact, template_key(stage)) if stage.template else (exact,)
