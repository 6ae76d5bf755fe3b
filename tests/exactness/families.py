"""Families of cases: each brings together what a kind of fault needs, and leaves the rest open.

Which formats, settings, keys, nulls, other tables, queries and actions there are is drawn as in any
other case; a family says only what two applications do to one another. Most cases are of a
family, whatever is looked for.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tests.exactness import sql
from tests.exactness.cases import Case, Mishap, Run, Table
from tests.exactness.generate import (
    ACTIONS,
    FORMATS,
    MAKER,
    Wish,
    changed,
    drawn_settings,
    session,
    table,
)
from tests.exactness.queries import KEYS, Column, Grammar, Pick, mutated
from tests.exactness.sql import Rel
from tests.exactness.worker import CLEANUP

Tables = tuple[list[Table], dict[str, list[Column]]]

_FILES = "spark.sql.files."
# How files are spread over tasks: as they are, each for itself, all in one, split within.
SPLITS: tuple[dict[str, str], ...] = (
    {},
    {_FILES + "openCostInBytes": "128MB"},
    {_FILES + "openCostInBytes": "0", _FILES + "minPartitionNum": "1"},
    {_FILES + "openCostInBytes": "0", _FILES + "minPartitionNum": "1"},
    {_FILES + "openCostInBytes": "0", _FILES + "maxPartitionBytes": "16"},
    {_FILES + "openCostInBytes": "0", _FILES + "maxPartitionBytes": "48"},
)
_TOGETHER = SPLITS[2]
_WITHIN = SPLITS[4:]
_TEXT = ("csv", "csv", "csv", "json", "xml")
_WITH_COLUMNS = tuple(form for form in FORMATS if form != "text")
_DOUBLES: tuple[Any, ...] = (0.0, -0.0, 0.0, -0.0, 1.5, float("nan"))
# Sums of them differ in most groupings; a much larger one would hide all others.
_WILD: tuple[Any, ...] = (0.1, 1 / 3, 0.7, 1e3 / 7, -1e3 / 3, 1e2 / 9, -0.9)


def _tables(pick: Pick, delta: bool, *wishes: Wish) -> Tables:
    drawn = [table(pick, f"t{n}", delta, wish) for n, wish in enumerate(wishes)]
    return [t for t, _ in drawn], {t.name: columns for t, columns in drawn}


def _run(pick: Pick, query: Rel, **more: Any) -> Run:
    """One run; settings, action and the maker's settings are drawn unless they are given."""
    action = pick.one(ACTIONS) if pick.chance(35) else "collect"
    made = Run(query, session(pick, 1), drawn_settings(pick, MAKER, 1), action)
    given = more.pop("settings", {})
    return dataclasses.replace(made, settings={**made.settings, **given}, **more)


def _again(pick: Pick, first: Run, **more: Any) -> Run:
    """The second application's: the same, perhaps fetched in another way."""
    action = first.action if pick.chance(70) else pick.one(ACTIONS)
    force = "all" if pick.chance(30) else "none"
    return dataclasses.replace(first, **{"action": action, "force": force, **more})


def _two_splits(
    pick: Pick, ways: Sequence[dict[str, str]] = SPLITS
) -> tuple[dict[str, str], dict[str, str]]:
    """Most ways put each small file into a task of its own: one of the two has all in one task."""
    other = pick.one([s for s in ways if s != _TOGETHER])
    return (_TOGETHER, other) if pick.chance(50) else (other, _TOGETHER)


def _cased(tables: list[Table], first: Run, second: Run, **more: Any) -> Case:
    asked = sql.query(first.query) + sql.query(second.query)
    return Case([t for t in tables if t.name in asked], first, second, **more)


def _shapes(pick: Pick, grammar: Grammar, *ways: str) -> Rel:
    rel: Rel = getattr(grammar, pick.one(ways))(1)[0]
    return rel


