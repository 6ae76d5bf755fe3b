"""``phoebe ingest``: event logs and spool files into the tables."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from phoebe_spark.cli.output import (
    DEFAULT_HOME,
    WRONG,
    Home,
    Json,
    console,
    expand,
    print_json,
    print_rows,
    say_error,
)


def ingest(
    paths: Annotated[
        list[Path],
        typer.Argument(
            help="Spark event logs (plain, zstd, lz4; single files or rolling directories), spool "
            "files, or directories that hold them.",
            exists=True,
        ),
    ],
    home: Home = DEFAULT_HOME,
    json: Json = False,
) -> None:
    """Read Spark event logs and spooled events into the tables under HOME.

    An application that is already there, as complete, is skipped: repeating the command is safe.
    """
    from phoebe_spark.ingest import IngestProgress
    from phoebe_spark.ingest import ingest as run

    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        console=console(),
        disable=json,
        transient=True,
    ) as bar:
        task = bar.add_task("files", total=None)

        def progress(at: IngestProgress) -> None:
            name = f"{Path(at.path).name}, {at.events} events"
            bar.update(task, completed=at.file - 1, total=at.files, description=name)

        summary = run(paths, expand(home), progress)
    row = asdict(summary)
    errors = row["errors"]
    if json:
        print_json(row)
    else:
        counts = {k: v for k, v in row.items() if k != "errors"}
        print_rows([counts], {k: k.replace("_", " ") for k in counts})
        for error in errors:
            say_error(f"{error['path']}: {error['reason']}")
    if errors:
        raise typer.Exit(WRONG)
