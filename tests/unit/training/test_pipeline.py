"""Tables → training → MLflow → bundle → advice."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import orjson
import pytest
from phoebe_training import NotEnoughData, TrainSummary, train
from phoebe_training.data import read_frames
from phoebe_training.fit import (
    FitSettings,
    Side,
    Trial,
    Trials,
    _estimates_before,
    _fall_back,
    _fill_in,
    _try,
    fit,
)
from phoebe_training.history_store import HistoryStore
from phoebe_training.record import check_database
from phoebe_training.runs import applications, build_runs
from phoebe_training.seen import trained_on, trained_on_from_json, unseen
from phoebe_training.splits import template_folds, time_folds, time_groups

from phoebe_spark.errors import ForeignFileError
from phoebe_spark.plan.stored import PlannedStage, to_json
from phoebe_spark.predict.bundle import bundle_root, read_bundle
from phoebe_spark.predict.heads import Head, HeadModel, heads_of
from phoebe_spark.predict.history import figures_of
from phoebe_spark.predict.predictor import load_predictor
from phoebe_spark.predict.query import Query
from phoebe_spark.tables.deltalake import Tables
from phoebe_spark.tables.records import (
    ApplicationRecord,
    BoundaryRecord,
    ExecutionRecord,
    Record,
    StageRecord,
)
from tests.unit.predict.queries import query, unknown

QUICK = FitSettings(rounds=20)
TEMPLATES = ("sales", "stock", "late", "trend")
DAY_ONE = datetime(2026, 3, 1, 2, tzinfo=UTC)


def day(
    number: int, size_mb: float, later_h: int = 0, began_h: int = 0, **changes: object
) -> Iterator[Record]:
    """The rows of one day's application: every template once, ``began_h`` after its start."""
    rng = random.Random(number)
    at = DAY_ONE + timedelta(days=number)
    common = {
        "date": at.date(), "app_id": f"app-{number}", "app_attempt": "", "source": "live",
        "written_at": at + timedelta(hours=later_h),
    }  # fmt: skip
    yield ApplicationRecord(**common, slots=2, started_at=at, status="finished", complete=True)  # type: ignore[arg-type]
    for number_of, template in enumerate(TEMPLATES):
        done = query(template, size_mb, rng)
        finish = max(s.end_ms for s in done.graph.stages)
        execution = {
            "template": template, "shape": f"shape-{template}",
            "started_at": at + timedelta(hours=began_h),
            "duration_ms": round(finish), "status": "succeeded", "slots": 2, "complete": True,
            "plan": planned(done),
        } | changes  # fmt: skip
        yield ExecutionRecord(**common, execution_id=number_of, **execution)  # type: ignore[arg-type]
        for stage in done.graph.stages:
            stage_id = 10 * number_of + stage.stage_id
            boundary = stage.boundary
            yield StageRecord(
                **common,  # type: ignore[arg-type]
                stage_id=stage_id,
                stage_attempt=0,
                execution_id=number_of,
                template=stage.template,
                boundary_id=boundary.boundary_id if boundary else None,
                parents=[10 * number_of + p for p in stage.parents],
                operators=list(stage.operators),
                status="succeeded",
                start_ms=round(stage.start_ms),
                end_ms=round(stage.end_ms),
                ttl_ms=round(stage.ttl_ms),
                task_count=stage.task_count,
                task_time_ms=round(stage.task_time_ms),
                shuffle_write_bytes=round(stage.output_bytes),
                complete=True,
            )
            if boundary:
                yield BoundaryRecord(
                    **common,  # type: ignore[arg-type]
                    execution_id=number_of,
                    boundary_id=boundary.boundary_id,
                    template=stage.template,
                    stage_id=stage_id,
                    partitions=16,
                    catalyst_bytes=boundary.catalyst_bytes,
                    features='{"own_filter": 1.0}',
                )


def planned(done: Query) -> str:
    """The stages of the first plan, as harvest stores them."""
    return to_json(
        [
            PlannedStage(
                stage.template,
                stage.boundary.boundary_id if stage.boundary else None,
                stage.operators,
                tuple((parent, "hash") for parent in stage.parents),
            )
            for stage in done.graph.stages
        ]
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainSummary]:
    home = tmp_path_factory.mktemp("home")
    tables = Tables(home)
    for number, size in enumerate([50, 120, 80, 100]):
        tables.append(day(number, size))
    return home, train(home, settings=QUICK)


