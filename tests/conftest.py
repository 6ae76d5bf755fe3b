"""Markers and seeds for all tests."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("phoebe", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("phoebe")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "spark: starts Spark for real")
    config.addinivalue_line("markers", "faults: kills processes or damages files")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything under ``tests/spark`` and ``tests/faults`` carries its folder's marker."""
    here = Path(__file__).parent
    for item in items:
        folder = item.path.relative_to(here).parts[0]
        if folder in ("spark", "faults"):
            item.add_marker(getattr(pytest.mark, folder))


@pytest.fixture(autouse=True)
def _seeded() -> None:
    random.seed(20210711)
