"""Spark's Python daemon with pandas loaded: its workers are forks of it, and load it no more.

Spark starts it (``spark.python.daemon.module``), once for each application.
"""

from __future__ import annotations

import pandas  # noqa: F401
import pyarrow  # noqa: F401
from pyspark.daemon import manager

if __name__ == "__main__":
    manager()