def test_the_first_training_promotes_and_predicts_a_bigger_day(
    trained: tuple[Path, TrainSummary],
) -> None:
    home, summary = trained
    assert summary.promoted
    assert summary.reason.code == "first"
    assert (summary.runs, summary.stages) == (16, 80)
    assert read_bundle(home).version == summary.version
    predictor = load_predictor(home)
    errors: dict[str, list[float]] = {"output": [], "task": [], "ttl": []}
    for template in TEMPLATES:
        truth = query(template, 200)
        found = predictor.predict(unknown(truth))
        for p, t in zip(found.graph.stages, truth.graph.stages, strict=True):
            errors["output"].append(abs(np.log1p(p.output_bytes) - np.log1p(t.output_bytes)))
            errors["task"].append(abs(np.log1p(p.task_time_ms) - np.log1p(t.task_time_ms)))
            errors["ttl"].append(abs(np.log1p(p.ttl_ms) - np.log1p(t.ttl_ms)))
    assert {k: bool(np.exp(np.median(v)) < 1.4) for k, v in errors.items()} == {
        "output": True, "task": True, "ttl": True,
    }  # fmt: skip


def test_mlflow_holds_three_runs_and_three_champions(trained: tuple[Path, TrainSummary]) -> None:
    from mlflow import MlflowClient

    home, summary = trained
    client = MlflowClient(f"sqlite:///{home / 'mlflow.db'}")
    assert summary.mlflow["tracking_uri"] == f"sqlite:///{home / 'mlflow.db'}"
    run_ids = summary.mlflow["run_ids"]
    assert sorted(run_ids) == ["output_size", "schedule", "task_time"]
    run = client.get_run(run_ids["task_time"])
    assert run.data.params["rounds"] == "20"
    assert run.data.metrics["task_time_median_q"] == pytest.approx(
        summary.metrics["task_time"]["task_time_median_q"]
    )
    artifacts = {f.path for f in client.list_artifacts(run.info.run_id)}
    assert {"features.json", "importance.png"} <= artifacts
    assert str(run.info.artifact_uri).startswith((home / "mlartifacts").as_uri())
    for group in ("task-time", "output-size", "schedule"):
        version = client.get_model_version_by_alias(f"phoebe-{group}", "champion")
        assert version.tags["version"] == summary.version
        assert version.tags["bundle"] == f"runs:/{version.run_id}/bundle"
        folder = group.replace("-", "_")
        written = {p.name for p in (bundle_root(home) / str(summary.version) / folder).iterdir()}
        logged = {Path(f.path).name for f in client.list_artifacts(version.run_id, "bundle")}
        assert logged == written | {"heads.json"}


def test_groups_with_too_few_rows_are_registered_as_baselines(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    Tables(tmp_path).append(day(0, 50))
    summary = train(tmp_path, settings=FitSettings(min_rows=10_000))
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    for group in ("task-time", "output-size", "schedule"):
        version = client.get_model_version_by_alias(f"phoebe-{group}", "champion")
        assert (version.tags["version"], version.tags["head"]) == (summary.version, "baseline")
        assert str(version.source).endswith("/bundle")


def test_a_registry_that_fails_leaves_the_promoted_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_recorded: object) -> None:
        raise ConnectionError("the registry is away")

    tables = Tables(tmp_path)
    tables.append(day(0, 50))
    first = train(tmp_path, settings=FitSettings(min_rows=10_000))
    tables.append(day(1, 50))
    monkeypatch.setattr("phoebe_training.pipeline.promote", fail)
    with pytest.raises(ConnectionError):
        train(tmp_path, settings=FitSettings(min_rows=10_000), force=True)
    assert load_predictor(tmp_path).version == first.version


def test_a_fold_is_judged_at_the_level_of_the_others() -> None:
    rows: list[dict[str, float]] = [{"depth": 0.0} for _ in range(6)]
    truth = [1.0, 1.0, 1.0, 9.0, 9.0, 9.0]
    side = Side(rows, truth, [0.0] * 6, [0] * 6, [(r, 0) for r in range(6)])
    first, second = np.arange(3), np.arange(3, 6)
    trials = _try(side, QUICK, [(second, first), (first, second)])
    assert list(trials.plain.out_of_fold) == [9.0] * 3 + [1.0] * 3
    assert trials.plain.model.center == 5.0
    assert trials.fitted.model.interval == (-8.0, 8.0)


