"""The demo's scratch folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.demo.__main__ import fresh


def test_a_folder_that_no_demo_has_made_is_left_alone(tmp_path: Path) -> None:
    work = tmp_path / "work"
    fresh(work)
    (work / "runs").mkdir()
    fresh(work)
    assert not (work / "runs").exists()
    mine = tmp_path / "mine"
    mine.mkdir()
    fresh(mine)
    other = tmp_path / "thesis.tex"
    other.write_text("mine")
    with pytest.raises(SystemExit, match="no demo has made it"):
        fresh(tmp_path)
    assert other.exists()
