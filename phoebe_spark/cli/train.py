"""``phoebe train``: the training job, run here and now."""

from __future__ import annotations

from dataclasses import asdict
from importlib.util import find_spec
from typing import Annotated

import typer

from phoebe_spark.cli.output import (
    DEFAULT_HOME,
    FAILED,
    WRONG,
    Home,
    Json,
    expand,
    print_json,
    say_error,
)

NEEDED = ("phoebe_training", "lightgbm", "mlflow", "matplotlib", "pandas")


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
    force: Annotated[
        bool, typer.Option("--force", help="Train without new runs, promote whatever comes out.")
    ] = False,
    json: Json = False,
) -> None:
    """Fit the predictors on the tables under HOME, log them in MLflow, promote what is better.

    Exit code 1: there are not enough runs yet. Through Spark: conf/scheduled-training.sh.
    """
    # Looked for, not imported: a fit takes minutes, and what records it is imported after that.
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        say_error(f"training needs {', '.join(missing)}: pip install 'phoebe-spark[train]'")
        raise typer.Exit(FAILED)
    from phoebe_training import TrainingError
    from phoebe_training import train as run
    from phoebe_training.__main__ import describe

    try:
        summary = run(expand(home), tracking_uri, force=force)
    except TrainingError as error:
        say_error(str(error))
        raise typer.Exit(WRONG) from None
    if json:
        print_json(asdict(summary))
    else:
        typer.echo(describe(summary))
