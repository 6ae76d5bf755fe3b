"""``phoebe tables``: upkeep of the Delta tables, by Delta's own operations."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from phoebe_spark.cli.output import DEFAULT_HOME, Home, Json, expand, print_json
from phoebe_spark.tables.deltalake import Tables
from phoebe_spark.tables.rows import RECORDS
from phoebe_spark.views.text import print_rows

app = typer.Typer(help="Upkeep of the tables.", no_args_is_help=True)

OPTIMIZED = {
    "table": "table",
    "files_removed": "small files",
    "files_added": "rewritten as",
}


@app.callback()
def _group() -> None:
    """Upkeep of the tables."""


@app.command("optimize")
def optimize(home: Home = DEFAULT_HOME, json: Json = False) -> None:
    """Rewrite small files as few large ones. Running companions may go on writing."""
    tables = Tables(expand(home))
    rows = [asdict(tables.optimize(name)) for name in RECORDS if tables.exists(name)]
    if json:
        print_json(rows)
    else:
        print_rows(rows, OPTIMIZED, title=tables.home)


@app.command("vacuum")
def vacuum(
    home: Home = DEFAULT_HOME,
    retention_hours: Annotated[
        int,
        typer.Option(
            "--retention-hours",
            min=0,
            help="Keep what younger versions refer to. Under 168 only when nothing reads.",
        ),
    ] = 168,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say how many files would be deleted.")
    ] = False,
    json: Json = False,
) -> None:
    """Delete files that no recent version of a table refers to."""
    tables = Tables(expand(home))
    rows = [
        {
            "table": name,
            "files": len(tables.vacuum(name, retention_hours=retention_hours, dry_run=dry_run)),
        }
        for name in RECORDS
        if tables.exists(name)
    ]
    if json:
        print_json(rows)
    else:
        columns = {"table": "table", "files": "would be deleted" if dry_run else "deleted"}
        print_rows(rows, columns, title=tables.home)
