"""The demo's scratch folder, and its last table."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.demo.__main__ import fresh
from benchmarks.demo.show import print_summary


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


def test_the_last_table_has_both_pairs_and_no_escape_codes_where_no_terminal_is() -> None:
    def sides(*values: float) -> dict[str, list[float]]:
        return {"without": [values[0], values[1]], "with": [values[2], values[3]]}

    shown = io.StringIO()
    summary = {
        "stages": [],
        "temp_mean_bytes": sides(50e6, 50e6, 25e6, 30e6),
        "temp_peak_bytes": sides(90e6, 90e6, 45e6, 45e6),
        "temp_byte_seconds": sides(5e9, 7e9, 2e9, 3e9),
        "cpu_s": sides(80, 80, 88, 84),
        "wall_s": sides(50, 75, 55, 57),
        "restart_s": {"full": 75.0, "resumed": 30.0},
        "restart_cpu_s": {"full": 80.0, "resumed": 40.0},
        "median_q_error": {},
        "results_identical": True,
        "checkpoints_written": 1,
        "checkpoints_restored": 1,
        "seconds": 400.0,
    }
    print_summary(Console(file=shown, width=120), summary)
    text = " ".join(shown.getvalue().split())
    assert "-50 %, -40 %" in text
    assert "+10 %, +5 %" in text
    assert "1.50 times as long" in text
    assert "a single comparison" in text
    assert "\x1b" not in text
