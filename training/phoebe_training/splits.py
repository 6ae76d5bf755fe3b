"""Which rows a head is judged by, and which its like learns from meanwhile; never random rows.

A *recurring* head corrects history, so it is judged in time: the applications are cut into
consecutive groups, and each group is estimated by a model that saw the earlier ones only, on
history as it stood before each application. A *general* head serves templates without a past, so it
is judged by template: rows of a template are estimated by a model that never saw it.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from phoebe_training.runs import Run

_TIME_GROUPS = 5
_TEMPLATE_FOLDS = 5

Place = tuple[int, int]
"""Of a row: the index of its run, and its stage id."""
Fold = tuple[NDArray[np.intp], NDArray[np.intp]]
"""Indices of the rows to learn from, and of those to estimate."""


def time_groups(runs: Sequence[Run]) -> list[int]:
    """Consecutive groups of applications, at most five, by run index."""
    apps = list(dict.fromkeys(run.app for run in runs))
    groups = min(_TIME_GROUPS, len(apps))
    of_app = {app: i * groups // len(apps) for i, app in enumerate(apps)}
    return [of_app[run.app] for run in runs]


def time_folds(runs: Sequence[Run], where: Sequence[Place], group: Sequence[int]) -> list[Fold]:
    """Each group that has rows, against what had ended in those before it when it began."""
    at = np.asarray(group)
    began = np.asarray([runs[r].app_started_at.timestamp() for r, _ in where])
    ended = np.asarray([runs[r].ended_at.timestamp() for r, _ in where])
    folds = []
    for this in sorted(set(group)):
        test = np.flatnonzero(at == this)
        folds.append((np.flatnonzero((at < this) & (ended <= began[test].min())), test))
    return folds


def template_folds(runs: Sequence[Run], where: Sequence[Place]) -> list[Fold]:
    """By the template of the whole execution: its stages resemble each other."""
    at = np.asarray(
        [zlib.crc32(runs[r].query.template.encode()) % _TEMPLATE_FOLDS for r, _ in where]
    )
    return [(np.flatnonzero(at != g), np.flatnonzero(at == g)) for g in sorted(set(at.tolist()))]