def asked_for_other_columns(pick: Pick, delta: bool) -> Case:
    """Two readers that want different columns of one source of text, or of Avro by place."""
    kinds = tuple(
        pick.one(["int", "int", "double", "date", "bigint", "timestamp", "boolean"])
        for _ in range(pick.integer(2, 4))
    )
    modes = (*["DROPMALFORMED"] * 4, "PERMISSIVE")
    wish = Wish(forms=_TEXT, columns=kinds, bad=100, modes=modes, wild=20)
    if pick.chance(30):
        # Another column's values fit only where their types are the same.
        wish = Wish(forms=("avro",), columns=("int",) * len(kinds), wild=0)
    tables, seen = _tables(pick, delta, wish)
    ways = ("grouped", "grouped", "grouped", "windowed", "rollup", "repartitioned", "read_twice")
    query = _shapes(pick, Grammar(pick, seen), *ways)
    other = mutated(pick, query, seen, "shuffle" if pick.chance(75) else None)
    if pick.chance(40):
        query, other = other, query
    if pick.chance(20):
        query = other = {"k": "set", "op": "UNION ALL", "l": query, "r": other}
    first = _run(pick, query)
    return _cased(tables, first, _again(pick, first, query=other))


def two_branches(pick: Pick, delta: bool) -> Case:
    """One computation twice in a query, with rows spread over tasks in another way later."""
    wish = Wish(
        forms=_WITH_COLUMNS,
        values={"w": _WILD},
        wild=100,
        files=(2, 3, 3),
        rows=(8, 14),
        keys=2,
        strays=5,
        bad=10,
        parted=5,
    )
    tables, seen = _tables(pick, delta, wish)
    query = Grammar(pick, seen).branches(0 if pick.chance(85) else 1)[0]
    splits = _two_splits(pick)
    force = pick.one([*["e0"] * 4, *["e1"] * 3, "e0,e2"])
    first = _run(pick, query, settings=splits[0], force=force)
    second = _again(pick, first, settings=_spread_anew(first, splits))
    return _cased(tables, first, second)


def _spread_anew(first: Run, splits: tuple[dict[str, str], dict[str, str]]) -> dict[str, str]:
    """The settings of a run with the first of two splits, with the second one instead."""
    others = {key: value for key, value in first.settings.items() if key not in splits[0]}
    return {**others, **splits[1]}


def _shuffled(pick: Pick, grammar: Grammar, rel: Rel, made: list[Column]) -> Rel:
    """A boundary over what a select puts out."""
    way = pick.one(["shuffled", "shuffled", "distinct", "grouped", "below"])
    if way == "shuffled":
        rel["hint"] = f"REPARTITION({pick.integer(1, 3)}, {made[-1].name})"
    elif way == "distinct":
        rel["distinct"] = True
    elif way == "grouped":
        rel["group"] = [copy.deepcopy(expr) for expr, _ in rel["items"]]
        grammar.add(rel, ["count", "1"], "bigint")
    else:
        return Grammar(pick, grammar.tables, (rel, made)).grouped(1)[0]
    return rel


def operands_swapped(pick: Pick, delta: bool) -> Case:
    """An expression, and the same with operands in another order; what it gives is shown."""
    wish = Wish(
        forms=_WITH_COLUMNS,
        columns=("double", "double", pick.one(["double", "int", "string", "boolean"])),
        values=dict.fromkeys(("v0", "v1", "v2"), _DOUBLES) if pick.chance(80) else {},
        wild=0,
        rows=(3, 9),
    )
    if wish.columns[2] != "double":
        wish.values.pop("v2", None)
    tables, seen = _tables(pick, delta, wish)
    grammar = Grammar(pick, seen)
    rel, columns = grammar.selected()
    rel["where"] = []
    made = [grammar.add(rel, "k", columns[0].type)] if pick.chance(70) else []
    for _ in range(pick.integer(1, 2)):
        if pick.chance(75):
            op = pick.one([*["greatest", "least"] * 3, "+", "*", "coalesce", "nanvl"])
            expr: Any = [op, *(grammar.expression("double", columns, d) for d in (1, 0))]
            made.append(grammar.add(rel, ["cast string", expr], "string"))
        else:
            made.append(grammar.add(rel, *grammar.scalar(columns, 3)))
    rel = _shuffled(pick, grammar, rel, made)
    first = _run(pick, rel)
    other = mutated(pick, rel, seen, "swap")
    return _cased(tables, first, _again(pick, first, query=other))


