"""Rows as tables for people, in a terminal or a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from phoebe_spark.views.differences import Comparison

BOUNDARIES = {
    "app_attempt": "attempt",
    "execution_id": "execution",
    "boundary_id": "boundary",
    "stage_id": "stage",
    "decision": "decision",
    "reason": "reason",
    "predicted": "predicted",
    "actual": "actual",
    "events": "checkpoint",
}


def print_boundaries(rows: Sequence[Mapping[str, Any]], *, title: str) -> None:
    """The rows of `phoebe_spark.views.explanation.boundaries`; attempts where there are several."""
    shown = [
        {
            **row,
            "reason": f"{row['reason_message'] or ''} [{row['reason_code']}]",
            "predicted": human_bytes(row["predicted_output_bytes"]),
            "actual": human_bytes(row["output_bytes"]),
            "events": ", ".join(row["checkpoint_events"]),
        }
        for row in rows
    ]
    attempts = {row["app_attempt"] for row in rows}
    columns = {k: v for k, v in BOUNDARIES.items() if k != "app_attempt" or len(attempts) > 1}
    print_rows(shown, columns, title=title)


def print_applications(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    print_rows(rows, {k: k.replace("app_", "") for k in columns}, title="applications")


def print_comparison(found: Comparison, one: str, other: str) -> None:
    """Causes with the boundaries that they changed, and counts of the rest."""
    shown = [
        {
            "why": f"{d.reason.message} [{d.reason.code}]",
            "boundaries": ", ".join(f"{execution}/{b}" for execution, b in d.boundaries),
        }
        for d in found.differences
    ]
    title = f"{one} and {other}: {found.same} fingerprints the same, {found.changed} changed"
    print_rows(shown, {"why": "why", "boundaries": f"boundaries of {other}"}, title=title)
    for count, what in (
        (found.downstream, "changed only by what lies upstream of them"),
        (found.unmatched, f"of {other} have no counterpart in {one}"),
        (found.unknown, "have no fingerprint in either run (refused, or none was needed)"),
    ):
        if count:
            print(f"{count} boundaries {what}")


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
