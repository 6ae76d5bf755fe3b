"""``phoebe checkpoints``: what is in the checkpoint store."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from phoebe_spark.checkpoints import checkpoints
from phoebe_spark.cli.output import (
    DEFAULT_HOME,
    FAILED,
    Home,
    Json,
    expand,
    human_bytes,
    print_json,
    print_rows,
    say_error,
)

app = typer.Typer(help="What is in the checkpoint store.", no_args_is_help=True)

COLUMNS = {
    "created_at": "created (UTC)",
    "state": "state",
    "app_id": "application",
    "app_name": "name",
    "execution_id": "execution",
    "size": "size",
    "rows": "rows",
    "num_partitions": "partitions",
    "fingerprint": "fingerprint",
    "problem": "problem",
}


@app.callback()
def _group() -> None:
    """What is in the checkpoint store."""


@app.command("list")
def list_(
    home: Home = DEFAULT_HOME,
    checkpoint_dir: Annotated[
        str | None,
        typer.Option(
            "--checkpoint-dir", help="spark.phoebe.checkpoint.dir. Default: HOME/checkpoints"
        ),
    ] = None,
    json: Json = False,
) -> None:
    """List the checkpoints of a store on a local (or mounted) disk, newest first."""
    store = expand(checkpoint_dir or f"{expand(home).rstrip('/')}/checkpoints")
    if "://" in store:
        say_error(f"{store} is not on a local disk: mount it, or look with its own tools")
        raise typer.Exit(FAILED)
    rows = [asdict(checkpoint) for checkpoint in checkpoints(Path(store))]
    rows.sort(key=lambda row: str(row["created_at"] or ""), reverse=True)
    if json:
        print_json(rows)
        return
    for row in rows:
        row["size"] = human_bytes(row["bytes"])
        created = row["created_at"]
        row["created_at"] = created and created.strftime("%Y-%m-%d %H:%M:%S")
    print_rows(rows, COLUMNS, title=store)
