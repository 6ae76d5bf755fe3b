"""From an ``advise`` message to an ``advice`` message, on real plans of an event log."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import orjson
import pytest
import zstandard
from phoebe_training import train
from phoebe_training.data import read_frames
from phoebe_training.fit import FitSettings
from phoebe_training.runs import build_runs

from phoebe_spark.companion.advisor import (
    MOST_REMEMBERED,
    Advisor,
    Foreseen,
    load_advisor,
    optimizer_settings,
)
from phoebe_spark.doctor import check_bundle
from phoebe_spark.ingest.run import ingest
from phoebe_spark.optimize import OptimizerSettings
from phoebe_spark.plan import read
from phoebe_spark.plan.nodes import parse_plan
from phoebe_spark.plan.templates import exchanges
from phoebe_spark.predict.bundle import HISTORY, bundle_root, read_bundle, write_bundle
from phoebe_spark.predict.history import History
from phoebe_spark.predict.query import query_of
from tests.unit.predict.queries import baseline_predictor, unknown

LOGS = Path(__file__).parents[2] / "data" / "eventlogs"
EASY = {"min_duration_ms": 0, "objective": "temp", "budget_fraction": 0.5}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ingested and trained on the two TPC-H logs, scale factors 0.1 and 1."""
    home = tmp_path_factory.mktemp("home")
    summary = ingest([LOGS / "01-tpch-sf0.1-p8.zstd", LOGS / "11-tpch-sf1-p32.zstd"], home)
    assert not summary.errors
    trained = train(home, settings=FitSettings(rounds=15))
    assert trained.promoted
    return home


@pytest.fixture(scope="module")
def plans() -> dict[str, Mapping[str, Any]]:
    """Plan by description, of log 11."""
    found: dict[str, Mapping[str, Any]] = {}
    with zstandard.open(LOGS / "11-tpch-sf1-p32.zstd", "rt", encoding="utf-8") as lines:
        for line in lines:
            if "SparkListenerSQLExecutionStart" in line[:120]:
                event = orjson.loads(line)
                found[event["description"]] = event["sparkPlanInfo"]
    return found


