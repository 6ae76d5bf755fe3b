"""How commands talk to programs, and their common options: JSON, exit codes, errors."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from rich.console import Console
from rich.markup import escape

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


def say_error(message: str) -> None:
    Console(stderr=True, soft_wrap=True).print(f"[red]error:[/red] {escape(message)}")
