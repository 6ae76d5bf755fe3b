"""What a head's errors out of fold say about it: how much of its correction counts, and how far off
it is."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)

Floats = NDArray[np.float64]


def best_weight(left: Floats, raw: Floats) -> float:
    """The share of the corrections ``raw`` that leaves the smallest errors (log1p) of ``left``."""
    return min(
        _WEIGHTS,
        key=lambda w: (
            round(float(np.median(np.abs(left - w * raw))), 3),
            float(np.mean(np.abs(left - w * raw))),
        ),
    )


def error_range(left: Floats, raw: Floats, weight: float) -> tuple[float, float]:
    """Where eight of ten errors (log1p) lie."""
    low, high = np.quantile(left - weight * raw, [0.1, 0.9])
    return float(low), float(high)