def request(plan: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    boundaries = [
        {
            "node": e.node.index, "fingerprint": f"f{e.boundary_id}", "eligible": True,
            "reason": None, "partitions": e.partitions, "catalyst_bytes": 10**9,
            "catalyst_rows": None, "restorable": False,
        }
        | changes
        for e in exchanges(parse_plan(plan))
    ]  # fmt: skip
    return {
        "type": "advise", "request_id": 7, "execution_id": 3, "slots": 2, "plan": plan,
        "boundaries": boundaries,
    }  # fmt: skip


def advice_of(advisor: Advisor, asked: dict[str, Any]) -> dict[str, Any]:
    """As the plugin asks: the plan first, what its boundaries turn out to be later."""
    return advisor.advise(asked, advisor.foresee(asked))


def test_advice_rests_on_history_and_names_a_reason_per_boundary(
    home: Path, plans: dict[str, Mapping[str, Any]]
) -> None:
    advisor, problem = load_advisor(home, EASY)
    assert problem is None
    asked = request(plans["tpch/q9"])
    advice = advice_of(advisor, asked)
    assert advice["type"] == "advice"
    assert advice["request_id"] == 7
    assert advice["model_version"] == read_bundle(home).version
    assert [d["node"] for d in advice["decisions"]] == [b["node"] for b in asked["boundaries"]]
    for decision in advice["decisions"]:
        assert decision["predicted"]["source"] == "history"
        assert decision["reason"]["message"]
        assert decision["checkpoint"] == (decision["reason"]["code"] == "chosen")
    total = sum(d["predicted"]["output_bytes"] for d in advice["decisions"])
    chosen = [d["predicted"]["output_bytes"] for d in advice["decisions"] if d["checkpoint"]]
    assert chosen
    assert sum(chosen) <= 0.5 * total + len(chosen)
    orjson.dumps(advice)


def test_training_sees_the_query_that_the_driver_asked_about(
    home: Path, plans: dict[str, Mapping[str, Any]]
) -> None:
    asked = {}
    for plan in plans.values():
        query = query_of(read(parse_plan(plan)), 2)
        asked[query.template] = query
    runs = [run for run in build_runs(read_frames(home)) if run.query.template in asked]
    assert len({run.query.template for run in runs}) == 22
    compared = 0
    for run in runs:
        query = asked[run.query.template]
        if run.app != runs[-1].app:  # another scale: other partition counts
            continue
        compared += 1
        assert unknown(run.query).graph == unknown(query).graph
        assert run.query.features == query.features
        assert run.query.slots == query.slots
        assert len(run.ran) > 0.8 * len(query.graph.stages)
    assert compared == 22


def test_some_query_of_tpch_is_worth_a_checkpoint_and_no_short_one(
    home: Path, plans: dict[str, Mapping[str, Any]]
) -> None:
    advisor, _ = load_advisor(home, EASY)
    chosen = {
        name
        for name, plan in plans.items()
        if any(d["checkpoint"] for d in advice_of(advisor, request(plan))["decisions"])
    }
    assert len(chosen) >= 4
    default, _ = load_advisor(home, {})
    for plan in plans.values():
        codes = {d["reason"]["code"] for d in advice_of(default, request(plan))["decisions"]}
        assert codes <= {"short_query"}


def test_a_query_may_have_its_own_minimum_of_duration(
    home: Path, plans: dict[str, Mapping[str, Any]]
) -> None:
    default, _ = load_advisor(home, {})
    for minimum, short in ((10**9, True), (0, False), (None, True)):
        asked = request(plans["tpch/q9"]) | {"min_duration_ms": minimum}
        codes = {d["reason"]["code"] for d in advice_of(default, asked)["decisions"]}
        assert (codes == {"short_query"}) == short


def test_refused_and_restorable_boundaries_are_not_chosen(
    home: Path, plans: dict[str, Mapping[str, Any]]
) -> None:
    advisor, _ = load_advisor(home, EASY)
    refused = {"code": "udf", "args": {"name": "f"}, "message": "a UDF without identity"}
    advice = advice_of(advisor, request(plans["tpch/q9"], eligible=False, reason=refused))
    assert {d["reason"]["code"] for d in advice["decisions"]} == {"udf"}
    asked = request(plans["tpch/q9"])
    asked["boundaries"][0]["restorable"] = True
    decisions = advice_of(advisor, asked)["decisions"]
    assert decisions[0]["reason"]["code"] == "restorable"
    # Everything else lies upstream of the outermost exchange and will not run.
    assert not any(d["checkpoint"] for d in decisions)


def test_what_is_durable_already_takes_no_room_in_the_budget(
    home: Path, plans: dict[str, Mapping[str, Any]]
) -> None:
    advisor, _ = load_advisor(home, EASY | {"budget_fraction": 0.0})
    asked = request(plans["tpch/q9"])
    foreseen = advisor.foresee(asked)
    assert isinstance(foreseen, Foreseen)
    assert not advisor.decide(foreseen, asked["boundaries"]).decision.chosen
    chosen = set[int]()
    for boundary in asked["boundaries"]:
        boundary["restorable"] = True
        decision = advisor.decide(foreseen, asked["boundaries"]).decision
        assert decision.durable_bytes == 0
        chosen |= decision.chosen
        boundary["restorable"] = False
    assert chosen, "a cut at what is there already costs nothing"


def test_a_changed_byte_in_the_bundle_means_no_model(
    home: Path, plans: dict[str, Mapping[str, Any]]
) -> None:
    file = bundle_root(home) / read_bundle(home).version / "output_size" / "general.txt"
    whole = file.read_bytes()
    file.write_bytes(whole[:100] + bytes([whole[100] ^ 1]) + whole[101:])
    try:
        advisor, problem = load_advisor(home, EASY)
    finally:
        file.write_bytes(whole)
    assert problem is not None
    assert "sha256" in problem
    advice = advice_of(advisor, request(plans["tpch/q9"]))
    assert advice["model_version"] is None
    assert {d["reason"]["code"] for d in advice["decisions"]} == {"no_model"}


@pytest.mark.parametrize("trained_on", [None, 0, 2])
def test_models_that_know_other_features_are_refused_in_one_line(
    home: Path, tmp_path: Path, plans: dict[str, Mapping[str, Any]], trained_on: int | None
) -> None:
    bundle = read_bundle(home)
    files = {**bundle.files, HISTORY: bundle.history.read_bytes()}
    write_bundle(tmp_path, "v", files, bundle.metadata | {"features_version": trained_on})
    advisor, problem = load_advisor(tmp_path, EASY)
    assert problem is not None
    assert f"plan features of version {trained_on}, this version makes 1" in problem
    assert "phoebe train" in problem
    assert "\n" not in problem
    advice = advice_of(advisor, request(plans["tpch/q9"]))
    assert {d["reason"]["code"] for d in advice["decisions"]} == {"no_model"}
    assert check_bundle(str(home)).status == "ok"
    told = check_bundle(str(tmp_path))
    assert (told.status, told.to_do) == ("error", "phoebe train writes a new one")
    assert "plan features" in told.found


def test_a_bundle_without_models_is_refused_and_the_doctor_says_so(
    home: Path, tmp_path: Path
) -> None:
    bundle = read_bundle(home)
    write_bundle(tmp_path, "v", dict(bundle.files), bundle.metadata | {"heads": {}})
    _, problem = load_advisor(tmp_path, EASY)
    assert problem is not None
    assert check_bundle(str(tmp_path)).status == "error"


def test_no_bundle_says_what_to_do(tmp_path: Path) -> None:
    advisor, problem = load_advisor(tmp_path)
    assert advisor.model_version is None
    assert problem is not None
    assert "phoebe train" in problem


@pytest.mark.parametrize(
    "broken",
    [
        {},
        {"request_id": 1, "boundaries": [{"node": 3}], "plan": None, "slots": 2},
        {"request_id": 1, "boundaries": [{"node": 3}], "plan": {"children": 5}, "slots": 2},
        {"request_id": 1, "boundaries": [{"node": 3}], "plan": {}, "slots": "two"},
        {"request_id": 1, "boundaries": [{"node": 99}], "plan": {"nodeName": "Sort"}},
        {"request_id": 1, "boundaries": "none"},
    ],
)
def test_garbage_is_answered_never_raised(broken: dict[str, Any]) -> None:
    advisor = Advisor(baseline_predictor(History()), OptimizerSettings())
    advice = advice_of(advisor, broken)
    assert advice["type"] == "advice"
    assert not any(d["checkpoint"] for d in advice["decisions"])


def test_a_plan_that_was_not_shown_is_said_to_be_unknown() -> None:
    advisor = Advisor(baseline_predictor(History()), OptimizerSettings())
    (decision,) = advisor.advise({"request_id": 1, "boundaries": [{"node": 3}]}, None)["decisions"]
    assert (decision["checkpoint"], decision["reason"]["code"]) == (False, "plan_not_shown")


def test_settings_of_the_plugin_reach_the_optimizer() -> None:
    found = optimizer_settings({"objective": "restart", "max_cuts": 1, "mode": "apply"})
    assert (found.objective, found.max_cuts) == ("restart", 1)
    assert found.budget_fraction == OptimizerSettings().budget_fraction


def test_a_hundred_stages_are_advised_on_in_time(home: Path) -> None:
    """CPU time, warm; far above the bench's figure, because the machine may be busy."""
    advisor, _ = load_advisor(home, EASY)
    plan = _wide_plan(100)
    asked = request(plan)
    assert len(asked["boundaries"]) == 100
    advice_of(advisor, request(_wide_plan(50)))
    began = time.thread_time()
    advice_of(advisor, asked)
    assert time.thread_time() - began < 0.25


def test_a_plan_that_comes_again_with_other_ids_is_remembered(
    home: Path, plans: dict[str, Mapping[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    advisor, _ = load_advisor(home, EASY)
    predicted: list[int] = []
    real = advisor.predict
    monkeypatch.setattr(advisor, "predict", lambda *how: predicted.append(1) or real(*how))
    plan = plans["tpch/q9"]
    first = advice_of(advisor, request(plan))
    again = advice_of(advisor, request(_renumbered(plan, lambda n: n + 1000)))
    assert again["decisions"] == first["decisions"]
    assert len(predicted) == 1
    # What decides otherwise is decided otherwise.
    refused = advisor.advise(request(plan, eligible=False), advisor.foresee(request(plan)))
    assert not any(d["checkpoint"] for d in refused["decisions"])
    assert len(predicted) == 1
    asked = request(plan) | {"min_duration_ms": 10**9}
    assert {d["reason"]["code"] for d in advice_of(advisor, asked)["decisions"]} == {"short_query"}
    assert len(predicted) == 1
    # What is predicted otherwise is another question.
    for other in (
        request(plan, catalyst_bytes=10**8),
        request(plan) | {"slots": 4},
        request(_renumbered(plan, lambda n: n // 2)),  # columns that were two are one
        request(plans["tpch/q5"]),
    ):
        before = len(predicted)
        advice_of(advisor, other)
        assert len(predicted) == before + 1


def test_few_plans_are_remembered(home: Path, plans: dict[str, Mapping[str, Any]]) -> None:
    advisor, _ = load_advisor(home, EASY)
    for slots in range(1, MOST_REMEMBERED + 5):
        advice_of(advisor, request(plans["tpch/q1"]) | {"slots": slots})
    assert len(advisor._remembered) == MOST_REMEMBERED


def _renumbered(plan: Mapping[str, Any], number: Callable[[int], int]) -> dict[str, Any]:
    """The plan with other attribute ids."""
    text = orjson.dumps(plan).decode()
    renumbered: dict[str, Any] = orjson.loads(
        re.sub(r"#(\d+)", lambda found: f"#{number(int(found[1]))}", text)
    )
    return renumbered


def _wide_plan(exchanges_wanted: int) -> dict[str, Any]:
    """A left-deep tree of joins over shuffled scans."""

    def node(name: str, text: str, *children: dict[str, Any]) -> dict[str, Any]:
        return {
            "nodeName": name, "simpleString": text, "children": list(children), "metadata": {},
            "metrics": [],
        }  # fmt: skip

    def shuffled(key: int, child: dict[str, Any]) -> dict[str, Any]:
        text = f"Exchange hashpartitioning(k{key}#{key}, 32), ENSURE_REQUIREMENTS, [plan_id={key}]"
        return node("Exchange", text, child)

    tree = shuffled(0, node("Scan parquet t0", "FileScan parquet [k0#0]"))
    made = 1
    while made + 2 <= exchanges_wanted:
        scan = node(f"Scan parquet t{made}", f"FileScan parquet [k{made}#{made}]")
        join = node("SortMergeJoin", f"SortMergeJoin [k{made}]", tree, shuffled(made, scan))
        tree = shuffled(made + 1, join)
        made += 2
    while made < exchanges_wanted:
        tree = shuffled(made, tree)
        made += 1
    return tree
