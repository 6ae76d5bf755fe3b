"""What a checkpoint store on a local disk holds, for tests and benches that look or do harm."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any


def committed(store: Path) -> list[Path]:
    """The manifests of a store, oldest first."""
    return sorted((store / "catalog").glob("*.manifest"), key=lambda m: m.stat().st_mtime_ns)


def wait_for_commits(store: Path, count: int, timeout_s: float = 60) -> list[Path]:
    """Waits until ``count`` checkpoints are committed: uploads end beside the query, not in it."""
    deadline = time.monotonic() + timeout_s
    while len(found := committed(store)) < count:
        if time.monotonic() > deadline:
            raise AssertionError(f"{len(found)} of {count} checkpoints committed in {timeout_s} s")
        time.sleep(0.05)
    return found


def clear(store: Path) -> None:
    """Empties a store that a running application uses: its marker stays, and who lives."""
    shutil.rmtree(store / "data", ignore_errors=True)
    for file in (store / "catalog").glob("*"):
        if file.suffix != ".lease":
            file.unlink(missing_ok=True)


def read_manifest(manifest: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(manifest.read_bytes())
    return found


def data_of(manifest: Path) -> Path:
    """The data directory that a manifest in the catalogue is about."""
    fingerprint, attempt = manifest.name.removesuffix(".manifest").rsplit("-", 1)
    return manifest.parents[1] / "data" / fingerprint / attempt


def attempts(store: Path) -> list[Path]:
    """All data directories, committed or not."""
    return list((store / "data").glob("*/*"))


def incomplete(store: Path) -> frozenset[str]:
    """The attempts that nobody may ever restore, as ``<fingerprint>/<attempt>``: those without a
    manifest or with a tombstone, and those whose manifest cannot be read or names a pack that is
    not there whole."""
    return frozenset(f"{a.parent.name}/{a.name}" for a in attempts(store) if not _is_whole(a))


def _is_whole(data: Path) -> bool:
    if in_catalog(data, "damaged").exists():
        return False
    try:
        packs = read_manifest(in_catalog(data, "manifest"))["packs"]
        return all((data / pack["file"]).stat().st_size == pack["bytes"] for pack in packs)
    except (FileNotFoundError, ValueError, KeyError):
        return False


def in_catalog(data: Path, suffix: str) -> Path:
    """The catalogue's file about a data directory: ``manifest`` or ``damaged``."""
    return data.parents[2] / "catalog" / f"{data.parent.name}-{data.name}.{suffix}"
