"""What all benches share: options, the common fields, and the one JSON object at the end.

A bench is a module with ``run(options) -> Result``. Figures that need a part which is not built
yet are None with a reason in ``why_null``; what cannot run here is named in ``skipped``.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

from tests.support.places import BUILD, ROOT


@dataclass(frozen=True, slots=True)
class Options:
    """How a bench is run. ``scale_factor`` and ``repeats`` None: the bench's own fixed ones;
    ``choice``: which part of a bench that has parts."""

    name: str
    work: Path
    seed: int = 20210711
    repeats: int | None = None
    scale_factor: float | None = None
    budget_s: float = 20 * 60
    choice: str = "default"
    started: float = field(default_factory=time.monotonic)

    def say(self, text: str) -> None:
        """A line of progress (standard error: standard output ends with the JSON)."""
        print(f"[{time.monotonic() - self.started:6.1f} s] {text}", file=sys.stderr, flush=True)

    @property
    def left_s(self) -> float:
        """Seconds left of the bench's time budget."""
        return self.budget_s - (time.monotonic() - self.started)


@dataclass(slots=True)
class Result:
    """A bench's figures by key, how often they were measured, and what is missing and why;
    ``broken``: they show a fault, and the command fails."""

    figures: dict[str, Any]
    repeats: int
    why_null: dict[str, str] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)
    broken: bool = False


def median_ratio(pairs: Iterable[tuple[float, float]]) -> float | None:
    """The median over pairs (a, b) of a / b; None without pairs."""
    ratios = [a / b for a, b in pairs if b > 0]
    return statistics.median(ratios) if ratios else None


def _commit() -> str:
    """The commit measured, with ``+changes`` when the tree is not clean; "unknown" without git."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + ("+changes" if git("status", "-s") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _plain(value: Any) -> Any:
    """Valid JSON: no NaN, no infinity; six significant digits are more than was measured."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value


def report(options: Options, result: Result) -> dict[str, Any]:
    """The bench's JSON object, also written to ``build/bench/<name>.json``."""
    missing = {k for k, v in result.figures.items() if v is None} - set(result.why_null)
    row = {
        "name": options.name,
        "commit": _commit(),
        "seconds": time.monotonic() - options.started,
        "machine": {
            "cores": os.cpu_count(),
            "memory_gib": psutil.virtual_memory().total / 2**30,
        },
        "repeats": result.repeats,
        "seed": options.seed,
        **result.figures,
        "why_null": {**result.why_null, **dict.fromkeys(missing, "not measured in this run")},
        "skipped": result.skipped,
    }
    row = {k: _plain(v) for k, v in row.items()}
    folder = BUILD / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{options.name}.json").write_text(json.dumps(row, indent=2) + "\n")
    return row


def fresh(folder: Path) -> Path:
    """``folder``, empty."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
