"""`Predictor`: a query before its run → its stage graph with predicted figures.

The order is: output sizes, from plan and history; task times, which also see what the parents are
predicted to hand over; then the simulator plays the stages on the slots, and the schedule's heads
correct its starts and ends. Without LightGBM models a predictor falls back to its baselines.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from phoebe_spark.cluster.simulate import StageTime, simulate, with_times
from phoebe_spark.errors import BundleDamaged, BundleFormat
from phoebe_spark.graph import Stage, StageGraph
from phoebe_spark.plan.features import VERSION as FEATURES_VERSION
from phoebe_spark.predict.bundle import Bundle, read_bundle
from phoebe_spark.predict.heads import (
    HEADS,
    SCHEDULE,
    Figure,
    Head,
    HeadModel,
    heads_of,
    history_features,
)
from phoebe_spark.predict.history import Histories, StageHistory, look_up
from phoebe_spark.predict.history_file import HistoryFile
from phoebe_spark.predict.query import Query, log_size, plan_features

_MAX_LOG = 45.0  # e^45 bytes is more than any disk
SOURCES = ("general", "template", "history")
"""By level: a template never seen, one seen in other queries, one seen in this query."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """A query's graph with predicted figures.

    ``sources`` says per stage where they come from (`SOURCES`); ``intervals`` holds, per stage and
    figure, the range that covered 80 % of past errors, in the figure's unit.
    """

    graph: StageGraph
    sources: Mapping[int, str]
    duration_ms: float
    intervals: Mapping[int, Mapping[str, tuple[float, float]]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Predictor:
    """Models of all heads, and history."""

    models: Mapping[Head, HeadModel]
    history: Histories
    version: str | None = None
    stage_delay_ms: float = 0.0
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def predict(self, query: Query) -> Prediction:
        """Predict ``query``; milliseconds for 100 stages. Raises nothing on unknown templates."""
        work = Estimates(query, self.history)
        work.estimate("output", self.models)
        work.estimate("task_time", self.models)
        work.play(self.stage_delay_ms)
        for figure in SCHEDULE:
            work.estimate(figure, self.models)
        return work.prediction()


def load_predictor(home: str | Path) -> Predictor:
    """The promoted bundle's predictor. Imports LightGBM (over a second the first time).

    Raises `phoebe_spark.errors.BundleError`.
    """
    return from_bundle(read_bundle(home))


def from_bundle(bundle: Bundle) -> Predictor:
    """A predictor from a verified bundle. Raises `BundleFormat` when its models know other plan
    features than are made here, and `BundleDamaged` when its parts do not fit."""
    trained_on = bundle.metadata.get("features_version")
    if trained_on != FEATURES_VERSION:
        raise BundleFormat(
            f"{bundle.path} was trained on plan features of version {trained_on!r}, this version "
            f"makes {FEATURES_VERSION}: run `phoebe train`"
        )
    import lightgbm

    try:
        models: dict[Head, HeadModel] = {}
        for head in HEADS:
            told = bundle.metadata["heads"][head.figure][head.kind]
            booster = None
            if told["file"] is not None:
                text = bundle.files[told["file"]].decode("utf-8")
                booster = lightgbm.Booster(model_str=text)
            low, high = told["interval"]
            models[head] = HeadModel(
                tuple(told["features"]), booster, told["weight"], told["center"], (low, high)
            )
        return Predictor(
            models=models,
            history=HistoryFile(bundle.history),
            version=bundle.version,
            stage_delay_ms=float(bundle.metadata["stage_delay_ms"]),
            metadata=bundle.metadata,
        )
    except (KeyError, TypeError, ValueError, lightgbm.basic.LightGBMError) as error:
        raise BundleDamaged(f"{bundle.path} does not fit together: {error!r}") from error


class Estimates:
    """The estimates of one query, figure by figure; training fills it with out-of-fold ones."""

    def __init__(self, query: Query, history: Histories) -> None:
        self.query = query
        self.size = log_size(query)
        self.logs: dict[str, dict[int, float]] = {}
        self.simulated: dict[int, StageTime] = {}
        self.past: dict[int, tuple[StageHistory | None, int]] = look_up(history, query)
        self._past_total = history.task_times_ms(query.template)
        self._finish_ms = 0.0
        self._plan = plan_features(query)
        self._intervals: dict[int, dict[str, tuple[float, float]]] = {}

    def freeze(self) -> None:
        """Keep the past as it is now, whatever is added to the history later."""
        copies: dict[int, StageHistory] = {}
        for u, (past, level) in self.past.items():
            if past is not None:
                copy = copies.setdefault(id(past), StageHistory(past.count, list(past.runs)))
                self.past[u] = (copy, level)
        self._past_total = list(self._past_total)

    def stages(self, figure: Figure) -> list[Stage]:
        """The stages that ``figure`` is predicted for."""
        every = self.query.graph.stages
        return [s for s in every if s.is_shuffle] if figure == "output" else list(every)

    def row(self, figure: Figure, stage: Stage) -> tuple[dict[str, float], bool]:
        """The model inputs of a stage, ``baseline`` among them, and whether it has a past."""
        u = stage.stage_id
        row = dict(self._plan[u])
        if figure == "task_time":
            read = [self.logs["output"][p] for p in stage.parents if p in self.logs["output"]]
            row["log_parents_output"] = math.log1p(sum(math.expm1(x) for x in read))
        simulated = math.nan
        if figure in SCHEDULE:
            time = self.simulated[u]
            simulated = math.log1p(time.start_ms if figure == "start" else time.end_ms)
            finish = self._finish_ms
            row["sim_start"] = math.log1p(time.start_ms)
            row["sim_end"] = math.log1p(time.end_ms)
            row["sim_finish"] = math.log1p(finish)
            row["sim_share"] = time.end_ms / finish if finish else 0.0
            row["log_task_time"] = self.logs["task_time"][u]
        past, level = self.past[u]
        if past is None:
            row["baseline"] = 0.0 if math.isnan(simulated) else simulated
            return row, False
        row.update(history_features(past, level, figure, stage, self.size))
        if not math.isnan(simulated):
            row["sim_against_past"] = simulated - row["baseline"]
            if self._past_total:
                total = sum(math.expm1(x) for x in self.logs["task_time"].values())
                row["total_change"] = math.log1p(total) - math.log1p(self._past_total[-1])
            if level == 1:
                # Where another query ran it says little about when; the simulator knows better.
                row["baseline"] = simulated
                return row, False
        return row, True

    def estimate(self, figure: Figure, models: Mapping[Head, HeadModel]) -> None:
        """Fill in ``figure`` for all stages."""
        found: dict[int, float] = {}
        sides: tuple[list[tuple[int, dict[str, float]]], ...] = ([], [])
        for stage in self.stages(figure):
            row, recurs = self.row(figure, stage)
            sides[0 if recurs else 1].append((stage.stage_id, row))
        for head, side in zip(heads_of(figure), sides, strict=True):
            model = models[head]
            for (u, row), more in zip(side, model.residuals([r for _, r in side]), strict=True):
                found[u] = min(_MAX_LOG, max(0.0, row["baseline"] + more))
                low, high = model.interval
                self._intervals.setdefault(u, {})[figure] = (
                    math.expm1(max(0.0, found[u] + low)),
                    math.expm1(min(_MAX_LOG, max(0.0, found[u] + high))),
                )
        self.logs[figure] = found

    def play(self, stage_delay_ms: float) -> None:
        """Run the simulator on the estimated task times."""
        self.simulated = simulate(
            self._graph(), max(1, self.query.slots), stage_delay_ms=stage_delay_ms
        )
        self._finish_ms = max((t.end_ms for t in self.simulated.values()), default=0.0)

    def prediction(self) -> Prediction:
        times: dict[int, StageTime] = {}
        for stage in self.query.graph.stages:
            u = stage.stage_id
            start = max(
                math.expm1(self.logs["start"][u]),
                max((times[p].end_ms for p in stage.parents), default=0.0),
            )
            end = math.expm1(self.logs["end"][u])
            # Whatever two models say, a stage ends after it started.
            least = math.expm1(self.logs["task_time"][u]) / max(1, self._tasks(stage))
            times[u] = StageTime(start, max(end, start + min(least, 1.0)))
        graph = with_times(self._graph(), times)
        return Prediction(
            graph=graph,
            sources={u: SOURCES[level] for u, (_, level) in self.past.items()},
            duration_ms=max((t.end_ms for t in times.values()), default=0.0),
            intervals=self._intervals,
        )

    def _graph(self) -> StageGraph:
        return StageGraph(
            tuple(
                replace(
                    s,
                    output_bytes=math.expm1(self.logs["output"].get(s.stage_id, 0.0)),
                    task_time_ms=math.expm1(self.logs["task_time"][s.stage_id]),
                    task_count=self._tasks(s),
                )
                for s in self.query.graph.stages
            )
        )

    def _tasks(self, stage: Stage) -> int:
        """Task count: as in the past, else a task per slot for a scan, and by AQE's advisory size
        (64 MiB) for a stage that reads shuffles."""
        past, _ = self.past[stage.stage_id]
        if past is not None:
            return max(1, round(math.expm1(past.baseline("tasks", self.size))))
        reads = [p for p in stage.parents if p in self.logs["output"]]
        if not reads:
            return max(1, self.query.slots)
        size = sum(math.expm1(self.logs["output"][p]) for p in reads)
        return max(1, min(10_000, math.ceil(size / 2**26)))
