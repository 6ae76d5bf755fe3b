"""The checkpoint store as people see it: what it holds, whether it is whole, what may go.

The looking, checking and removing is done by the plugin's own code in a JVM (``CheckpointTool``),
started by spark-submit: on any Hadoop file system, with the settings and credentials of jobs, and
with the rules that drivers follow (docs/checkpoints.md).
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
    """One attempt in the store. ``state``: ``committed``, ``damaged``, ``uncommitted``, or
    ``unreadable``: its manifest could not be read now, which says nothing about it.

    ``uncommitted`` is being written, or was left behind by a driver that died; then what its
    manifest would say is None. ``bytes`` is of the shuffle, ``stored_bytes`` of the files; ``hits``
    counts applications that restored it, ``work_ms`` how long its query had run when the boundary
    was whole. ``problem`` says what is damaged or unreadable. After a collection, ``remove`` and
    ``reason`` say what was decided (it was removed, or in a plan would be).
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
        """Seconds that applications did not have to wait again, over all that restored it."""
        return None if self.work_ms is None else self.hits * self.work_ms / 1000

    def age_s(self, now: datetime) -> float:
        """Seconds since it was committed or last restored."""
        return (now - self.last_used_at).total_seconds()


def look(store: str, *, verify: bool = False) -> list[Checkpoint]:
    """What is in ``store`` (a path or URI), newest first; nothing is changed.

    ``verify`` reads every byte, as a restore does. A store that is not there yet is empty. Raises
    `CheckpointStoreError` with what went wrong, or where the directory is no store of ours, and
    `MissingJarError`.
    """
    return _run("verify" if verify else "list", store)


def collect(
    store: str,
    *,
    max_age_hours: int | None = None,
    max_store_bytes: int | None = None,
    dry_run: bool = False,
) -> list[Checkpoint]:
    """Removes from ``store`` what nobody needs; with ``dry_run`` only says what would go.

    The answer is what was there, with ``remove`` and ``reason``. Limits are hours since the last
    use and bytes of the whole store; None is the setting's value. Raises as `look` does.
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
    """A row of the tool's answer; times come as epoch milliseconds."""
    known: dict[str, Any] = {f.name: row[f.name] for f in fields(Checkpoint) if f.name in row}
    for name in _TIMES:
        if row.get(f"{name}_ms") is not None:
            known[name] = datetime.fromtimestamp(row[f"{name}_ms"] / 1000, UTC)
    return Checkpoint(**known)
