"""`Advisor`: a ``plan`` and an ``advise`` message in, an ``advice`` message out (docs/protocol.md).

When the plan arrives: plan → stage graph → features → predictions. When its boundaries are known:
cuts → a decision with its reason for each boundary. `Advisor.foresee` and `Advisor.advise` never
raise: a failure gives "no checkpoint", with a reason.
"""

from __future__ import annotations

import hashlib
import logging
import re
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phoebe_spark import nested_json
from phoebe_spark.errors import BundleError
from phoebe_spark.graph import StageGraph
from phoebe_spark.optimize import Decision, OptimizerSettings, choose
from phoebe_spark.plan import parse_plan, read
from phoebe_spark.plan.stages import PlanGraph
from phoebe_spark.predict.query import Query, query_of
from phoebe_spark.reasons import Reason

if TYPE_CHECKING:
    from phoebe_spark.predict.predictor import Prediction, Predictor

log = logging.getLogger(__name__)

MOST_REMEMBERED = 16
"""Plans whose predictions are kept, for drivers that soon run the same query again."""

_OPTIMIZER_SETTINGS = ("objective", "budget_fraction", "max_cuts", "min_duration_ms")


@dataclass(frozen=True, slots=True)
class Foreseen:
    """The prediction for a plan. ``min_duration_ms`` is the session's, or None to take the
    application's. ``decided`` has the decisions so far, by everything that they depend on."""

    plan_graph: PlanGraph
    prediction: Prediction
    min_duration_ms: float | None = None
    decided: dict[tuple[Any, ...], Decision] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answer:
    """The decision for one query, and the prediction that it is based on."""

    plan_graph: PlanGraph
    prediction: Prediction
    decision: Decision


class Advisor:
    """Answers for one driver. ``predictor`` None: every answer is ``no_model``."""

    def __init__(self, predictor: Predictor | None, settings: OptimizerSettings) -> None:
        self._predictor = predictor
        self._settings = settings
        self._remembered: OrderedDict[bytes, Foreseen] = OrderedDict()

    @property
    def model_version(self) -> str | None:
        return self._predictor.version if self._predictor is not None else None

    def foresee(self, message: Mapping[str, Any]) -> Foreseen | Reason:
        """The prediction for a ``plan`` message, or why there is none; never raises."""
        if self._predictor is None:
            return _NO_MODEL
        try:
            plan, boundaries = message["plan"], message["boundaries"]
            slots = int(message.get("slots") or 1)
            key = _apart_from_ids([plan, boundaries, slots])
            found = self._remembered.pop(key, None) or self.predict(plan, boundaries, slots)
            self._remembered[key] = found
            while len(self._remembered) > MOST_REMEMBERED:
                self._remembered.popitem(last=False)
            return replace(found, min_duration_ms=_number(message.get("min_duration_ms")))
        except Exception as error:  # the query goes on without checkpoints
            log.exception("nothing foreseen for request %s", _get(message, "request_id"))
            return _failed(error)

    def advise(
        self, request: Mapping[str, Any], foreseen: Foreseen | Reason | None
    ) -> dict[str, Any]:
        """The ``advice`` message for ``request``, with its plan's prediction; never raises."""
        began = time.perf_counter()
        boundaries: Sequence[Mapping[str, Any]] = ()
        try:
            boundaries = [b for b in request.get("boundaries") or () if "node" in b]
            if isinstance(foreseen, Foreseen):
                answer = self.decide(foreseen, boundaries)
                decisions = [_decision(answer, b) for b in boundaries]
            else:
                unknown = _NOT_SHOWN if self._predictor is not None else _NO_MODEL
                decisions = [_no(b, foreseen or unknown) for b in boundaries]
        except Exception as error:  # the query goes on without checkpoints
            log.exception("no advice for request %s", _get(request, "request_id"))
            decisions = [_no(b, _failed(error)) for b in boundaries]
        return {
            "type": "advice",
            "request_id": _get(request, "request_id"),
            "decisions": decisions,
            "model_version": self.model_version,
            "elapsed_ms": (time.perf_counter() - began) * 1000,
        }

    def predict(
        self, plan: Mapping[str, Any], boundaries: Sequence[Mapping[str, Any]], slots: int
    ) -> Foreseen:
        """The prediction for a ``SparkPlanInfo`` object. Raises ``ValueError`` without a model, and
        any error of a malformed plan."""
        if self._predictor is None:
            raise ValueError("no trained models are loaded")
        reading = read(parse_plan(plan), boundaries)
        query = query_of(reading, slots)
        return Foreseen(reading.plan_graph, self._predictor.predict(query))

    def decide(self, foreseen: Foreseen, boundaries: Sequence[Mapping[str, Any]]) -> Answer:
        """The decision for a plan with these boundaries (of an ``advise`` message)."""
        derived, prediction = foreseen.plan_graph, foreseen.prediction
        settings = self._settings
        if foreseen.min_duration_ms is not None:
            settings = replace(settings, min_duration_ms=foreseen.min_duration_ms)
        facts = ((b["node"], b.get("eligible", True), b.get("restorable")) for b in boundaries)
        key = (settings, *facts)
        if key not in foreseen.decided:
            graph = _with_boundaries(prediction.graph, derived, boundaries)
            foreseen.decided[key] = choose(graph, settings)
        return Answer(derived, prediction, foreseen.decided[key])


