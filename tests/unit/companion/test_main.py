"""The intake of the companion, and its exit while the loop hangs."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from phoebe_spark.companion.main import Intake

ROOT = Path(__file__).resolve().parents[3]


def test_a_full_queue_loses_lines_instead_of_waiting_for_good() -> None:
    intake = Intake(limit=2, patience_s=0.2)
    began = time.monotonic()
    for _ in range(100):
        intake.put(b"x")
    assert 0.2 <= time.monotonic() - began < 2, "it waits once, not once a line"
    assert (intake.jammed, intake.take_lost(), intake.take_lost()) == (True, 98, 0)
    assert intake.get(0) == b"x"
    intake.put(b"y")
    assert (intake.jammed, intake.take_lost()) == (False, 0)


@pytest.mark.parametrize("lines", [1, 50])
def test_the_process_ends_after_its_input_though_the_loop_hangs(lines: int) -> None:
    """With room in the queue, and without."""
    hanging = (
        "import io, threading, phoebe_spark.companion.main as m\n"
        "m.END_LIMIT_S = 1.0\n"
        "m.PUT_LIMIT_S = 0.3\n"
        "intake = m.Intake(10, 0.3)\n"
        f"source = io.BytesIO(b'{{}}\\n' * {lines})\n"
        "threading.Thread(target=m._read, args=(source, intake, None), daemon=True).start()\n"
        "threading.Event().wait()\n"
    )
    run = subprocess.run([sys.executable, "-c", hanging], cwd=ROOT, timeout=20, check=False)
    assert run.returncode == 1
