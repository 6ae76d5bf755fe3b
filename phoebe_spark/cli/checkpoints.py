"""``phoebe checkpoints``: what is in the checkpoint store, whether it is whole, and what may go."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from phoebe_spark.checkpoints.catalogue import Checkpoint, collect, look
from phoebe_spark.cli.output import (
    DEFAULT_HOME,
    WRONG,
    Home,
    Json,
    expand,
    print_json,
    say_error,
)
from phoebe_spark.views.text import human_bytes, print_rows

app = typer.Typer(help="What is in the checkpoint store.", no_args_is_help=True)
Directory = Annotated[
    str | None,
    typer.Option(
        "--checkpoint-dir",
        help="spark.phoebe.checkpoint.dir, a path or URI. Default: HOME/checkpoints",
    ),
]

COLUMNS = {
    "written": "written (UTC)",
    "age": "not used for",
    "state": "state",
    "user": "owner",
    "app_name": "application",
    "size": "size",
    "hits": "hits",
    "saved": "saved",
    "fingerprint": "fingerprint",
    "problem": "problem",
}


@app.callback()
def _group() -> None:
    """What is in the checkpoint store."""


@app.command("list")
def list_(home: Home = DEFAULT_HOME, checkpoint_dir: Directory = None, json: Json = False) -> None:
    """List the checkpoints of a store, newest first: age, size, owner, use and seconds saved."""
    store = _store(home, checkpoint_dir)
    _print(look(store), json, store, COLUMNS)


@app.command("show")
def show(
    fingerprint: Annotated[str, typer.Argument(help="The beginning of a fingerprint or attempt.")],
    home: Home = DEFAULT_HOME,
    checkpoint_dir: Directory = None,
    json: Json = False,
) -> None:
    """Show all that is known of the checkpoints of one fingerprint."""
    found = [
        c
        for c in look(_store(home, checkpoint_dir))
        if c.fingerprint.startswith(fingerprint) or c.attempt.startswith(fingerprint)
    ]
    if not found:
        say_error(f"no checkpoint begins with {fingerprint}")
        raise typer.Exit(WRONG)
    if json:
        print_json([_row(checkpoint) for checkpoint in found])
        return
    for checkpoint in found:
        values = {**_row(checkpoint), **_words(checkpoint)}
        rows = [{"what": k, "value": v} for k, v in values.items() if v is not None]
        print_rows(rows, {"what": "", "value": ""}, title=checkpoint.path)


@app.command("verify")
def verify(home: Home = DEFAULT_HOME, checkpoint_dir: Directory = None, json: Json = False) -> None:
    """Read every byte of every checkpoint (a restore mostly looks at lengths and footers, and
    verifies the rows as it reads them). Exit code 1 if one is damaged or cannot be read."""
    store = _store(home, checkpoint_dir)
    found = look(store, verify=True)
    _print(found, json, store, COLUMNS)
    if any(checkpoint.state in ("damaged", "unreadable") for checkpoint in found):
        raise typer.Exit(WRONG)


@app.command("gc")
def gc(
    home: Home = DEFAULT_HOME,
    checkpoint_dir: Directory = None,
    max_age_hours: Annotated[
        int | None,
        typer.Option(help="Default: spark.phoebe.checkpoint.max_age_hours of spark-defaults.conf"),
    ] = None,
    max_store_bytes: Annotated[
        int | None,
        typer.Option(
            help="Default: spark.phoebe.checkpoint.max_store_bytes of spark-defaults.conf"
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    json: Json = False,
) -> None:
    """Remove what was left behind, is damaged, was not used for long, or does not fit.

    What a running application reads or writes stays. Drivers do the same by themselves, once an
    hour.
    """
    store = _store(home, checkpoint_dir)
    found = collect(
        store, max_age_hours=max_age_hours, max_store_bytes=max_store_bytes, dry_run=dry_run
    )
    columns = {key: heading for key, heading in COLUMNS.items() if key != "problem"}
    verdict = "would be removed" if dry_run else "removed"
    _print(found, json, store, {"verdict": "verdict", "reason": "reason"} | columns, verdict)
    gone = [checkpoint for checkpoint in found if checkpoint.remove]
    if not json:
        size = human_bytes(sum(checkpoint.stored_bytes for checkpoint in gone))
        typer.echo(f"{len(gone)} of {len(found)} {verdict}, {size}")


def _store(home: str, checkpoint_dir: str | None) -> str:
    return expand(checkpoint_dir or f"{expand(home).rstrip('/')}/checkpoints")


def _print(
    found: Iterable[Checkpoint],
    json: bool,
    store: str,
    columns: dict[str, str],
    removed: str = "",
) -> None:
    if json:
        print_json([_row(checkpoint) for checkpoint in found])
        return
    rows = [{**_row(checkpoint), **_words(checkpoint)} for checkpoint in found]
    for row in rows:
        row["verdict"] = removed if row["remove"] else "kept"
    print_rows(rows, columns, title=store)


def _row(checkpoint: Checkpoint) -> dict[str, Any]:
    return {**asdict(checkpoint), "saved_s": checkpoint.saved_s}


def _words(checkpoint: Checkpoint) -> dict[str, str | None]:
    """Figures as people read them."""
    saved = checkpoint.saved_s
    return {
        "written": checkpoint.written_at.strftime("%Y-%m-%d %H:%M:%S"),
        "age": _duration(checkpoint.age_s(datetime.now(UTC))),
        "size": human_bytes(checkpoint.stored_bytes),
        "saved": None if saved is None else _duration(saved),
    }


def _duration(seconds: float) -> str:
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
