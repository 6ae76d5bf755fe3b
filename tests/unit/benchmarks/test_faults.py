"""The bench of faults: what counts as a failed job, and what as the error that is documented."""

from __future__ import annotations

import pytest

from benchmarks import faults
from tests.support import resume_trials, trials

OURS = "org.apache.spark.sql.execution.phoebe.exchange"
TYPED = f"Py4JJavaError: {OURS}.DamagedCheckpointException: it is bad"
ALL_KINDS = (*trials.KINDS, *resume_trials.KINDS)


def _outcome(kind: str, **how: str) -> trials.Outcome:
    return trials.Outcome(trials.Trial(f"t-{kind}", kind, "one", 7), 1.0, "did", 0.5, 1, **how)


@pytest.mark.parametrize("kind", [kind for kind in ALL_KINDS if kind not in resume_trials.INJECTED])
def test_damage_that_fails_a_job_is_a_failed_job(kind: str) -> None:
    figures = faults._result([_outcome(kind, error=TYPED)], {}, 0).figures
    assert (figures["failed_jobs"], figures["typed_errors"]) == (1, 0)
    assert figures["by_kind"][kind]["failed_jobs"] == 1


def test_damage_after_the_first_reader_may_be_a_typed_error_once() -> None:
    again = f"{resume_trials.AGAIN_FAILED}{TYPED}"
    outcomes = [_outcome("restore_late", error=error) for error in (TYPED, again, "OutOfMemory")]
    figures = faults._result(outcomes, {}, 0).figures
    assert (figures["failed_jobs"], figures["typed_errors"]) == (2, 1)
    assert figures["typed_share"] == pytest.approx(1 / 3)


def test_faults_that_did_not_come_to_pass_are_counted_and_named() -> None:
    outcomes = [_outcome("flip", missed="nothing was committed"), _outcome("flip")]
    result = faults._result(outcomes, {}, 0)
    assert result.figures["faults_missed"] == result.figures["by_kind"]["flip"]["missed"] == 1
    assert result.skipped == ["t-flip: nothing was committed"]


def test_wrong_results_and_partial_reads_are_figures() -> None:
    figures = faults._result([_outcome("flip", wrong="a row"), _outcome("delete")], {}, 3).figures
    assert (figures["trials"], figures["wrong_results"], figures["partial_reads"]) == (2, 1, 3)
