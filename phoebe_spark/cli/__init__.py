"""The command line ``phoebe``: one module for each command or group of commands.

Exit codes: 0 done; 1 done, and what was looked for is wrong or missing (``doctor`` found an
error, ``explain`` found no such application, ``ingest`` could not read a file); 2 wrong usage; 3
it failed.
"""

from __future__ import annotations

import sys

import typer

import phoebe_spark
from phoebe_spark.cli import checkpoints, doctor, explain, ingest, jar, tables, train
from phoebe_spark.cli.output import FAILED, say_error
from phoebe_spark.errors import PhoebeError

app = typer.Typer(
    name="phoebe",
    help="A learned checkpoint optimizer for Apache Spark.",
    epilog="Exit codes: 0 done, 1 something is wrong or missing, 2 wrong usage, 3 it failed.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("jar")(jar.jar)
app.command("doctor")(doctor.doctor)
app.command("ingest")(ingest.ingest)
app.command("train")(train.train)
app.command("explain")(explain.explain)
app.add_typer(checkpoints.app, name="checkpoints")
app.add_typer(tables.app, name="tables")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(phoebe_spark.__version__)
        raise typer.Exit


@app.callback()
def _main(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Show the version and exit."
    ),
) -> None:
    """A learned checkpoint optimizer for Apache Spark."""


def main() -> None:
    """The console script."""
    try:
        app()
    except Exception as error:
        if not _is_foreseen(error):
            raise
        say_error(" ".join(str(error).split()))
        sys.exit(FAILED)


def _is_foreseen(error: Exception) -> bool:
    """Whether the message alone says what is wrong. By name: neither package is imported for it."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return (
        isinstance(error, PhoebeError | OSError | ValueError)
        or bool(names & {"DeltaError", "MlflowException"})
        or "sqlite3.Error" in {f"{kind.__module__}.{kind.__name__}" for kind in type(error).__mro__}
    )
