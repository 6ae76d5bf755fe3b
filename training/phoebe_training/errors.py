"""What stops a training: `TrainingError`, with one line that says what to do."""

from __future__ import annotations

from phoebe_spark.errors import PhoebeError


class TrainingError(PhoebeError):
    """Nothing was trained; the promoted models stay as they are."""


class NotEnoughData(TrainingError):  # noqa: N818 - named for what is the matter
    """The tables hold too few complete runs."""
