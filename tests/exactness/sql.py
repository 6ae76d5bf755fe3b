"""Queries as trees of plain lists and dicts, and their SQL text.

An expression is a string (a column, a literal) or a list ``[operator, *arguments]``. A relation is
a dict with its kind under ``k``: ``scan``, ``ref`` (of a common table expression), ``select``,
``set``, ``with``. Trees of JSON can be stored, cut down and changed without knowing the grammar
they came from.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

Expr = Any  # str | list
Rel = dict[str, Any]
Path = tuple[Any, ...]

INFIX = frozenset(
    ["+", "-", "*", "/", "%", "=", "<=>", "<", "<=", ">", ">=", "<>", "and", "or", "like", "||"]
)


def text(expr: Expr) -> str:
    """The SQL text of an expression."""
    if isinstance(expr, str):
        return expr
    op, *args = expr
    if op in INFIX:
        return "(" + f" {op} ".join(text(a) for a in args) + ")"
    if op == "not":
        return f"(NOT {text(args[0])})"
    if op in ("is null", "is not null"):
        return f"({text(args[0])} {op})"
    if op == "in":
        return f"({text(args[0])} IN ({', '.join(text(a) for a in args[1:])}))"
    if op == "in query":
        return f"({text(args[0])} IN ({query(args[1])}))"
    if op == "not in query":
        return f"({text(args[0])} NOT IN ({query(args[1])}))"
    if op == "exists":
        return f"EXISTS ({query(args[0])})"
    if op == "not exists":
        return f"(NOT EXISTS ({query(args[0])}))"
    if op == "scalar":
        return f"({query(args[0])})"
    if op.startswith("cast "):
        return f"CAST({text(args[0])} AS {op[5:]})"
    if op.startswith("collate "):
        return f"({text(args[0])} COLLATE {op[8:]})"
    if op == "distinct":
        return f"DISTINCT {text(args[0])}"
    if op == "filter":
        return f"{text(args[0])} FILTER (WHERE {text(args[1])})"
    if op == "over":
        function, partition, order, frame = args
        words = []
        if partition:
            words.append("PARTITION BY " + ", ".join(text(p) for p in partition))
        if order:
            words.append("ORDER BY " + ", ".join(text(o) for o in order))
        if frame:
            words.append(frame)
        return f"{text(function)} OVER ({' '.join(words)})"
    return f"{op}({', '.join(text(a) for a in args)})"


def query(rel: Rel) -> str:
    """The SQL text of a relation, as a whole query."""
    kind = rel["k"]
    if kind in ("scan", "ref"):
        return f"SELECT * FROM {rel['name']}"
    if kind == "set":
        return f"({query(rel['l'])}) {rel['op']} ({query(rel['r'])})"
    if kind == "with":
        parts = ", ".join(f"{name} AS ({query(body)})" for name, body in rel["defs"])
        return f"WITH {parts} {query(rel['body'])}"
    words = ["SELECT"]
    if rel.get("hint"):
        words.append(f"/*+ {rel['hint']} */")
    if rel.get("distinct"):
        words.append("DISTINCT")
    words.append(", ".join(f"{text(e)} AS {name}" for e, name in rel["items"]))
    for n, source in enumerate(rel["from"]):
        inner = source["rel"]
        if inner["k"] in ("scan", "ref"):
            body = f"{inner['name']} {source['as']}"
        else:
            body = f"({query(inner)}) {source['as']}"
        if n == 0:
            words.append(f"FROM {body}")
        else:
            words.append(f"{source['join']} JOIN {body}")
            if source.get("on"):
                words.append("ON " + " AND ".join(text(e) for e in source["on"]))
    words.extend(f"LATERAL VIEW {view}" for view in rel.get("lateral", []))
    if rel.get("where"):
        words.append("WHERE " + " AND ".join(text(e) for e in rel["where"]))
    if rel.get("group"):
        grouped = ", ".join(text(e) for e in rel["group"])
        words.append(
            f"GROUP BY {rel['sets']}({grouped})" if rel.get("sets") else f"GROUP BY {grouped}"
        )
    if rel.get("having"):
        words.append("HAVING " + " AND ".join(text(e) for e in rel["having"]))
    if rel.get("order"):
        words.append("ORDER BY " + ", ".join(text(e) for e in rel["order"]))
    if rel.get("limit") is not None:
        words.append(f"LIMIT {rel['limit']}")
    return " ".join(words)


def walk(tree: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Every node of a tree with the way to it, from the top."""
    yield path, tree
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from walk(value, (*path, key))
    elif isinstance(tree, list):
        for n, value in enumerate(tree):
            yield from walk(value, (*path, n))


def replaced(tree: Any, path: Path, value: Any) -> Any:
    """A copy of a tree with another node at ``path``."""
    if not path:
        return copy.deepcopy(value)
    made = copy.deepcopy(tree)
    node = made
    for step in path[:-1]:
        node = node[step]
    node[path[-1]] = copy.deepcopy(value)
    return made


def relations(tree: Any) -> Iterator[tuple[Path, Rel]]:
    """Every relation of a query with the way to it."""
    for path, node in walk(tree):
        if isinstance(node, dict) and "k" in node:
            yield path, node


def size(tree: Any) -> int:
    return sum(1 for _ in walk(tree))