def test_a_schedule_model_that_makes_times_to_live_worse_is_dropped(tmp_path: Path) -> None:
    tables = Tables(tmp_path)
    for number in range(4):
        tables.append(day(number, 50))
    runs = build_runs(read_frames(tmp_path))
    past = list(_estimates_before(runs))
    for figure in ("output", "task_time", "start", "end"):
        for run, one in zip(runs, past, strict=True):
            one.logs[figure] = {s.stage_id: figures_of(s)[figure] for s in run.query.graph.stages}
    where = [(r, s.stage_id) for r, run in enumerate(runs) for s in run.query.graph.stages]
    truth = np.asarray([past[r].logs["end"][u] for r, u in where])
    noise = np.random.default_rng(1).normal(0, 1, len(truth))
    side = Side(where=where)
    bad = Trial(HeadModel(weight=1.0), truth + noise)
    good = Trial(HeadModel(), truth)
    nothing = Trial(HeadModel(), np.zeros(0))
    start = Trial(HeadModel(), np.asarray([past[r].logs["start"][u] for r, u in where]))
    recurring = Head("end", "recurring")
    for fitted, plain, kept in ((bad, good, False), (good, bad, True)):
        model = Trial(HeadModel(weight=1.0), fitted.out_of_fold)
        sides, trials = {}, {}
        for figure, trial in (("start", Trials(start, start)), ("end", Trials(model, plain))):
            seen, unseen_ = heads_of(figure)  # type: ignore[arg-type]
            sides |= {seen: side, unseen_: Side()}
            trials |= {seen: trial, unseen_: Trials(nothing, nothing)}
        chosen = {head: each.fitted for head, each in trials.items()}
        _fill_in("start", sides, chosen, past)
        _fill_in("end", sides, chosen, past)
        _fall_back(runs, sides, trials, chosen, past, past)
        assert chosen[recurring] is (model if kept else plain)


def test_the_registered_model_is_a_lightgbm_model(trained: tuple[Path, TrainSummary]) -> None:
    import mlflow

    home, _ = trained
    mlflow.set_tracking_uri(f"sqlite:///{home / 'mlflow.db'}")
    booster = mlflow.lightgbm.load_model("models:/phoebe-output-size@champion")
    assert "hist_last" in booster.feature_name()


def test_nothing_new_trains_nothing(trained: tuple[Path, TrainSummary]) -> None:
    home, summary = trained
    again = train(home, settings=QUICK)
    assert (again.promoted, again.reason.code) == (False, "nothing_new")
    assert read_bundle(home).version == summary.version


def test_the_champion_is_judged_on_new_runs_first(tmp_path: Path) -> None:
    tables = Tables(tmp_path)
    for number, size in enumerate([50, 120, 80]):
        tables.append(day(number, size))
    first = train(tmp_path, settings=QUICK)
    # A day unlike the others: an error common to both decides nothing.
    tables.append(day(3, 90))
    tables.append(day(4, 150))
    second = train(tmp_path, settings=QUICK)
    assert second.champion_version == first.version
    assert second.new_runs == 8
    assert second.score is not None
    assert second.champion_score is not None
    assert second.promoted == (second.score <= second.champion_score)
    assert second.reason.code == ("better" if second.promoted else "not_better")
    expected = second.version if second.promoted else first.version
    assert read_bundle(tmp_path).version == expected
    # A damaged champion is replaced.
    file = bundle_root(tmp_path) / str(expected) / "history.sqlite"
    file.write_bytes(file.read_bytes()[:-1])
    third = train(tmp_path, settings=QUICK)
    assert (third.promoted, third.reason.code) == (True, "champion_unusable")
    assert load_predictor(tmp_path).version == third.version


def test_too_few_rows(tmp_path: Path) -> None:
    with pytest.raises(NotEnoughData, match="phoebe ingest"):
        train(tmp_path)
    assert not (tmp_path / "mlflow.db").exists()


