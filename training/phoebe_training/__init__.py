"""Offline training of Phoebe's predictors: ``train(home) -> TrainSummary``.

Importing this package imports no LightGBM, MLflow or Spark, and starts nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from phoebe_training.errors import NotEnoughData, TrainingError

if TYPE_CHECKING:
    from phoebe_training.pipeline import TrainSummary, train

__all__ = ["NotEnoughData", "TrainSummary", "TrainingError", "train"]


def __getattr__(name: str) -> Any:
    if name in ("TrainSummary", "train"):
        from phoebe_training import pipeline

        return getattr(pipeline, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