def relations_of_another_session(pick: Pick, delta: bool) -> Case:
    """The session that made a relation has other settings in the second application."""
    kinds = ["timestamp", pick.one(["int", "date", "double"]), pick.one(["string", "int"])]
    forms = (*["csv"] * 4, *["json"] * 4, "xml", "parquet", "avro")
    modes = ("PERMISSIVE", "DROPMALFORMED")
    wish = Wish(forms=forms, columns=tuple(kinds), by=("global",), modes=modes, wild=20, bad=30)
    tables, seen = _tables(pick, delta, wish)
    grammar = Grammar(pick, seen)
    if pick.chance(30):
        query = _shapes(pick, grammar, "repartitioned", "distinct", "grouped", "windowed", "joined")
    else:
        query, columns = grammar.selected()
        made = [grammar.add(query, c.name, c.type, c.wild) for c in columns if pick.chance(60)]
        shown = pick.one(["v0", "v0", ["cast string", "v0"], ["cast date", "v0"], ["hour", "v0"]])
        made.append(grammar.add(query, shown, "string"))
        query = _shuffled(pick, grammar, query, made)
    first = _run(pick, query)
    key, values = pick.one(MAKER[:1] if pick.chance(50) else MAKER)
    other = pick.one([v for v in values if v != first.maker.get(key)] or list(values))
    return _cased(tables, first, _again(pick, first, maker={**first.maker, key: other}))


def inputs_changed(pick: Pick, delta: bool) -> Case:
    """Files that change between the applications, after a listing, or under a running query."""
    tables, seen = _tables(pick, delta, Wish(wild=20, bad=15, parted=15))
    moments = [*["between"] * 4, *["listed"] * 3, *["running_write"] * 4, "ran_write"]
    moment = pick.one([*moments, "listed_write"])
    grammar = Grammar(pick, seen)
    ways = ["repartitioned", "repartitioned", "distinct", "grouped"]
    kinds = [*["rewrite"] * 6, "swap", "swap", "append", "remove"]
    keeps_time, comes_back = 75, 25
    if moment == "running_write":
        # Nothing tells what was read from what lies there now, but the time.
        grammar = Grammar(pick, seen, _slowly(grammar))
        kinds, keeps_time, comes_back = kinds[:7], 95, 10
    else:
        ways.append("joined")
    query = _shapes(pick, grammar, *ways)
    first = _run(pick, query)
    change = changed(pick, tables, seen, kinds)
    change = dataclasses.replace(
        change,
        keep_time=pick.chance(keeps_time),
        moment=moment,
        delay_ms=pick.integer(0, 120) if moment in ("running_write", "ran_write") else 0,
        back=moment.endswith("write") and pick.chance(comes_back),
    )
    return _cased(tables, first, _again(pick, first), change=change)


def _slowly(grammar: Grammar) -> tuple[Rel, list[Column]]:
    """All of one table, each row at the cost of some milliseconds: it is read long before its
    query ends.
    """
    rel, columns = grammar.selected()
    made = [grammar.add(rel, c.name, c.type, c.wild) for c in columns]
    steps = ["+", "300000", ["coalesce", ["ascii", ["cast string", columns[0].name]], "0"]]
    rel["where"] = [[">", ["aggregate", ["sequence", "1", steps], "0L", "(a, i) -> a + i"], "0"]]
    return rel, made


def python_above(pick: Pick, delta: bool) -> Case:
    """Python functions above boundaries, with another exchange above them."""
    tables, seen = _tables(pick, delta, Wish(rows=(2, 6)), Wish(rows=(1, 4)))
    grammar = Grammar(pick, seen)
    if pick.chance(70):
        query = _grouped_twice(pick, grammar)
    else:
        below = getattr(grammar, pick.one(["grouped", "distinct", "repartitioned", "joined"]))
        query = Grammar(pick, seen, below(1)).grouped(1)[0] if pick.chance(50) else below(2)[0]
    post = pick.one(["python_udf", *["pandas_groups"] * 5, "pandas_map"])
    first = _run(pick, query, post=post, force=pick.one([*["e2"] * 5, "e1", "all", "e1,e2"]))
    return _cased(tables, first, _again(pick, first))


