"""How commands talk: tables for people, JSON for programs, errors on standard error."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

WRONG = 1
"""Exit code: done, and what was looked for is wrong or missing."""
FAILED = 3
"""Exit code: the command itself failed."""

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Home = Annotated[
    str,
    typer.Option(
        "--home",
        envvar="PHOEBE_HOME",
        help="spark.phoebe.home of the observed jobs: a directory, or a URI (not for train).",
    ),
]
DEFAULT_HOME = "~/.phoebe"


def expand(home: str) -> str:
    """``home`` with ``~`` expanded and ``file:`` removed; other URIs stay as they are."""
    if home.startswith("file:"):
        home = "/" + home.removeprefix("file:").lstrip("/")
    return home if "://" in home else str(Path(os.path.expanduser(home)).absolute())


def print_json(value: Any) -> None:
    text = orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS, default=str)
    typer.echo(text.decode())


def print_rows(
    rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str], *, title: str = ""
) -> None:
    """A table with one row for each mapping; ``columns`` maps keys to headings."""
    table = Table(title=title or None, title_justify="left")
    numeric = {
        key
        for key in columns
        if rows and all(isinstance(r.get(key), int | float | type(None)) for r in rows)
    }
    for key, heading in columns.items():
        table.add_column(heading, justify="right" if key in numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_cell(row.get(key)) for key in columns))
    console().print(table)


def console() -> Console:
    """Standard output; wide enough for whole rows when it is a pipe or a file."""
    found = Console()
    return found if found.is_terminal else Console(width=200)


def say_error(message: str) -> None:
    Console(stderr=True, soft_wrap=True).print(f"[red]error:[/red] {escape(message)}")


def human_bytes(count: float | None) -> str:
    """``1536`` as ``1.5 KiB``."""
    if count is None:
        return ""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(size) < 1024 or unit == "TiB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    raise AssertionError("unreachable")


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return escape(f"{value:g}" if isinstance(value, float) else str(value))
