"""The store's catalogue: committed, damaged, left behind."""

from __future__ import annotations

from pathlib import Path

import orjson

from phoebe_spark.checkpoints import Checkpoint, checkpoints


def write(store: Path, fingerprint: str, attempt: str, names: str | None = None) -> Path:
    """A checkpoint of two packs, as the JVM side lays it out; returns the data directory."""
    directory = store / "data" / fingerprint / attempt
    directory.mkdir(parents=True)
    packs = []
    for index, size in enumerate((10, 20)):
        (directory / f"m{index}.pack").write_bytes(b"x" * size)
        packs.append({"file": f"m{index}.pack", "bytes": size, "map_ids": [index]})
    manifest = {
        "format": 2,
        "fingerprint": names or fingerprint,
        "app_id": "app-1",
        "app_attempt": "",
        "app_name": "daily",
        "user": "ann",
        "execution_id": 3,
        "spark_version": "4.2.0",
        "created_at_ms": 1_795_000_000_000,
        "codec": "lz4",
        "num_maps": 2,
        "num_partitions": 8,
        "bytes": 30,
        "rows": 5,
        "packs": packs,
    }
    (store / "catalog").mkdir(exist_ok=True)
    in_catalog(directory, "manifest").write_bytes(orjson.dumps(manifest))
    return directory


def in_catalog(directory: Path, suffix: str) -> Path:
    stem = f"{directory.parent.name}-{directory.name}"
    return directory.parents[2] / "catalog" / f"{stem}.{suffix}"


def only(store: Path) -> Checkpoint:
    (found,) = checkpoints(store)
    return found


def test_a_store_that_does_not_exist_is_empty(tmp_path: Path) -> None:
    assert list(checkpoints(tmp_path / "none")) == []


def test_a_committed_checkpoint_with_its_figures(tmp_path: Path) -> None:
    directory = write(tmp_path, "f1", "u1")
    found = only(tmp_path)
    assert (found.state, found.problem, found.path) == ("committed", None, str(directory))
    assert (found.bytes, found.rows, found.num_partitions, found.execution_id) == (30, 5, 8, 3)
    assert found.created_at is not None
    assert found.created_at.isoformat() == "2026-11-18T11:06:40+00:00"


def test_no_manifest_is_not_committed(tmp_path: Path) -> None:
    in_catalog(write(tmp_path, "f1", "u1"), "manifest").unlink()
    assert only(tmp_path).state == "uncommitted"


def test_damage_is_seen_and_named(tmp_path: Path) -> None:
    directory = write(tmp_path, "f1", "u1")
    (directory / "m1.pack").write_bytes(b"x" * 19)
    assert only(tmp_path).problem == "m1.pack has 19 bytes, not 20"
    (directory / "m1.pack").unlink()
    assert only(tmp_path).problem == "m1.pack is missing"
    in_catalog(directory, "damaged").write_bytes(orjson.dumps({"why": "checksum differs"}))
    assert (only(tmp_path).state, only(tmp_path).problem) == ("damaged", "checksum differs")
    in_catalog(directory, "manifest").write_bytes(b"{")
    assert only(tmp_path).state == "damaged"


def test_a_manifest_in_another_fingerprints_place_is_damage(tmp_path: Path) -> None:
    write(tmp_path, "f1", "u1", names="f2")
    assert "another fingerprint" in (only(tmp_path).problem or "")
