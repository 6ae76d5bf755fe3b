"""What a bundle holds: models, history, and what it was trained on (docs/bundle.md)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import orjson

from phoebe_spark.predict.bundle import HISTORY, SHAPES
from phoebe_spark.predict.history_file import history_file
from phoebe_training.fit import FIGURES, Fitted
from phoebe_training.history_store import HistoryStore
from phoebe_training.runs import Run
from phoebe_training.seen import TRAINED_ON, trained_on


def bundle_files(fitted: Fitted, history: HistoryStore, runs: Sequence[Run]) -> dict[str, bytes]:
    """The bundle's files by path, but for its metadata."""
    files = {
        HISTORY: history_file(history.stages(), history.task_times_ms()),
        SHAPES: orjson.dumps(history.shapes()),
        TRAINED_ON: orjson.dumps(trained_on(runs)),
    }
    for head, model in fitted.models.items():
        if model.booster is not None:
            files[head.file] = model.booster.model_to_string().encode()
    return files


def described_heads(fitted: Fitted) -> dict[str, Any]:
    """The heads' entries in the bundle's metadata."""
    described: dict[str, Any] = {figure: {} for figure in FIGURES}
    for head, model in fitted.models.items():
        described[head.figure][head.kind] = model.describe(head)
    return described


def version_of(files: Mapping[str, bytes], now: datetime) -> str:
    """A name that sorts by time and tells contents apart."""
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(name.encode() + b"\0" + files[name])
    return f"{now:%Y%m%dT%H%M%S}-{digest.hexdigest()[:8]}"
