"""The intake of the companion, and its exit while the loop hangs."""

from __future__ import annotations

import queue
import subprocess
import sys
import time
from io import BufferedReader, BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from phoebe_spark.companion import main
from phoebe_spark.companion.intake import Intake

ROOT = Path(__file__).resolve().parents[3]


def test_a_full_queue_loses_lines_instead_of_waiting_for_good() -> None:
    intake = Intake(most_bytes=2, patience_s=0.2)
    began = time.monotonic()
    for _ in range(100):
        intake.put([b"x"])
    assert 0.2 <= time.monotonic() - began < 2, "it waits once, not once a line"
    assert (intake.jammed, intake.take_lost(), intake.take_lost()) == (True, 98, 0)
    assert intake.get(0) == [b"x"]
    intake.put([b"y"])
    assert (intake.jammed, intake.take_lost()) == (False, 0)


def test_a_line_larger_than_the_queue_is_taken_when_it_is_empty() -> None:
    intake = Intake(most_bytes=2, patience_s=0.0)
    intake.put([b"longer", b"than that"])
    assert intake.take_lost() == 0
    intake.put([b"x"])
    assert intake.take_lost() == 1
    assert intake.get(0) == [b"longer", b"than that"]
    with pytest.raises(queue.Empty):
        intake.get(0)


def test_lines_are_put_together_from_whatever_pieces_arrive(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(main, "READ_BYTES", 7)
    monkeypatch.setattr(main, "END_LIMIT_S", 1e6)  # it would end the tests themselves
    intake, asked = Intake(), list[bytes]()
    text = b'{"a":1}\n\n{"type":"advise","n":2}\n' + b"x" * 50 + b"\n{}\nlast"
    desk: Any = SimpleNamespace(ask=asked.append)
    main._read(BufferedReader(BytesIO(text)), intake, desk)
    found = list[bytes]()
    while (lines := intake.get(0)) is not None:
        found += lines
    assert found == [b'{"a":1}', b"x" * 50, b"{}", b"last"]
    assert asked == [b'{"type":"advise","n":2}']


@pytest.mark.parametrize("lines", [1, 50])
def test_the_process_ends_after_its_input_though_the_loop_hangs(lines: int) -> None:
    """With room in the queue, and without."""
    hanging = (
        "import io, threading, phoebe_spark.companion.main as m\n"
        "m.END_LIMIT_S = 1.0\n"
        "m.PUT_LIMIT_S = 0.3\n"
        "m.READ_BYTES = 3\n"
        "intake = m.Intake(20, 0.3)\n"
        f"source = io.BufferedReader(io.BytesIO(b'{{}}\\n' * {lines}))\n"
        "threading.Thread(target=m._read, args=(source, intake, None), daemon=True).start()\n"
        "threading.Event().wait()\n"
    )
    run = subprocess.run([sys.executable, "-c", hanging], cwd=ROOT, timeout=20, check=False)
    assert run.returncode == 1
