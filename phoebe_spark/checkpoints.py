"""The checkpoint store as a catalogue: reads manifests, writes nothing.

Layout (written by the JVM side, docs/checkpoints.md): ``catalog/<fingerprint>-<attempt>.manifest``
is the commit, ``.damaged`` beside it a tombstone; the data is under
``data/<fingerprint>/<attempt>``, and was never committed if no manifest names it. Stores on other
file systems than the local one are read through the driver's Hadoop file systems, not here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

CATALOG = "catalog"
DATA = "data"
MANIFEST = ".manifest"
TOMBSTONE = ".damaged"


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
    catalog = store / CATALOG
    committed = {m.name.removesuffix(MANIFEST) for m in catalog.glob(f"*{MANIFEST}")}
    for stem in committed:
        yield read_checkpoint(store, *stem.rsplit("-", 1))
    for directory in (store / DATA).glob("*/*"):
        if f"{directory.parent.name}-{directory.name}" not in committed:
            yield Checkpoint(
                str(directory), directory.parent.name, "uncommitted", problem="no manifest"
            )


def read_checkpoint(store: Path, fingerprint: str, attempt: str) -> Checkpoint:
    """One checkpoint of the catalogue; what is unreadable is told in ``problem``, never raised."""
    directory = store / DATA / fingerprint / attempt
    stem = f"{fingerprint}-{attempt}"
    try:
        manifest = orjson.loads((store / CATALOG / f"{stem}{MANIFEST}").read_bytes())
        if not isinstance(manifest, dict):
            raise ValueError("the manifest is not an object")
    except FileNotFoundError:
        return Checkpoint(str(directory), fingerprint, "uncommitted", problem="no manifest")
    except (OSError, ValueError) as error:
        return Checkpoint(str(directory), fingerprint, "damaged", problem=f"manifest: {error}")
    problem = _problem(directory, store / CATALOG / f"{stem}{TOMBSTONE}", manifest)
    created = manifest.get("created_at_ms")
    return Checkpoint(
        str(directory),
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


def _problem(directory: Path, tombstone: Path, manifest: dict[str, Any]) -> str | None:
    if tombstone.exists():
        try:
            return str(orjson.loads(tombstone.read_bytes()).get("why") or "tombstone")
        except (OSError, ValueError, AttributeError):
            return "tombstone"
    if manifest.get("fingerprint") not in (None, directory.parent.name):
        return "the manifest names another fingerprint"
    for pack in manifest.get("packs") or ():
        name, length = pack.get("file"), pack.get("bytes")
        try:
            found = (directory / name).stat().st_size
        except (OSError, TypeError):
            return f"{name} is missing"
        if isinstance(length, int) and found != length:
            return f"{name} has {found} bytes, not {length}"
    return None