def load_advisor(
    home: str | Path, settings: Mapping[str, Any] | None = None
) -> tuple[Advisor, str | None]:
    """An advisor with the promoted models of ``home``, and the problem with them, if there is one.

    ``settings`` are the plugin's (`phoebe_spark.settings`). Imports LightGBM. An unusable bundle
    gives an advisor that answers ``no_model``, and its problem in one line.
    """
    chosen = optimizer_settings(settings or {})
    try:
        from phoebe_spark.predict.predictor import load_predictor

        predictor = load_predictor(home)
        _warm_up(predictor)
        return Advisor(predictor, chosen), None
    except (BundleError, ImportError) as error:
        return Advisor(None, chosen), str(error)


def optimizer_settings(settings: Mapping[str, Any]) -> OptimizerSettings:
    """The optimizer's settings among the plugin's; absent ones keep their defaults."""
    found = {k: settings[k] for k in _OPTIMIZER_SETTINGS if settings.get(k) is not None}
    return replace(OptimizerSettings(), **found)


_ID = re.compile(rb"(?:#|\[plan_id=|\[id=)\d+")


def _apart_from_ids(question: object) -> bytes:
    """A digest of a question without Spark's running ids, so that a repeated query has the same.

    Attributes, plans and subqueries are numbered by their first appearance instead. The length of a
    text is a feature; the part of it that comes from the ids' lengths is ignored here.
    """
    numbers: dict[bytes, bytes] = {}

    def numbered(found: re.Match[bytes]) -> bytes:
        return numbers.setdefault(found[0], b"#%d" % len(numbers))

    text = _ID.sub(numbered, nested_json.dumps(question))
    return hashlib.blake2b(text, digest_size=16).digest()


def _with_boundaries(
    graph: StageGraph, derived: PlanGraph, boundaries: Sequence[Mapping[str, Any]]
) -> StageGraph:
    """``graph`` with the current state of its boundaries.

    Boundaries with a restorable checkpoint count as durable. Not eligible: boundaries that may not
    be checkpointed, and those needed only below a restored one (they will not run)."""
    facts = {
        derived.stage_of_node[b["node"]]: b
        for b in boundaries
        if b["node"] in derived.stage_of_node
    }
    restored = {stage_id for stage_id, fact in facts.items() if fact.get("restorable")}
    needed: set[int] = set()
    for stage in reversed(graph.stages):
        last = stage is graph.stages[-1]
        if (last or stage.stage_id in needed) and stage.stage_id not in restored:
            needed.update(stage.parents)
    stages = []
    for stage in graph.stages:
        if stage.boundary is not None:
            fact = facts.get(stage.stage_id, {})
            boundary = stage.boundary
            if fact.get("restorable"):
                boundary = replace(boundary, carrier="checkpoint")
            elif (restored and stage.stage_id not in needed) or not fact.get("eligible", True):
                boundary = replace(boundary, eligible=False)
            if boundary is not stage.boundary:
                stage = replace(stage, boundary=boundary)
        stages.append(stage)
    return StageGraph(tuple(stages))


def _decision(answer: Answer, boundary: Mapping[str, Any]) -> dict[str, Any]:
    stage_id = answer.plan_graph.stage_of_node.get(boundary["node"])
    if stage_id is None:
        return _no(boundary, Reason("not_in_graph", {}, "no stage of the plan ends here"))
    stage = next(s for s in answer.prediction.graph.stages if s.stage_id == stage_id)
    predicted = {
        "output_bytes": round(stage.output_bytes),
        "task_time_ms": round(stage.task_time_ms),
        "start_ms": round(stage.start_ms),
        "end_ms": round(stage.end_ms),
        "ttl_ms": round(stage.ttl_ms),
        "source": answer.prediction.sources[stage_id],
    }
    reason = answer.decision.reasons.get(stage_id)
    if boundary.get("restorable"):
        reason = Reason("restorable", {}, "a checkpoint of it is in the store already")
    elif not boundary.get("eligible", True) and isinstance(boundary.get("reason"), Mapping):
        told = boundary["reason"]
        reason = Reason(
            str(told.get("code") or "ineligible"),
            dict(told.get("args") or {}),
            str(told.get("message") or ""),
        )
    elif reason is None or not stage.is_shuffle:
        reason = Reason("not_in_graph", {}, "no shuffle stage of the plan ends here")
    return {
        "node": boundary["node"],
        "checkpoint": reason.code == "chosen",
        "reason": _reason(reason),
        "predicted": predicted,
    }


_NO_MODEL = Reason("no_model", {}, "no trained models are loaded")
_NOT_SHOWN = Reason("plan_not_shown", {}, "its plan is not known here, or not any more")


def _failed(error: Exception) -> Reason:
    return Reason(
        "advice_failed",
        {"error": type(error).__name__},
        f"advice failed with {type(error).__name__}: {error}",
    )


def _no(boundary: Mapping[str, Any], reason: Reason) -> dict[str, Any]:
    return {
        "node": boundary["node"],
        "checkpoint": False,
        "reason": _reason(reason),
        "predicted": None,
    }


def _reason(reason: Reason) -> dict[str, Any]:
    return {"code": reason.code, "args": dict(reason.args), "message": reason.message}


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) and value >= 0 else None


def _get(request: object, key: str) -> Any:
    return request.get(key) if isinstance(request, Mapping) else None


def _warm_up(predictor: Predictor) -> None:
    """Makes one prediction, because the first one is slow (imports, allocations)."""
    from phoebe_spark.graph import Boundary, Stage

    graph = StageGraph((Stage(0, (), "warm-up", Boundary("e0", "warm-up")), Stage(1, (0,))))
    predictor.predict(Query(graph, {}, "warm-up", 1))
