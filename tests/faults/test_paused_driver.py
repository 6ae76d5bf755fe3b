"""A driver that is paused past its lease, on a local disk; other stores are in tests/stores."""

from __future__ import annotations

from pathlib import Path

from tests.support import paused_driver


def test_a_driver_that_was_paused_commits_and_removes_nothing(tmp_path: Path) -> None:
    store = tmp_path / "store"
    paused_driver.run(
        tmp_path, str(store), lambda: {path.name for path in (store / "catalog").glob("*")}
    )
