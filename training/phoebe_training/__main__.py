"""``python -m phoebe_training --home DIR``: train once, print a summary, exit.

With ``--spark`` the tables are read through delta-spark; ``conf/scheduled-training.sh`` submits it
so. Exit codes: 0 trained (promoted or not), 2 not enough data, 1 anything else.
"""

from __future__ import annotations

import argparse
import sqlite3
import sys
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING

import orjson

from phoebe_spark.errors import BundleError, ForeignFileError
from phoebe_training.errors import TrainingError
from phoebe_training.pipeline import TrainSummary, train

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyspark.sql import SparkSession


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="phoebe_training", description="Train the predictors.")
    parser.add_argument("--home", default="~/.phoebe", help="Phoebe's home (default: %(default)s)")
    parser.add_argument(
        "--tracking-uri", help="MLflow's tracking URI (default: SQLite under the home)"
    )
    parser.add_argument("--spark", action="store_true", help="read the tables through delta-spark")
    parser.add_argument("--force", action="store_true", help="promote whatever comes out")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    options = parser.parse_args(arguments)
    try:
        with _session(options.spark) as session:
            summary = train(options.home, options.tracking_uri, session, force=options.force)
    except TrainingError as error:
        print(error, file=sys.stderr)
        return 2
    except (BundleError, ForeignFileError, sqlite3.Error) as error:
        print(error, file=sys.stderr)
        return 1
    if options.json:
        print(orjson.dumps(asdict(summary), default=str).decode())
    else:
        print(describe(summary))
    return 0


def describe(summary: TrainSummary) -> str:
    """The summary in a few lines."""
    lines = [
        f"{summary.runs} runs, {summary.stages} stages, {summary.new_runs} new runs: "
        f"{summary.reason.message}"
    ]
    for group, metrics in summary.metrics.items():
        for name, value in metrics.items():
            if name.endswith("_median_q") and "seen" not in name:
                lines.append(
                    f"  {group:12} {name.removesuffix('_median_q'):10} q-error {value:.2f}"
                )
    if summary.bundle:
        lines.append(f"promoted {summary.version}: {summary.bundle}")
    return "\n".join(lines)


@contextmanager
def _session(wanted: bool) -> Iterator[SparkSession | None]:
    """A Spark session with Delta; the one that spark-submit set up, or a local one."""
    if not wanted:
        yield None
        return
    from delta import configure_spark_with_delta_pip
    from pyspark.sql import SparkSession

    builder = (
        SparkSession.builder.appName("phoebe-training")
        .config("spark.sql.extensions", "io.delta.sql.DeltaSparkSessionExtension")
        .config(
            "spark.sql.catalog.spark_catalog", "org.apache.spark.sql.delta.catalog.DeltaCatalog"
        )
        .config("spark.phoebe.mode", "off")  # training is not what we plan for
    )
    if SparkSession.getActiveSession() is None:
        builder = configure_spark_with_delta_pip(builder)
    session = builder.getOrCreate()
    try:
        yield session
    finally:
        session.stop()


if __name__ == "__main__":
    raise SystemExit(main())
