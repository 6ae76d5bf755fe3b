"""Markers and seeds for all tests, and the JVM options of what they start."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import settings

from tests.support import jvm

settings.register_profile("phoebe", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("phoebe")


LONGEST = (
    "test_trials.py",
    "test_scheduling.py",
    "test_checkpoints_tpc.py",
    "test_safe_inside.py",
    "test_exactness.py",
    "test_executor_loss.py",
    "test_paused_driver.py",
    "test_restored_shapes.py",
    "test_fingerprint.py",
    "test_plugin.py",
    "test_stage_graph.py",
    "test_damaged_checkpoints.py",
    "test_unreadable_checkpoints.py",
    "test_remote_store.py",
    "test_pipeline.py",
    "test_documents.py",
    "test_process.py",
)
"""Files that come first, so that no worker begins a long one when the other has nothing left."""


def pytest_configure(config: pytest.Config) -> None:
    jvm.use()
    config.addinivalue_line("markers", "spark: starts Spark for real")
    config.addinivalue_line("markers", "faults: kills processes or damages files")
    config.addinivalue_line(
        "markers",
        "nightly(guarded_by): takes too long for every run; the test that is named, of pytest "
        "(file::test) or of a Scala suite (Suite::test), guards the same in every run",
    )


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--nightly", action="store_true", help="also run what takes hours")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Everything under ``tests/spark`` and ``tests/faults`` carries its folder's marker. Long files
    come first."""
    later = pytest.mark.skip(reason="nightly: run with --nightly")
    here = Path(__file__).parent
    for item in items:
        folder = item.path.relative_to(here).parts[0]
        if folder in ("spark", "faults"):
            item.add_marker(getattr(pytest.mark, folder))
        if item.get_closest_marker("nightly") and not config.getoption("--nightly"):
            item.add_marker(later)
    ranks = {name: rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(item.path.name, len(ranks)))


@pytest.fixture(autouse=True)
def _seeded() -> None:
    random.seed(20210711)
