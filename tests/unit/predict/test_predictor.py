"""History, baselines and the order of predictions, without LightGBM models."""

from __future__ import annotations

import math

import pytest

from phoebe_spark.predict.history import KEEP, History, keys
from phoebe_spark.predict.query import log_size, plan_features
from tests.unit.predict.queries import baseline_predictor, query, unknown


def history_of(*sizes: float, template: str = "daily", known: bool = True) -> History:
    history = History()
    for size in sizes:
        history.add(query(template, size, known=known))
    return history


def test_growing_inputs_are_followed() -> None:
    """Sizes 50, 100, 75, then 200: the last value would be a factor 2.7 off."""
    predictor = baseline_predictor(history_of(50, 100, 75))
    truth = query("daily", 200)
    prediction = predictor.predict(unknown(truth))
    for stage, true in zip(prediction.graph.stages, truth.graph.stages, strict=True):
        assert abs(math.log1p(stage.task_time_ms) - math.log1p(true.task_time_ms)) < 0.35
        assert abs(math.log1p(stage.output_bytes) - math.log1p(true.output_bytes)) < 0.35
        assert prediction.sources[stage.stage_id] == "history"


def test_what_does_not_grow_is_not_carried() -> None:
    predictor = baseline_predictor(history_of(50, 100, 200))
    stage = predictor.predict(unknown(query("daily", 800))).graph.stages[1]
    assert stage.output_bytes == pytest.approx(3e6, rel=0.5)


def test_without_sizes_recent_runs_speak() -> None:
    predictor = baseline_predictor(history_of(10, 10, 100, 100, known=False))
    stage = predictor.predict(unknown(query("daily", 100, known=False))).graph.stages[0]
    assert stage.output_bytes == pytest.approx(40e6, rel=1e-6)


def test_a_template_seen_in_another_query_and_one_never_seen() -> None:
    history = history_of(100)
    same_stages = unknown(query("daily", 100))
    elsewhere = type(same_stages)(
        same_stages.graph, same_stages.features, "another", same_stages.slots
    )
    prediction = baseline_predictor(history).predict(elsewhere)
    assert set(prediction.sources.values()) == {"template"}
    assert prediction.graph.stages[0].output_bytes == pytest.approx(40e6, rel=1e-6)
    prediction = baseline_predictor(history).predict(unknown(query("new", 100)))
    assert set(prediction.sources.values()) == {"general"}


def test_predicted_times_fit_together() -> None:
    prediction = baseline_predictor(history_of(50, 100)).predict(unknown(query("daily", 120)))
    ends = {s.stage_id: s.end_ms for s in prediction.graph.stages}
    for stage in prediction.graph.stages:
        assert stage.end_ms > stage.start_ms
        assert all(ends[p] <= stage.start_ms for p in stage.parents)
        assert stage.ttl_ms == pytest.approx(prediction.duration_ms - stage.end_ms)


def test_the_last_runs_of_a_template_are_kept_and_all_are_counted() -> None:
    history = history_of(*range(10, 13 + KEEP))
    (first, *_) = query("daily", 10).graph.stages
    past = history.stages(keys(query("daily", 10), first))
    assert {(h.count, len(h.runs)) for h in past.values()} == {(KEEP + 3, KEEP)}
    assert len(past) == 2
    assert len(history.task_times_ms("daily")) == KEEP


def test_size_is_that_of_boundaries_that_read_no_other() -> None:
    assert log_size(query("daily", 100)) == pytest.approx(math.log(1e6 * math.sqrt(100 * 800)), 0.2)
    assert math.isnan(log_size(query("daily", 100, known=False)))


def test_only_shuffle_stages_carry_plan_features() -> None:
    made = plan_features(query("daily", 10))
    assert made[0]["kind"] > 0
    assert "kind" not in made[4]
    assert made[4]["own_sort"] == 1.0
    assert made[2]["parents_shuffle"] == 2.0
