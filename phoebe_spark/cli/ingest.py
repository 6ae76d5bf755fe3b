"""``phoebe ingest``: event logs and spool files into the tables."""

from __future__ import annotations

import re
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from phoebe_spark.cli.output import (
    DEFAULT_HOME,
    WRONG,
    Home,
    Json,
    expand,
    print_json,
    say_error,
)
from phoebe_spark.tables.storage_options import Writer
from phoebe_spark.views.text import console, print_rows

_AGO = re.compile(r"(\d+)([dh])")


def parse_since(text: str) -> datetime:
    """``2026-01-31``, ``2026-01-31T06:00`` (local time without a zone), ``7d`` or ``12h``."""
    if found := _AGO.fullmatch(text.strip()):
        hours = int(found.group(1)) * (24 if found.group(2) == "d" else 1)
        return datetime.now(UTC) - timedelta(hours=hours)
    try:
        return datetime.fromisoformat(text.strip()).astimezone(UTC)
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is neither a date (2026-01-31) nor an age (7d, 12h)"
        ) from None


def ingest(
    paths: Annotated[
        list[str],
        typer.Argument(
            help="Spark event logs (plain, zstd, lz4, snappy, gzip; single files, rolling "
            "directories or Databricks' parts), spool files, or directories that hold them; "
            "paths, or URIs of any store that Spark reaches (s3a://, hdfs://, abfss://...).",
        ),
    ],
    home: Home = DEFAULT_HOME,
    since: Annotated[
        str | None,
        typer.Option(help="Only logs written since then: a date, or an age such as 7d or 12h."),
    ] = None,
    parallel: Annotated[
        int, typer.Option(min=1, max=256, help="Local logs are read by so many processes.")
    ] = 1,
    writer: Annotated[
        Writer,
        typer.Option(
            help="What writes the tables: the deltalake package, or Spark with delta-spark, which "
            "also reaches stores that only Hadoop knows (in one process). auto: deltalake where it "
            "can."
        ),
    ] = "auto",
    json: Json = False,
) -> None:
    """Read Spark event logs and spooled events into the tables under HOME.

    An application that is already there, as complete, is skipped: repeating the command is safe,
    also after it was interrupted.
    """
    from phoebe_spark.ingest.run import ingest as run
    from phoebe_spark.ingest.summary import IngestProgress

    oldest = parse_since(since) if since is not None else None
    given = [path if "://" in path else str(Path(path).expanduser()) for path in paths]
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

        summary = run(given, expand(home), progress, since=oldest, parallel=parallel, writer=writer)
    row = asdict(summary)
    errors, warnings = row["errors"], row["warnings"]
    if json:
        print_json(row)
    else:
        counts = {k: v for k, v in row.items() if k not in ("errors", "warnings")}
        counts["unreadable"] = len(errors)
        print_rows([counts], {k: k.replace("_", " ") for k in counts})
        for said in (*warnings, *errors):
            say_error(f"{said['path']}: {said['reason']}")
    if errors:
        raise typer.Exit(WRONG)
