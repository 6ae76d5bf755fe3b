"""Each listed breakage is caught by its test. Nightly; ``tests/unit/breakages`` keeps the list true
to the sources in every run."""

from __future__ import annotations

import pytest

from tests.breakages.applied import Copy
from tests.breakages.listed import Breakage, read

LISTED = read()


@pytest.fixture(scope="module")
def copy() -> Copy:
    return Copy()


@pytest.mark.nightly(
    guarded_by="tests/unit/breakages/test_listed.py::test_it_applies_and_its_test_is_there"
)
@pytest.mark.parametrize("test", list(dict.fromkeys(one.caught_by for one in LISTED)))
def test_it_passes_without_a_breakage(copy: Copy, test: str) -> None:
    code, said = copy.test(test)
    assert code == 0, said


@pytest.mark.nightly(
    guarded_by="tests/unit/breakages/test_listed.py::test_it_applies_and_its_test_is_there"
)
@pytest.mark.parametrize("breakage", LISTED, ids=lambda one: one.name)
def test_it_is_caught(copy: Copy, breakage: Breakage) -> None:
    assert copy.run(breakage).caught, breakage.says