def _grouped_twice(pick: Pick, grammar: Grammar) -> Rel:
    """Groups of all keys of a table, then by one of them: a shuffle right above another."""
    rel, columns = grammar.selected()
    keys = [c for c in columns if c.type in KEYS and not c.wild]
    made = [grammar.add(rel, c.name, c.type) for c in keys]
    rel["group"] = [c.name for c in keys]
    made.append(grammar.add(rel, ["count", "1"], "bigint"))
    above = Grammar(pick, grammar.tables, (rel, made))
    query, _ = above.selected()
    query["group"] = [pick.one(made[:-1]).name] if keys else []
    for key in query["group"]:
        above.add(query, key, next(c.type for c in made if c.name == key))
    above.add(query, ["sum", made[-1].name], "bigint")
    return query


def read_again(pick: Pick, delta: bool) -> Case:
    """Rows that are asked for once more, where Spark cleans shuffles up after each query."""
    tables, seen = _tables(pick, delta, Wish(), Wish(rows=(1, 4)))
    first = _run(
        pick,
        _shapes(pick, Grammar(pick, seen), *_BOUNDARIES),
        settings={CLEANUP: "true"},
        action=pick.one(_AGAIN),
    )
    return _cased(tables, first, _again(pick, first, action=pick.one(_AGAIN)))


_AGAIN = (
    *["twice"] * 3, "rdd", "rdd_after", "rdd_after", "iterate", "iterate_between", "view",
    "count_then_collect", "joined_with_itself", "zipped",
)  # fmt: skip
_BOUNDARIES = (
    "grouped", "grouped", "joined", "distinct", "repartitioned", "windowed", "read_twice",
    "filtered_by",
)  # fmt: skip


def _mishap(pick: Pick) -> Mishap:
    kind = pick.one(["flipped", "flipped", "flipped", "lost", "lost", "forgotten"])
    running = kind != "forgotten" and pick.chance(60 if kind == "lost" else 15)
    return Mishap(kind, pick.integer(0, 99), pick.chance(40), running)


def unreadable(pick: Pick, delta: bool) -> Case:
    """Checkpoints that are damaged or gone, before the second application or while it runs."""
    tables, seen = _tables(pick, delta, Wish(), Wish(rows=(1, 5)))
    grammar = Grammar(pick, seen)
    query = grammar.branches(0)[0] if pick.chance(20) else _shapes(pick, grammar, *_BOUNDARIES)
    first = _run(pick, query, force=pick.one(["all", "all", "all", "e0", "e0", "e1"]))
    second = _again(pick, first)
    if pick.chance(40):
        splits = _two_splits(pick)
        first = dataclasses.replace(first, settings={**first.settings, **splits[0]})
        second = dataclasses.replace(second, settings=_spread_anew(first, splits))
    return _cased(tables, first, second, mishap=_mishap(pick))


def spread_below(pick: Pick, delta: bool) -> Case:
    """A boundary whose rows lie by chance or by range, below another one; damage, other tasks."""
    wish = Wish(forms=_WITH_COLUMNS, files=(2, 3), rows=(3, 9), wild=0, bad=10, parted=10)
    tables, seen = _tables(pick, delta, wish)
    grammar = Grammar(pick, seen)
    rel, columns = grammar.selected()
    made = [grammar.add(rel, c.name, c.type, c.wild) for c in columns]
    n = pick.integer(3, 4)
    keys = [c.name for c in made if c.type in KEYS]
    by_range = pick.chance(15)
    rel["hint"] = (
        f"REPARTITION_BY_RANGE({n}, {pick.one(keys)})" if by_range else f"REPARTITION({n})"
    )
    splits = _two_splits(pick)
    slowly = pick.chance(80)
    above = Grammar(pick, seen, (rel, made))
    # Readers that take their time: some have read when the others find the damage.
    query = rel if slowly else _shapes(pick, above, "grouped", "grouped", "distinct", "windowed")
    more = {"post": "pandas_map", "action": "collect"} if slowly else {}
    force = "all" if pick.chance(10) else "e2" if slowly else "e1"
    first = _run(pick, query, settings=splits[0], force=force, **more)
    second = _again(pick, first, settings=_spread_anew(first, splits), **more)
    kind = pick.one(["flipped"] * 3 + ["lost"] * 3 + ["none"])
    running = kind != "none" and pick.chance(92 if slowly else 20)
    mishap = Mishap(kind, pick.integer(0, 99), pick.chance(60), running)
    return _cased(tables, first, second, mishap=mishap)


