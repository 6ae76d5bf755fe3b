"""What a store holds: which attempts are whole."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support import store

FINGERPRINT = "f" * 64


def attempt(root: Path, number: int, *, manifest: bool = True) -> Path:
    """A made-up attempt of two packs of 10 and 20 bytes."""
    data = root / "data" / FINGERPRINT / f"{number:032x}"
    data.mkdir(parents=True)
    (root / "catalog").mkdir(exist_ok=True)
    sizes = {"m0-0.pack": 10, "m1-1.pack": 20}
    for name, size in sizes.items():
        (data / name).write_bytes(b"x" * size)
    if manifest:
        packs = [{"file": name, "bytes": size} for name, size in sizes.items()]
        store.in_catalog(data, "manifest").write_text(json.dumps({"packs": packs}))
    return data


def name_of(data: Path) -> str:
    return f"{data.parent.name}/{data.name}"


def test_attempts_that_are_not_whole_are_incomplete(tmp_path: Path) -> None:
    assert store.incomplete(tmp_path) == frozenset()
    whole, uncommitted, short, without, torn, buried = (
        attempt(tmp_path, number, manifest=number != 1) for number in range(6)
    )
    (short / "m1-1.pack").write_bytes(b"x" * 19)
    (without / "m0-0.pack").unlink()
    manifest = store.in_catalog(torn, "manifest")
    manifest.write_bytes(manifest.read_bytes()[:-5])
    store.in_catalog(buried, "damaged").touch()
    bad = (uncommitted, short, without, torn, buried)
    assert store.incomplete(tmp_path) == {name_of(data) for data in bad}
    assert name_of(whole) not in store.incomplete(tmp_path)


@pytest.mark.parametrize("extra", ["m2-2.pack", "manifest.tmp"])
def test_what_no_manifest_names_takes_nothing_from_an_attempt(tmp_path: Path, extra: str) -> None:
    (attempt(tmp_path, 0) / extra).write_bytes(b"x")
    assert store.incomplete(tmp_path) == frozenset()
