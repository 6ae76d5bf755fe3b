"""``phoebe explain``: what was decided for an application's boundaries, and why; with ``--diff``,
why fingerprints changed between two runs."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

import orjson
import typer

from phoebe_spark.cli.output import (
    DEFAULT_HOME,
    WRONG,
    Home,
    Json,
    expand,
    human_bytes,
    print_json,
    print_rows,
    say_error,
)

COLUMNS = {
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
        _applications(tables, json=json)
        return
    rows = explanation(tables, application, execution)
    if not rows:
        known = _read(tables, "applications", application)
        what = "has no boundary that was recorded" if known else f"is not in the tables of {home}"
        say_error(f"{application} {what}")
        raise typer.Exit(WRONG)
    if json:
        print_json(rows)
        return
    for row in rows:
        row["reason"] = f"{row['reason_message'] or ''} [{row['reason_code']}]"
        row["predicted"] = human_bytes(row["predicted_output_bytes"])
        row["actual"] = human_bytes(row["output_bytes"])
        row["events"] = ", ".join(row["checkpoint_events"])
    attempts = {row["app_attempt"] for row in rows}
    shown = {k: v for k, v in COLUMNS.items() if k != "app_attempt" or len(attempts) > 1}
    print_rows(rows, shown, title=application)


def _diff(tables: Any, one: str, other: str, *, json: bool) -> None:
    from phoebe_spark.checkpoints.differences import compare

    rows: list[list[dict[str, Any]]] = []
    names: dict[str, dict[int, str]] = {}
    for which, application in (("one", one), ("other", other)):
        rows.append(_last_attempt(_read(tables, "boundaries", application)))
        names[which] = {
            row["execution_id"]: str(row["description"] or "")
            for row in _last_attempt(_read(tables, "executions", application))
        }
        if not any(row.get("parts") for row in rows[-1]):
            say_error(
                f"{application} has no fingerprints in these tables: they are taken in the modes"
                " advise and apply, of queries that are expected to be long or may be restored"
            )
            raise typer.Exit(WRONG)
    found = compare(rows[0], rows[1], names)
    if json:
        print_json(found)
        return
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
            typer.echo(f"{count} boundaries {what}")


def _last_attempt(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of an application that was attempted more than once, its last attempt."""
    last = max(
        (row["app_attempt"] or "" for row in rows), key=lambda a: (len(a), a), default=""
    )  # fmt: skip
    return [row for row in rows if (row["app_attempt"] or "") == last]


def explanation(tables: Any, application: str, execution: int | None) -> list[dict[str, Any]]:
    """The boundaries of an application in order, with what their stages and checkpoints became."""
    stages = {
        (row["app_attempt"], row["stage_id"]): row
        for row in _read(tables, "stages", application)
        if row.get("status") == "succeeded"
    }
    happened: dict[tuple[Any, ...], list[str]] = {}
    for row in sorted(_read(tables, "checkpoints", application), key=lambda r: r["at"]):
        happened.setdefault(tuple(row[k] for k in CHECKPOINT_KEYS), []).append(row["event"])
    found = []
    for row in _read(tables, "boundaries", application):
        if execution is not None and row["execution_id"] != execution:
            continue
        stage = stages.get((row["app_attempt"], row["stage_id"]), {})
        found.append(
            {
                **{k: row[k] for k in BOUNDARY_KEYS},
                "reason_args": orjson.loads(row["reason_args"]) if row["reason_args"] else {},
                "output_bytes": stage.get("shuffle_write_bytes"),
                "task_time_ms": stage.get("task_time_ms"),
                "checkpoint_events": happened.get(tuple(row[k] for k in CHECKPOINT_KEYS), []),
            }
        )
    return sorted(
        found, key=lambda r: (r["app_attempt"], r["execution_id"], _rank(r["boundary_id"]))
    )


CHECKPOINT_KEYS = ("app_attempt", "execution_id", "fingerprint")

BOUNDARY_KEYS = (
    "app_attempt",
    "execution_id",
    "boundary_id",
    "stage_id",
    "template",
    "fingerprint",
    "partitions",
    "decision",
    "reason_code",
    "reason_message",
    "predicted_output_bytes",
    "predicted_task_time_ms",
    "predicted_ttl_ms",
    "model_version",
)


def _applications(tables: Any, *, json: bool) -> None:
    rows = sorted(_read(tables, "applications"), key=lambda r: str(r["started_at"]))
    columns = ("app_id", "app_attempt", "app_name", "mode", "started_at", "status", "complete")
    shown = [{**{k: row[k] for k in columns}, "status": _status(row)} for row in rows]
    if json:
        print_json(shown)
    else:
        print_rows(shown, {k: k.replace("app_", "") for k in columns}, title="applications")


def _status(row: dict[str, Any]) -> str:
    """A driver that died with its companion never wrote an end: its lease has expired."""
    lease = row["lease_until"]
    expired = row["status"] == "running" and lease is not None and lease < datetime.now(UTC)
    return "aborted" if expired else str(row["status"])


def _read(tables: Any, table: str, application: str | None = None) -> list[dict[str, Any]]:
    if not tables.exists(table):
        return []
    filters = None if application is None else [("app_id", "=", application)]
    rows: list[dict[str, Any]] = tables.read(table, filters=filters).to_pylist()
    return rows


def _rank(boundary_id: str) -> tuple[int, str]:
    digits = boundary_id.lstrip("e")
    return (int(digits) if digits.isdigit() else 1 << 30, boundary_id)
