"""``phoebe doctor``: is this machine ready, and what to do if not."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from phoebe_spark.cli.output import DEFAULT_HOME, WRONG, Home, Json, expand, print_json
from phoebe_spark.doctor import default_python, examine
from phoebe_spark.settings import SETTINGS
from phoebe_spark.views.text import print_rows


def doctor(
    home: Home = DEFAULT_HOME,
    python: Annotated[
        str | None, typer.Option("--python", help="spark.phoebe.python, if that is set.")
    ] = None,
    settings: Annotated[
        bool, typer.Option("--settings", help="List the settings, with defaults, instead.")
    ] = False,
    json: Json = False,
) -> None:
    """Check Java, Spark, Delta, jar, home, companion and models. Exit code 1 if one is in error."""
    if settings:
        rows = [
            {"key": s.key, "default": s.default or s.derived, "accepts": s.accepts, "doc": s.doc}
            for s in SETTINGS
        ]
        if json:
            print_json(rows)
        else:
            print_rows(rows, {"key": "setting", "default": "default", "accepts": "accepts"})
        return
    checks = [asdict(check) for check in examine(expand(home), python or default_python())]
    if json:
        print_json(checks)
    else:
        columns = {"name": "check", "status": "status", "found": "found", "to_do": "what to do"}
        print_rows(checks, columns)
    if any(check["status"] == "error" for check in checks):
        raise typer.Exit(WRONG)
