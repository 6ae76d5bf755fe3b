"""Trials of resuming with made-up drivers: what counts as a partial read, and as a missed fault."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support import resume_trials
from tests.support.resume_trials import ResumeBench, Resumed
from tests.support.served import Answer
from tests.support.store import in_catalog
from tests.support.trials import Trial

HALF, WHOLE = (f"{digit * 64}/{digit * 32}" for digit in "ab")


class MadeUp:
    """In place of a served application: it leaves two checkpoints, one of them half written, or the
    log of an application that has restored what ``restores`` says."""

    store: Path
    restores: tuple[str, ...]
    ends_at_once = False

    def __init__(self, folder: Path, *_: object, **__: object) -> None:
        self.folder = folder
        self.is_first = folder.name == "driver1"
        self.app = SimpleNamespace(running=True, kill_driver=lambda: None, close=lambda: None)

    def __enter__(self) -> MadeUp:
        return self

    @property
    def log(self) -> str:
        said = f"phoebe: restores 5 bytes that a left in {self.store}/data/"
        return "\n".join(said + name for name in (() if self.is_first else self.restores))

    def ask(self, name: str, *_: object, **__: object) -> int:
        self.output(name).mkdir(parents=True)
        pq.write_table(pa.table({"n": [1]}), self.output(name) / "part.parquet")
        (self.output(name) / "_SUCCESS").touch()
        if self.is_first and not name.startswith("plain"):
            for checkpoint in (HALF, WHOLE):
                data = self.store / "data" / checkpoint
                data.mkdir(parents=True)
                (data / "m0-0.pack").write_bytes(b"x" * 9)
            packs = [{"file": "m0-0.pack", "bytes": 9}]
            manifest = in_catalog(self.store / "data" / WHOLE, "manifest")
            manifest.parent.mkdir()
            manifest.write_text(json.dumps({"packs": packs}))
        return 0 if self.is_first else 1

    def is_answered(self, number: int) -> bool:
        return bool(number) or self.ends_at_once

    def answer(self, *_: object) -> Answer:
        return Answer(None, 0.0, 1.0)

    def run(self, name: str, *_: object) -> Answer:
        self.ask(name)
        return self.answer()

    def output(self, name: str) -> Path:
        return self.folder / name


def _run(folder: Path, monkeypatch: pytest.MonkeyPatch, kind: str, **driver: Any) -> Resumed:
    made = type("Made", (MadeUp,), {"store": folder / "disk" / "resume", **driver})
    monkeypatch.setattr(resume_trials, "Served", made)
    monkeypatch.setattr(resume_trials, "testing_jar", lambda: folder / "tests.jar")
    cluster: Any = SimpleNamespace(master="local", workers=[])
    with ResumeBench(folder / "resume", cluster, folder / "disk") as bench:
        return bench.run(Trial("t0", kind, "one", 3))


@pytest.mark.parametrize("kind", ["driver_map", "driver_copy", "driver_commit", "driver_free"])
def test_a_restore_of_what_a_killed_driver_left_half_written_is_a_partial_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    one = _run(tmp_path, monkeypatch, kind, restores=(HALF, WHOLE))
    assert (one.partial, set(one.restored)) == (1, {HALF, WHOLE})
    assert not one.outcome.missed


def test_a_restore_of_what_is_whole_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = _run(tmp_path, monkeypatch, "driver_copy", restores=(WHOLE,))
    assert (one.partial, set(one.restored)) == (0, {WHOLE})


def test_a_restore_of_what_was_harmed_is_a_partial_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = _run(tmp_path, monkeypatch, "restore_flip", restores=(WHOLE,))
    assert one.partial == 1
    assert one.outcome.did.endswith("1 of 1 checkpoints harmed")


def test_a_driver_that_is_over_before_its_kill_is_a_missed_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = _run(tmp_path, monkeypatch, "driver_copy", restores=(), ends_at_once=True)
    assert one.outcome.missed == "the query ended before the moment came"
    one = _run(tmp_path / "other", monkeypatch, "driver_restore", restores=())
    assert one.outcome.missed == "the query ended before the moment came"
