"""What a checkpoint store on a local disk holds, for tests and benches that look or do harm."""

from __future__ import annotations

import json
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


def in_catalog(data: Path, suffix: str) -> Path:
    """The catalogue's file about a data directory: ``manifest`` or ``damaged``."""
    return data.parents[2] / "catalog" / f"{data.parent.name}-{data.name}.{suffix}"