def test_another_programs_files_are_left_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow changes the tables of whatever it opens; found before anything is fitted."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    path = tmp_path / "mlflow.db"
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE runs (name TEXT)")
    for content in (path.read_bytes(), b"no database " * 99):
        path.write_bytes(content)
        with pytest.raises(ForeignFileError, match=r"mlflow\.db is .* --tracking-uri to use it"):
            train(tmp_path)
        assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [(path.name, content)]
    with pytest.raises(NotEnoughData):
        train(tmp_path, f"sqlite:///{path}")
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "current").write_text("mine")
    with pytest.raises(ForeignFileError, match="bundle/current"):
        train(tmp_path, f"sqlite:///{path}")


def test_a_record_is_ours_by_its_signature_or_its_experiment(
    trained: tuple[Path, TrainSummary], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    home, _ = trained
    check_database(home, None)
    with closing(sqlite3.connect(home / "mlflow.db")) as db:
        signature = db.execute("PRAGMA application_id").fetchone()[0]
        assert signature != 0
        db.execute("PRAGMA application_id = 0")
    check_database(home, None)
    (tmp_path / "mlflow.db").write_bytes((home / "mlflow.db").read_bytes())
    with pytest.raises(ForeignFileError):
        check_database(tmp_path, None)
    with closing(sqlite3.connect(home / "mlflow.db")) as db:
        db.execute(f"PRAGMA application_id = {signature}")


def test_runs_without_a_plan_are_counted_where_too_few_are_left(tmp_path: Path) -> None:
    Tables(tmp_path).append([*day(0, 50, plan=None), *day(1, 50, plan=None, restored=True)])
    with pytest.raises(NotEnoughData, match=r"0 complete runs .*; 4 executions .* new home"):
        train(tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {"restored": True},
        {"complete": False},
        {"status": "failed"},
        {"template": None},
        {"plan": None},
        {"plan": "{"},
        {"plan": "[{}]"},
        {"plan": "[]"},
    ],
)
def test_what_must_not_be_trained_on(tmp_path: Path, changes: dict[str, object]) -> None:
    tables = Tables(tmp_path)
    tables.append(day(0, 50, **changes))
    assert build_runs(read_frames(tmp_path)) == []


def test_applications_that_lost_events_are_not_trained_on(tmp_path: Path) -> None:
    rows = [replace(r, events_dropped=1) if isinstance(r, ApplicationRecord) else r
            for r in day(0, 50)]  # fmt: skip
    Tables(tmp_path).append([*rows, *day(1, 50)])
    assert {r.app[0] for r in build_runs(read_frames(tmp_path))} == {"app-1"}


@pytest.mark.parametrize("second", [{"stage_attempt": 1}, {"stage_id": 99}])
def test_stages_that_ran_again_in_part_are_not_trained_on(
    tmp_path: Path, second: dict[str, int]
) -> None:
    """After a fetch failure Spark runs the missing tasks only, as a whole stage by its own count;
    a map stage of a job that was started over writes the same boundary under another id."""
    rows = list(day(0, 50))
    stage = next(r for r in rows if isinstance(r, StageRecord) and r.boundary_id is not None)
    Tables(tmp_path).append([*rows, replace(stage, **second)])  # type: ignore[arg-type]
    runs = build_runs(read_frames(tmp_path))
    assert len(runs) == len(TEMPLATES) - 1
    assert stage.execution_id not in {r.execution_id for r in runs}


def test_a_planned_stage_that_did_not_run_is_asked_about_and_not_learned_from(
    tmp_path: Path,
) -> None:
    """Adaptive execution found that one scan of "sales" had no rows, and ran a broadcast that no
    plan foresaw; "stock" was collected in two jobs, the last plan of which looked otherwise."""
    for number in range(3):
        rows = []
        for row in day(number, 50):
            if isinstance(row, StageRecord) and row.stage_id == 1:
                continue
            if isinstance(row, StageRecord) and row.stage_id == 2:
                unforeseen = replace(row, stage_id=8, boundary_id=None, template="other",
                                     shuffle_write_bytes=0)  # fmt: skip
                rows.append(unforeseen)
                row = replace(row, parents=[0, 8])
            if isinstance(row, StageRecord) and row.stage_id == 14:
                row = replace(row, template="seen-otherwise", task_time_ms=30)
                rows.append(replace(row, stage_id=15, task_time_ms=12, start_ms=9_000))
            rows.append(row)
        Tables(tmp_path).append(rows)
    runs = build_runs(read_frames(tmp_path))
    assert len(runs) == 3 * len(TEMPLATES)
    sales, stock = runs[0], runs[1]
    assert [len(r.query.graph.stages) for r in (sales, stock)] == [5, 5]
    assert (sales.ran, stock.ran) == ({0, 2, 3, 4}, {0, 1, 2, 3, 4})
    assert sales.query.graph.stages[2].parents == (0, 1), "as planned"
    assert sales.query.graph.stages[1].output_bytes == 0
    assert stock.query.graph.stages[4].task_time_ms == 42
    fitted = fit(runs, QUICK)
    assert [fitted.rows[head] for head in heads_of("output")] == [2 * 15, 3 * 15]
    predicted = fitted.out_of_fold[8]
    assert predicted.sources[1] == "general", "no past: it never ran"
    assert {predicted.sources[u] for u in (0, 2, 3, 4)} == {"history"}
    assert fitted.stage_delay_ms >= 0.0
    with HistoryStore(tmp_path) as store:
        store.follow(runs, applications(read_frames(tmp_path)))
        held = {window.key for window in store.stages()}
    assert "sales/e0" in held
    assert "sales/e1" not in held
    assert "stock/result/stock-r" in held, "under the name that the next first plan gives it"


