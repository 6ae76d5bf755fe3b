"""Runs lists of TPC queries in one application (``query_app.py``) and reads what it wrote."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support import apps, tpc

QUERY_APP = Path(__file__).with_name("query_app.py")

SHUFFLE_CONF: Mapping[str, str] = {
    "spark.sql.shuffle.partitions": "32",
    "spark.sql.autoBroadcastJoinThreshold": "1MB",
    "spark.sql.classic.shuffleDependency.fileCleanup.enabled": "true",
}
"""The benches' fixed settings: many shuffles at small scale, Spark's own clean-up on."""


@dataclass(frozen=True, slots=True)
class Item:
    """One query of a run. ``sql`` None takes the text of ``text`` or ``name`` from the artifact;
    ``output`` False writes to the ``noop`` sink, else to ``<folder>/out/<name>``."""

    name: str
    data: Path
    sql: str | None = None
    text: str | None = None
    output: bool = True
    conf: Mapping[str, str] = field(default_factory=dict)
    pause_before: Path | None = None
    pause_after: Path | None = None


@dataclass(frozen=True, slots=True)
class Timing:
    """What the application wrote of one query; times in seconds since the epoch."""

    name: str
    seconds: float
    started: float
    ended: float
    error: str | None


def output(folder: Path, name: str) -> Path:
    """Where an item's result lands."""
    return folder / "out" / name.replace("/", "-")


def submit_queries(
    items: Iterable[Item],
    *,
    folder: Path,
    app_name: str = "queries",
    allow_failures: bool = False,
    settle_s: float = 0.0,
    **how: Any,
) -> apps.RunningApp:
    """Submits one application for ``items``; ``how`` goes to :func:`apps.submit`.

    ``settle_s`` is a rest after each query, for clean-up that outlasts it.
    """
    path = write_spec(
        items, folder, app_name=app_name, allow_failures=allow_failures, settle_s=settle_s
    )
    return apps.submit(QUERY_APP, [str(path)], folder=folder, **how)


def write_spec(
    items: Iterable[Item],
    folder: Path,
    *,
    app_name: str = "queries",
    allow_failures: bool = False,
    settle_s: float = 0.0,
) -> Path:
    """The file that tells ``query_app`` what to run."""
    folder.mkdir(parents=True, exist_ok=True)
    listed = list(items)
    spec = {
        "app_name": app_name,
        "allow_failures": allow_failures,
        "settle_s": settle_s,
        "tables": {
            str(d): {n: str(p) for n, p in tpc.tables(d).items()} for d in {i.data for i in listed}
        },
        "queries": [
            {
                "name": i.name,
                "data": str(i.data),
                "sql": i.sql if i.sql is not None else tpc.query(i.text or i.name),
                "output": str(output(folder, i.name)) if i.output else None,
                "conf": dict(i.conf),
                "pause_before": str(i.pause_before) if i.pause_before else None,
                "pause_after": str(i.pause_after) if i.pause_after else None,
            }
            for i in listed
        ],
    }
    path = folder / "spec.json"
    path.write_text(json.dumps(spec))
    (folder / "results.ndjson").unlink(missing_ok=True)
    return path


def timings(folder: Path) -> dict[str, Timing]:
    """The timings so far, by name, last one wins; also of a run that was killed."""
    path = folder / "results.ndjson"
    if not path.exists():
        return {}
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return {line["name"]: Timing(**line) for line in lines}
