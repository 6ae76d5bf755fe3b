"""The checkpoint store as a catalogue: reads manifests, writes nothing.

Layout (written by the JVM side): ``<checkpoint.dir>/<fingerprint>/<uuid>/manifest.json`` and data
files beside it. A directory without a manifest was never committed; one with ``tombstone.json`` is
damaged and will not be restored again. Stores on other file systems than the local one are read
through the driver's Hadoop file systems, not here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

MANIFEST = "manifest.json"
TOMBSTONE = "tombstone.json"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A directory of the store. ``state``: ``committed``, ``damaged``, ``uncommitted``.

    ``uncommitted`` is being written, or was left behind by a driver that died; then most fields
    are None. ``problem`` says what is wrong.
    """

    path: str
    fingerprint: str
    state: str
    app_id: str | None = None
    app_attempt: str | None = None
    app_name: str | None = None
    user: str | None = None
    execution_id: int | None = None
    spark_version: str | None = None
    created_at: datetime | None = None
    num_maps: int | None = None
    num_partitions: int | None = None
    bytes: int | None = None
    rows: int | None = None
    problem: str | None = None


def checkpoints(store: Path) -> Iterator[Checkpoint]:
    """The checkpoints of a store on a local disk, in no order; none when it does not exist."""
    if not store.is_dir():
        return
    for fingerprint in store.iterdir():
        if fingerprint.is_dir() and not fingerprint.name.startswith("."):
            for directory in fingerprint.iterdir():
                if directory.is_dir() and not directory.name.startswith("."):
                    yield read_checkpoint(directory)


def read_checkpoint(directory: Path) -> Checkpoint:
    """One directory of the store; what is unreadable is told in ``problem``, never raised."""
    path, fingerprint = str(directory), directory.parent.name
    try:
        manifest = orjson.loads((directory / MANIFEST).read_bytes())
        if not isinstance(manifest, dict):
            raise ValueError("the manifest is not an object")
    except FileNotFoundError:
        return Checkpoint(path, fingerprint, "uncommitted", problem="no manifest")
    except (OSError, ValueError) as error:
        return Checkpoint(path, fingerprint, "damaged", problem=f"manifest: {error}")
    problem = _problem(directory, manifest)
    created = manifest.get("created_at_ms")
    return Checkpoint(
        path,
        fingerprint,
        "committed" if problem is None else "damaged",
        **{
            key: manifest.get(key)
            for key in (
                "app_id",
                "app_attempt",
                "app_name",
                "user",
                "execution_id",
                "spark_version",
                "num_maps",
                "num_partitions",
                "bytes",
                "rows",
            )
        },
        created_at=None if created is None else datetime.fromtimestamp(created / 1000, UTC),
        problem=problem,
    )


def _problem(directory: Path, manifest: dict[str, Any]) -> str | None:
    tombstone = directory / TOMBSTONE
    if tombstone.exists():
        try:
            return str(orjson.loads(tombstone.read_bytes()).get("why") or "tombstone")
        except (OSError, ValueError, AttributeError):
            return "tombstone"
    if manifest.get("fingerprint") not in (None, directory.parent.name):
        return "the manifest names another fingerprint"
    for entry in manifest.get("maps") or ():
        name, length = entry.get("file"), entry.get("data_bytes")
        if not name:
            continue
        try:
            found = (directory / name).stat().st_size
        except OSError:
            return f"{name} is missing"
        if isinstance(length, int) and found != length:
            return f"{name} has {found} bytes, not {length}"
    return None