def test_history_comes_from_earlier_applications_only(tmp_path: Path) -> None:
    tables = Tables(tmp_path)
    for number in (2, 0, 1):  # written out of order
        tables.append(day(number, 50))
    runs = build_runs(read_frames(tmp_path))
    assert [r.app[0] for r in runs[:: len(TEMPLATES)]] == ["app-0", "app-1", "app-2"]
    fitted = fit(runs, QUICK)
    first = fitted.out_of_fold[: len(TEMPLATES)]
    assert {s for p in first for s in p.sources.values()} == {"general"}
    assert {s for p in fitted.out_of_fold[-4:] for s in p.sources.values()} == {"history"}
    assert time_groups(runs) == [0] * 4 + [1] * 4 + [2] * 4
    folds = time_folds(runs, [(r, 0) for r in range(len(runs))], time_groups(runs))
    assert [len(earlier) for earlier, _ in folds] == [0, 4, 8]
    for earlier, now in folds[1:]:
        assert earlier.max() < now.min()


def test_what_a_long_application_did_later_is_nobodys_past(tmp_path: Path) -> None:
    # app-0 runs for days, like a SQL server: its queries end after app-1 started.
    Tables(tmp_path).append(day(0, 50, began_h=30))
    Tables(tmp_path).append(day(1, 50))
    Tables(tmp_path).append(day(2, 50))
    runs = build_runs(read_frames(tmp_path))
    found = fit(runs, QUICK).out_of_fold
    of_app = {n: {s for p in found[4 * n : 4 * n + 4] for s in p.sources.values()} for n in (1, 2)}
    assert of_app == {1: {"general"}, 2: {"history"}}
    folds = time_folds(runs, [(r, 0) for r in range(len(runs))], time_groups(runs))
    assert [len(earlier) for earlier, _ in folds] == [0, 0, 8]


def test_new_is_what_was_not_trained_on_whenever_it_ran(tmp_path: Path) -> None:
    tables = Tables(tmp_path)
    tables.append(day(5, 80))
    server = list(day(6, 80))
    tables.append(r for r in server if getattr(r, "execution_id", 0) in (None, 0, 2))
    first = build_runs(read_frames(tmp_path))
    seen = trained_on(first)
    assert seen["app-6"] == {"": [(0, 0), (2, 2)]}
    assert unseen(first, seen) == []
    tables.append(day(1, 80))  # an old log, ingested late
    tables.append(server)  # and later queries of an application that was trained on
    new = unseen(build_runs(read_frames(tmp_path)), trained_on_from_json(orjson.dumps(seen)))
    assert [(r.app[0], r.execution_id) for r in new] == [
        *(("app-1", i) for i in range(4)), ("app-6", 1), ("app-6", 3),
    ]  # fmt: skip


def test_template_folds_share_no_template(tmp_path: Path) -> None:
    Tables(tmp_path).append(day(0, 50))
    runs = build_runs(read_frames(tmp_path))
    where = [(r, s.stage_id) for r, run in enumerate(runs) for s in run.query.graph.stages]
    for inside, outside in template_folds(runs, where):
        names = [{runs[where[i][0]].query.template for i in part} for part in (inside, outside)]
        assert not names[0] & names[1]
