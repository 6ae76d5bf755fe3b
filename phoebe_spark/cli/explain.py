"""``phoebe explain``: what was decided for an application's boundaries, and why; with ``--diff``,
why fingerprints changed between two runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from phoebe_spark.cli.output import (
    DEFAULT_HOME,
    WRONG,
    Home,
    Json,
    expand,
    print_json,
    say_error,
)
from phoebe_spark.views import explanation, text

if TYPE_CHECKING:
    from phoebe_spark.tables.deltalake import Tables


def explain(
    application: Annotated[
        str | None, typer.Argument(help="Application id. Without one: the applications there are.")
    ] = None,
    execution: Annotated[
        int | None, typer.Option("--execution", "-e", help="Only this SQL execution.")
    ] = None,
    diff: Annotated[
        tuple[str, str] | None,
        typer.Option(
            "--diff", metavar="RUN RUN", help="Why fingerprints changed between two applications."
        ),
    ] = None,
    home: Home = DEFAULT_HOME,
    json: Json = False,
) -> None:
    """Show each shuffle boundary of an application with its decision and the reason for it."""
    from phoebe_spark.tables.deltalake import Tables

    tables = Tables(expand(home))
    if diff is not None:
        _diff(tables, *diff, json=json)
        return
    if application is None:
        applications = explanation.applications(tables)
        if json:
            print_json(applications)
        else:
            text.print_applications(applications, explanation.APPLICATIONS)
        return
    rows = explanation.boundaries(tables, application, execution)
    if not rows:
        known = explanation.knows(tables, application)
        what = "has no boundary that was recorded" if known else f"is not in the tables of {home}"
        say_error(f"{application} {what}")
        raise typer.Exit(WRONG)
    if json:
        print_json(rows)
    else:
        text.print_boundaries(rows, title=application)


def _diff(tables: Tables, one: str, other: str, *, json: bool) -> None:
    from phoebe_spark.views.differences import compare

    rows: list[list[explanation.Row]] = []
    names: dict[str, dict[int, str]] = {}
    for which, application in (("one", one), ("other", other)):
        found, names[which] = explanation.fingerprints(tables, application)
        rows.append(found)
        if not any(row.get("parts") for row in found):
            say_error(
                f"{application} has no fingerprints in these tables: they are taken in the modes"
                " advise and apply, of queries that are expected to be long or may be restored"
            )
            raise typer.Exit(WRONG)
    comparison = compare(rows[0], rows[1], names)
    if json:
        print_json(comparison)
    else:
        text.print_comparison(comparison, one, other)