def in_order(pick: Pick, delta: bool) -> Case:
    """Rows that are given out in the order in which a shuffle's reader meets them."""
    wish = Wish(files=(2, 3, 3), rows=(3, 9), bad=10)
    tables, seen = _tables(pick, delta, wish)
    query = _shapes(
        pick, Grammar(pick, seen), "repartitioned", "repartitioned", "grouped", "distinct", "joined"
    )
    settings = {
        "spark.sql.shuffle.partitions": str(pick.integer(2, 4)),
        **(SPLITS[1] if pick.chance(80) else {}),
    }
    first = _run(pick, query, settings=settings, action=pick.one(["collect", "twice"]))
    return _cased(tables, first, _again(pick, first))


def types_from_lines(pick: Pick, delta: bool) -> Case:
    """Types that follow from the lines that a task has met, and files split in another way."""
    wish = Wish(
        forms=(*["csv"] * 5, "json"),
        columns=("variant", *[pick.one(["int", "string", "variant"])] * pick.integer(0, 1)),
        values=dict.fromkeys(("v0",), ("1", "x", "2", "2.5", "true", "2021-03-01")),
        rows=(8, 14),
        wild=0,
        bad=15,
    )
    tables, seen = _tables(pick, delta, wish)
    grammar = Grammar(pick, seen)
    rel, columns = grammar.selected()
    rel["where"] = []
    made = [grammar.add(rel, "k", columns[0].type)]
    shown = pick.one([*["schema_of_variant", "to_json"] * 3, "cast string"])
    made.append(grammar.add(rel, [shown, "v0"], "string"))
    if pick.chance(50):
        rel["hint"] = f"REPARTITION({pick.integer(1, 3)}, {made[0].name})"
    elif pick.chance(60):
        rel["distinct"] = True
    else:
        rel["group"] = [copy.deepcopy(expr) for expr, _ in rel["items"]]
        grammar.add(rel, ["count", "1"], "bigint")
    splits = _two_splits(pick, _WITHIN if pick.chance(80) else SPLITS)
    first = _run(pick, rel, settings=splits[0])
    second = _again(pick, first, settings=_spread_anew(first, splits))
    return _cased(tables, first, second)


def reused(pick: Pick, delta: bool) -> Case:
    """One relation, partitioned, read twice and joined by its partitions: exchanges are reused."""
    wish = Wish(forms=("parquet", "parquet", "orc", "json"), parted=100, wild=0, rows=(1, 5))
    tables, seen = _tables(pick, delta, wish)
    grammar = Grammar(pick, seen)
    inner, columns = grammar.selected()
    if not inner["where"]:
        inner["where"] = [["=", "k", "1"]] if columns[0].type != "string" else []
    keep = [c for c in columns if c.name in ("p", "k")]
    made = [grammar.add(inner, c.name, c.type) for c in keep]
    on = [["=", f"l.{made[-1].name}", f"r.{made[-1].name}"]]
    body: Rel = {
        "k": "select",
        "items": [],
        "where": [],
        "from": [
            {"rel": {"k": "ref", "name": "w"}, "as": "l"},
            {"rel": {"k": "ref", "name": "w"}, "as": "r", "join": "INNER", "on": on},
        ],
    }
    for side in "lr":
        for c in made:
            grammar.add(body, f"{side}.{c.name}", c.type)
    query: Rel = {"k": "with", "defs": [["w", inner]], "body": body}
    first = _run(pick, query, action="collect", settings={_BROADCAST: "-1"})
    return _cased(tables, first, _again(pick, first))


_BROADCAST = "spark.sql.autoBroadcastJoinThreshold"

_WEIGHTS: Mapping[Callable[[Pick, bool], Case], int] = {
    asked_for_other_columns: 2,
    two_branches: 4,
    operands_swapped: 2,
    relations_of_another_session: 2,
    inputs_changed: 4,
    python_above: 3,
    read_again: 2,
    unreadable: 2,
    spread_below: 3,
    in_order: 1,
    types_from_lines: 2,
    reused: 1,
}

FAMILIES: Sequence[Callable[[Pick, bool], Case]] = tuple(
    family for family, weight in _WEIGHTS.items() for _ in range(weight)
)
"""As often as each is to be drawn."""
