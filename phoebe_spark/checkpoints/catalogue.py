"""The checkpoint store for people: what it holds, whether it is undamaged, what can be removed.

The plugin's own code lists, verifies and removes in a JVM (``CheckpointTool``) that spark-submit
starts. So it works on any Hadoop file system, with the settings and credentials of jobs, and with
the same rules as drivers (docs/checkpoints.md).
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from phoebe_spark.errors import CheckpointStoreError
from phoebe_spark.jar import jar_path
from phoebe_spark.spark_env import spark_home

TOOL = "phoebe.tool.CheckpointTool"
_TIMES = ("created_at", "written_at", "last_used_at")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One attempt in the store. ``state`` is ``committed``, ``damaged``, ``uncommitted`` or
    ``unreadable`` (its manifest could not be read now, but may be good).

    An ``uncommitted`` attempt is being written, or was left behind by a driver that died; the
    fields of the manifest are then None. ``bytes`` are the shuffle's, ``stored_bytes`` the files'.
    ``hits`` counts applications that restored it. ``work_ms`` is how long its query had run when
    the boundary was complete. ``problem`` says what is damaged or unreadable. After a collection,
    ``remove`` and ``reason`` are its decision (with ``dry_run`` nothing is removed).
    """

    path: str
    fingerprint: str
    attempt: str
    state: str
    stored_bytes: int
    written_at: datetime
    last_used_at: datetime
    hits: int
    in_use: bool
    problem: str | None = None
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
    work_ms: int | None = None
    remove: bool | None = None
    reason_code: str | None = None
    reason: str | None = None

    @property
    def saved_s(self) -> float | None:
        """Seconds saved, over all applications that restored it."""
        return None if self.work_ms is None else self.hits * self.work_ms / 1000

    def age_s(self, now: datetime) -> float:
        """Seconds since it was committed or last restored."""
        return (now - self.last_used_at).total_seconds()


def look(store: str, *, verify: bool = False) -> list[Checkpoint]:
    """The checkpoints in ``store`` (a path or URI), newest first; changes nothing.

    ``verify`` reads every byte, as a restore does. A store that does not exist yet is empty. Raises
    `CheckpointStoreError` for a failure, or if the directory is no store, and `MissingJarError`.
    """
    return _run("verify" if verify else "list", store)


def collect(
    store: str,
    *,
    max_age_hours: int | None = None,
    max_store_bytes: int | None = None,
    dry_run: bool = False,
) -> list[Checkpoint]:
    """Removes garbage from ``store``; with ``dry_run`` only returns what would be removed.

    Returns all checkpoints, with ``remove`` and ``reason``. The limits are hours since the last use
    and bytes of the whole store; None takes the setting's value. Raises as `look` does.
    """
    return _run("plan" if dry_run else "gc", store, (max_age_hours, max_store_bytes))


def _run(action: str, store: str, limits: Sequence[int | None] = ()) -> list[Checkpoint]:
    home = spark_home()
    if home is None:
        raise CheckpointStoreError("no Spark: pip install 'phoebe-spark[spark]' or set SPARK_HOME")
    with tempfile.TemporaryDirectory(prefix="phoebe-") as folder:
        answer = Path(folder) / "answer.json"
        command = [str(home / "bin" / "spark-submit"), "--master", "local", "--deploy-mode"]
        command += ["client", "--driver-memory", "512m", "--class", TOOL, jar_path()]
        command += [str(answer), action, store]
        command += ["" if limit is None else str(limit) for limit in limits]
        ran = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "SPARK_HOME": str(home)},
        )
        if not answer.exists():
            lines = ran.stderr.strip().splitlines() or ["spark-submit said nothing"]
            raise CheckpointStoreError(f"{store} could not be looked at: {lines[-1]}")
        found = orjson.loads(answer.read_bytes())
    if isinstance(found, dict):
        raise CheckpointStoreError(f"{store}: {found['error']}")
    checkpoints = [from_json(row) for row in found]
    return sorted(checkpoints, key=lambda c: c.written_at, reverse=True)


def from_json(row: Mapping[str, Any]) -> Checkpoint:
    """A checkpoint from a row of the tool's answer, which has times in epoch milliseconds."""
    known: dict[str, Any] = {f.name: row[f.name] for f in fields(Checkpoint) if f.name in row}
    for name in _TIMES:
        if row.get(f"{name}_ms") is not None:
            known[name] = datetime.fromtimestamp(row[f"{name}_ms"] / 1000, UTC)
    return Checkpoint(**known)
