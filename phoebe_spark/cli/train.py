"""``phoebe train``: the training job, run here and now."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from phoebe_spark.cli.output import (
    DEFAULT_HOME,
    FAILED,
    Home,
    Json,
    expand,
    print_json,
    print_rows,
    say_error,
)


def train(
    home: Home = DEFAULT_HOME,
    tracking_uri: Annotated[
        str | None,
        typer.Option(
            "--tracking-uri",
            envvar="MLFLOW_TRACKING_URI",
            help="MLflow server. Default: sqlite:///HOME/mlflow.db",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Fit the predictors on the tables under HOME, log them in MLflow, promote what is better."""
    try:
        from phoebe_training import train as run
    except ImportError as error:
        say_error(f"training needs more packages ({error}): pip install 'phoebe-spark[train]'")
        raise typer.Exit(FAILED) from None
    summary = asdict(run(expand(home), tracking_uri=tracking_uri))
    if json:
        print_json(summary)
        return
    print_rows(
        [{"what": k.replace("_", " "), "value": v} for k, v in summary.items()],
        {"what": "", "value": ""},
    )
