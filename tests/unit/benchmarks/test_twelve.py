"""What keeps the benches honest: apart from training, proven oracles, restores that are counted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import restart, temp_storage, twelve
from benchmarks.demo.__main__ import OBSERVED_DAYS
from benchmarks.frame import Options
from benchmarks.oracle import Best, Objective, OracleError, TrueStage, value
from benchmarks.restart import Restored, Trial
from benchmarks.twelve import Query


def _query(name: str = "tpch/q5") -> Query:
    """Four stages in a chain, each with a fingerprint but the last."""
    stages = tuple(
        TrueStage(u, (u - 1,) if u else (), 1e6, float(u), u + 1.0, 3.0 - u, u < 3)
        for u in range(4)
    )
    return Query(name, 4.0, stages, {u: f"{name} {u}" for u in range(3)})


def test_the_model_is_trained_on_nothing_that_is_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[tuple[Path, float]] = []
    trained: list[Path] = []
    judged: list[Path] = []

    def run(
        _folder: Path, home: Path, scale_factor: float, _mode: str, *, warm: bool = False
    ) -> str:
        assert warm == (scale_factor == 6.0)
        ran.append((home, scale_factor))
        home.mkdir(parents=True, exist_ok=True)
        return f"app-{len(ran)}"

    def true_query(home: Path, _app_id: str, name: str) -> Query:
        judged.append(home)
        return _query(name)

    monkeypatch.setattr(twelve, "BUILD", tmp_path)
    monkeypatch.setattr(twelve, "_version", lambda: "v")
    monkeypatch.setattr(twelve, "_run", run)
    monkeypatch.setattr(twelve, "train", lambda home, _log: trained.append(home))
    monkeypatch.setattr(twelve, "true_query", true_query)
    prepared = twelve.prepare(Options("some", tmp_path, scale_factor=6.0))
    assert trained == [prepared.home]
    assert prepared.home not in judged
    learned_from = [scale_factor for home, scale_factor in ran if home == prepared.home]
    assert len(learned_from) == len(twelve.HISTORY)
    assert prepared.scale_factor not in learned_from
    assert (judged[0], prepared.scale_factor) in ran


def test_no_observed_day_of_the_demo_is_as_large_as_those_judged() -> None:
    assert 1.0 not in OBSERVED_DAYS
    assert len(set(OBSERVED_DAYS)) == len(OBSERVED_DAYS)


def test_a_query_without_a_proven_oracle_leaves_the_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    def oracle(query: Query, _objective: Objective, _budget: float, _last: float) -> Best:
        if query.name == "tpch/q9":
            raise OracleError("40 stages: Not Solved after 60 s")
        return Best(1.0)

    monkeypatch.setattr(Query, "oracle", oracle)
    listed = [_query("tpch/q5"), _query("tpch/q9")]
    judged = twelve.judge(listed, "temp")
    assert [q.name for q in judged.queries(listed)] == ["tpch/q5"]
    (line,) = judged.skipped
    assert line.startswith("tpch/q9:")
    assert line.endswith("Not Solved after 60 s")


def test_stages_upstream_of_a_boundary() -> None:
    query = _query()
    assert [query.upstream(f"tpch/q5 {u}") for u in range(3)] == [0, 1, 2]
    assert query.upstream("of another query") == 0


TRIAL = Trial("tpch/q5", "advised", "late", 9.0, None, 10.0, 4.0, 2, Restored(1, 100, 5, 2), ())


def test_a_figure_without_a_restore_is_null_and_says_why() -> None:
    nothing = replace(TRIAL, cuts="oracle", resumed_s=9.5, restored=Restored())
    result = restart._result([TRIAL, nothing], ["tpch/q5"], ["tpch/q9: no proof"])
    assert result.figures["late_kills_faster_advised"] == pytest.approx(0.6)
    assert result.figures["late_kills_faster_oracle"] is None
    assert result.figures["trials_that_restored"] == 1
    assert result.why_null["late_kills_faster_oracle"].endswith("restored a checkpoint")
    assert result.why_null["uniform_kept_oracle"].endswith("fitted the time")
    assert result.skipped[0] == "tpch/q9: no proof"


def test_a_trial_that_restored_nothing_counts_as_nothing_saved() -> None:
    nothing = replace(TRIAL, job="tpch/q7", resumed_s=10.0, restored=Restored())
    result = restart._result([TRIAL, nothing], ["tpch/q5", "tpch/q7"])
    assert result.figures["late_kills_faster_advised"] == pytest.approx(0.3)


def _chain(name: str) -> Query:
    """Three stages of 2 s, one after the other."""
    stages = tuple(
        TrueStage(i, (i - 1,) if i else (), 10.0, 2.0 * i, 2.0 * i + 2, 4.0 - 2 * i, True)
        for i in range(3)
    )
    return Query(name, 6.0, stages, {})


@pytest.mark.parametrize(
    ("killed_after", "saved"),
    [
        (3.9, 0.0),  # the first stage takes until 4 s: the full run is twice as long
        (4.1, 4.0),
        (7.9, 4.0),
        (8.1, 8.0),
        (15.9, 8.0),  # in the second query, whose own cuts are not done yet
        (20.1, 16.0),
    ],
)
def test_what_the_model_says_that_a_kill_leaves(killed_after: float, saved: float) -> None:
    listed = [_chain("a"), _chain("b")]
    cuts = Best(1.0, (frozenset({0}), frozenset({0, 1})))
    answers = {"a": cuts, "b": cuts}
    assert restart.computed_s(listed, answers, killed_after, 24.0) == pytest.approx(saved)


def test_uniform_kills_are_set_against_what_the_model_computes() -> None:
    uniform = replace(TRIAL, cuts="oracle", kill="uniform", computed_s=7.5)
    figures = restart._result([uniform, replace(uniform, resumed_s=7.0)], ["tpch/q5"]).figures
    assert figures["uniform_kept_vs_computed"] == pytest.approx(9.0 / 15.0)
    assert figures["uniform_kept_oracle_computed"] == pytest.approx(15.0 / 18.0)


def test_restart_says_when_restores_are_shallow() -> None:
    shallow = [replace(TRIAL, job=f"tpch/q{n}", restored=Restored(1, 100, 5, 1)) for n in (7, 9)]
    said = restart._result([TRIAL, *shallow], ["tpch/q5"]).skipped
    assert any(line.startswith("1 of 3 jobs restored") for line in said)
    assert not any("jobs restored" in line for line in restart._result([TRIAL], []).skipped)


def _later(query: Query, ttl_s: dict[int, float]) -> Query:
    """Another run: other stage ids, other times to live."""
    stages = tuple(
        replace(
            s,
            stage_id=s.stage_id + 10,
            parents=tuple(p + 10 for p in s.parents),
            ttl_s=ttl_s[s.stage_id],
        )
        for s in query.stages
    )
    return Query(query.name, 9.0, stages, {u + 10: f for u, f in query.fingerprints.items()})


def test_what_checkpoints_can_free_with_the_times_of_another_run() -> None:
    query = _query()
    cuts = (frozenset({0}), frozenset({0, 1, 2}))
    answer = Best(0.0, cuts, frozenset({0, 2}))
    assert temp_storage.computed_in(query, answer, query) == value(query.stages, cuts, "temp")
    later = _later(query, {0: 8.0, 1: 7.0, 2: 6.0, 3: 5.0})
    assert temp_storage.computed_in(query, answer, later) == 1e6 * (8.0 + 6.0 + 6.0)
    with pytest.raises(LookupError, match="tpch/q5 2"):
        temp_storage.computed_in(query, answer, replace(later, fingerprints={10: "tpch/q5 0"}))


def test_a_checkpoint_that_comes_late_takes_nothing_from_the_others_of_its_cut() -> None:
    stages = (
        TrueStage(0, (), 1e6, 0.0, 1.0, 12.0, True),
        TrueStage(1, (), 2e6, 0.0, 3.0, 10.0, True),
        TrueStage(2, (0, 1), 0.0, 3.0, 13.0, 0.0, False),
    )
    query = Query("tpch/q5", 13.0, stages, {0: "a", 1: "b"})
    answer = Best(0.0, (frozenset({0, 1}),), frozenset({0, 1}))
    later = _later(query, {0: 12.0, 1: 2.0, 2: 0.0})
    assert temp_storage.computed_in(query, answer, later) == 12e6 + 4e6


def test_temp_storage_says_what_was_restored() -> None:
    both = {"oracle": 1, "advised": 0}
    row: dict[str, Any] = {
        "query": "tpch/q5",
        "computed_byte_seconds": 4.0,
        "computed_in_run": 7.0,
        "byte_seconds": {"plain": 8.0, "oracle": 4.0, "advised": 8.0},
        "spill_byte_seconds": {"plain": 2.0, "oracle": 1.0, "advised": 2.0},
        "cached_byte_seconds": {"plain": 0.0, "oracle": 0.0, "advised": 0.0},
        "freed": {"oracle": 4.0, "advised": 0.0},
        "removed": {"plain": 0.5, "oracle": 4.0, "advised": 0.5},
        "peak_bytes": {"plain": 8, "oracle": 4, "advised": 8},
        "seconds": {"plain": 1.0, "oracle": 1.0, "advised": 1.0},
        "ratios": {"oracle": [1.0, 1.1, 1.2], "advised": [1.0]},
        "checkpoints": both,
        "restored": both,
        "wrong_results": [],
    }
    result = temp_storage._result([row], 2, ["tpch/q9: no proof"])
    assert result.figures["freed_vs_computed"] == 1.0
    assert result.figures["removed_vs_computed"] == 0.875
    assert result.figures["removed_vs_computed_in_run"] == 0.5
    assert result.figures["spill_byte_seconds"] == {"plain": 2.0, "oracle": 1.0, "advised": 2.0}
    assert result.figures["hotspot_freed_oracle"] == 0.5
    assert result.figures["paper_hotspot_freed"] == 0.7
    assert result.figures["wall_ratio_oracle"] == 1.1
    assert "tpch/q9: no proof" in result.skipped
    assert "tpch/q5 oracle: restored, so not only freed" in result.skipped
    assert any(line.startswith("repeats:") for line in result.skipped)
    nothing = temp_storage._result([], 0, ["tpch/q9: no proof"])
    assert set(nothing.figures.values()) == {None}
