"""Makes a case that fails smaller, as long as it fails in the same way.

A look at a case costs applications, but many cases can share them: each round tries a dozen smaller
cases in one batch and goes on with the smallest that still fails.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any

from tests.exactness import sql
from tests.exactness.cases import Batch, Case, Change, File, Mishap, Run, Table, size

PER_ROUND = 12


def smaller(case: Case) -> Iterator[Case]:
    """Cases with something less, the boldest first. Not all of them mean anything to Spark."""
    replace = dataclasses.replace
    if case.change != Change():
        yield replace(case, change=Change())
        if case.change.moment != "between":
            yield replace(case, change=replace(case.change, moment="between", back=False))
        if case.change.back:
            yield replace(case, change=replace(case.change, back=False))
    if case.mishap != Mishap():
        yield replace(case, mishap=Mishap())
    if case.second != case.first:
        yield replace(case, second=replace(case.first, force=case.second.force))
        yield replace(case, first=replace(case.second, force=case.first.force))
    for run in (_simple_run(case.first, case.second), (case.first, case.second)):
        if run != (case.first, case.second):
            yield replace(case, first=run[0], second=run[1])
    yield from _queries(case)
    yield from _tables(case)
    for name in ("settings", "maker"):
        keys = {**getattr(case.first, name), **getattr(case.second, name)}
        for key in keys:
            yield replace(
                case, first=_without(case.first, name, key), second=_without(case.second, name, key)
            )
            if getattr(case.first, name).get(key) != getattr(case.second, name).get(key):
                yield replace(case, second=_without(case.second, name, key))
                yield replace(case, first=_without(case.first, name, key))
    for change in ({"post": ""}, {"action": "collect"}, {"force": "all"}, {"force": "none"}):
        if "force" not in change or change["force"] == "all":
            first = replace(case.first, **change)
            if first != case.first:
                yield replace(case, first=first)
        if change.get("force") != "all":
            second = replace(case.second, **change)
            if second != case.second:
                yield replace(case, second=second)


def _simple_run(first: Run, second: Run) -> tuple[Run, Run]:
    bare: dict[str, Any] = {"settings": {}, "maker": {}, "action": "collect", "post": ""}
    return dataclasses.replace(first, **bare), dataclasses.replace(second, **bare)


def _without(run: Run, name: str, key: str) -> Run:
    kept = {k: v for k, v in getattr(run, name).items() if k != key}
    changed: dict[str, Any] = {name: kept}
    return dataclasses.replace(run, **changed)


def _queries(case: Case) -> Iterator[Case]:
    first, second = case.first.query, case.second.query
    for path, node in cuts(first):
        one = sql.replaced(first, path, node)
        if first == second:
            two = one
        else:
            try:
                two = sql.replaced(second, path, node)
            except (KeyError, IndexError, TypeError):
                two = second
        yield _with_queries(case, one, two)
    if first != second:
        for path, node in cuts(second):
            yield _with_queries(case, first, sql.replaced(second, path, node))
        for path, node in cuts(first):
            yield _with_queries(case, sql.replaced(first, path, node), second)


def _with_queries(case: Case, first: sql.Rel, second: sql.Rel) -> Case:
    return dataclasses.replace(
        case,
        first=dataclasses.replace(case.first, query=first),
        second=dataclasses.replace(case.second, query=second),
    )


def cuts(query: sql.Rel) -> Iterator[tuple[sql.Path, Any]]:
    """Places of a query, each with something smaller to put there."""
    for path, node in sql.relations(query):
        if node["k"] == "set":
            yield path, node["l"]
            yield path, node["r"]
        elif node["k"] == "with":
            yield path, node["defs"][0][1]
            yield path, _inlined(node)
        elif node["k"] == "select":
            for source in node["from"]:
                yield path, source["rel"]
            if len(node["from"]) > 1:
                yield path, {**node, "from": node["from"][:1]}
            if len(node["items"]) > 1:
                for n in range(len(node["items"])):
                    yield path, {**node, "items": node["items"][:n] + node["items"][n + 1 :]}
            for key in ("hint", "distinct", "sets", "limit"):
                if node.get(key):
                    yield path, {k: v for k, v in node.items() if k != key}
            for key in ("where", "having", "order", "lateral", "group"):
                for n in range(len(node.get(key) or [])):
                    yield path, {**node, key: node[key][:n] + node[key][n + 1 :]}
    for path, node in sql.walk(query):
        if _is_call(path, node):
            for argument in node[1:]:
                if isinstance(argument, str | list):
                    yield path, argument


def _is_call(path: sql.Path, node: Any) -> bool:
    """Whether a list is an expression: not a list of expressions, nor one with its name."""
    return (
        isinstance(node, list)
        and len(node) > 1
        and isinstance(node[0], str)
        and node[0] != "over"
        and isinstance(path[-1], int)
        and path[-2] not in ("items", "defs")
    )


def _inlined(node: sql.Rel) -> sql.Rel:
    """A query without its first common table expression: written out wherever it was read."""
    (name, definition), *rest = node["defs"]
    body = node["body"] if not rest else {**node, "defs": rest}
    for path, inner in list(sql.relations(body)):
        if inner["k"] == "ref" and inner["name"] == name:
            body = sql.replaced(body, path, definition)
    return body


def _tables(case: Case) -> Iterator[Case]:
    used = sql.query(case.first.query) + " " + sql.query(case.second.query)
    for n, table in enumerate(case.tables):
        if (
            f"{table.name} " not in used + " "
            and len(case.tables) > 1
            and case.change.kind == "none"
        ):
            yield _with_table(case, n, None)
        for smaller_table in _less(table, case.change if case.change.table == n else Change()):
            yield _with_table(case, n, smaller_table)


def _less(table: Table, change: Change) -> Iterator[Table]:
    replace = dataclasses.replace
    if len(table.files) > 1 and change.kind == "none":
        for n in range(len(table.files)):
            yield replace(table, files=table.files[:n] + table.files[n + 1 :])
    if table.made_by != "path":
        yield replace(table, made_by="path")
    for key in table.options:
        if key not in ("rowTag",):
            yield replace(table, options={k: v for k, v in table.options.items() if k != key})
    for n, file in enumerate(table.files):
        halves = [file.rows[: len(file.rows) // 2], file.rows[len(file.rows) // 2 :]]
        for rows in halves if len(file.rows) > 1 else []:
            yield _with_file(table, n, replace(file, rows=rows))
        if file.bad:
            yield _with_file(table, n, replace(file, bad=file.bad[1:]))
        for i in range(len(file.rows)):
            if len(file.rows) > 1:
                yield _with_file(table, n, replace(file, rows=file.rows[:i] + file.rows[i + 1 :]))
    if table.format != "text" and change.kind not in ("rewrite", "append"):
        for c in range(1, len(table.columns)):
            if not any(f.bad for f in table.files):
                yield _without_column(table, c)


def _without_column(table: Table, c: int) -> Table:
    name, kind = table.columns[c]
    return dataclasses.replace(
        table,
        columns=table.columns[:c] + table.columns[c + 1 :],
        files=[
            dataclasses.replace(f, rows=[r[:c] + r[c + 1 :] for r in f.rows]) for f in table.files
        ],
        schema=table.schema.replace(f", {name} {kind}", ""),
    )


def _with_file(table: Table, n: int, file: File) -> Table:
    return dataclasses.replace(table, files=[*table.files[:n], file, *table.files[n + 1 :]])


def _with_table(case: Case, n: int, table: Table | None) -> Case:
    tables = [*case.tables[:n], *([table] if table else []), *case.tables[n + 1 :]]
    return dataclasses.replace(case, tables=tables)


def shrunk(
    batch: Batch, fails: Callable[[Batch], list[bool]], seconds: float, per_round: int = PER_ROUND
) -> Batch:
    """A batch of one case, the smallest found that still fails within the time.

    ``fails`` says of each case of a batch whether it fails. ``batch`` has one case, which does.
    """
    deadline = time.monotonic() + seconds
    case = batch.cases[0]
    seen: set[str] = set()
    rest = smaller(case)
    while time.monotonic() < deadline:
        tried: list[Case] = []
        for candidate in rest:
            text = Batch([candidate]).to_json()
            if text not in seen and size(candidate) < size(case):
                seen.add(text)
                tried.append(candidate)
            if len(tried) == per_round:
                break
        if not tried:
            break
        verdicts = fails(dataclasses.replace(batch, cases=tried))
        still = [c for c, failed in zip(tried, verdicts, strict=True) if failed]
        if still:
            case = min(still, key=size)
            rest = smaller(case)
    return dataclasses.replace(batch, cases=[case])
