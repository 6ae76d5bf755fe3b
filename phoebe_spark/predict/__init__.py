"""Predictions of a query's stages before it runs, from the promoted model bundle.

Importing this package imports neither LightGBM nor numpy; `load_predictor` does.
"""

from phoebe_spark.errors import BundleDamaged, BundleError, BundleFormat, BundleMissing
from phoebe_spark.predict.predictor import Prediction, Predictor, load_predictor
from phoebe_spark.predict.query import Query

__all__ = [
    "BundleDamaged",
    "BundleError",
    "BundleFormat",
    "BundleMissing",
    "Prediction",
    "Predictor",
    "Query",
    "load_predictor",
]
