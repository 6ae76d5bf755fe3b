"""Random queries: relations with typed columns, grown from a case's tables.

The grammar draws only what has one right answer: sums of fractions that binary floating point holds
exactly, orders without ties, limits over all columns. What depends on the order or grouping of rows
(wild sums, sums that overflow on the way) appears only in `branches`: there a query reads such a
value twice and shows whether both are the same, which they are in any run of Spark's.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from tests.exactness import sql
from tests.exactness.sql import Expr, Rel

T = TypeVar("T")


class Pick(Protocol):
    """The source of chance."""

    def one(self, of: Sequence[T]) -> T: ...

    def integer(self, low: int, high: int) -> int: ...

    def chance(self, percent: int) -> bool: ...


@dataclass(frozen=True, slots=True)
class Column:
    """``wild``: sums of it depend on the order or the grouping of rows."""

    name: str
    type: str
    wild: bool = False


KEYS = ("int", "bigint", "string", "date", "boolean", "decimal(10,2)", "timestamp")
# Their value is one of the rows', or a list of them, by the order in which rows come.
_PICKED = ("first", "last", "any_value", "collect_list", "array_agg", "max_by", "min_by", "mode")
_WORD = re.compile(r"\w+")


def family(kind: str) -> str:
    return "decimal" if kind.startswith("decimal") else kind


class Grammar:
    """Draws relations over tables, or over one relation (``leaf``); column names are unique."""

    def __init__(
        self,
        pick: Pick,
        tables: dict[str, list[Column]],
        leaf: tuple[Rel, list[Column]] | None = None,
    ) -> None:
        self.pick = pick
        self.tables = tables
        self.leaf = leaf
        self._names = 0 if leaf is None else 100
        self._wild = {c.name for columns in tables.values() for c in columns if c.wild}

    def name(self) -> str:
        self._names += 1
        return f"c{self._names}"

    # Expressions

    def of_type(self, columns: Sequence[Column], *kinds: str) -> list[Column]:
        return [c for c in columns if family(c.type) in kinds]

    def scalar(self, columns: Sequence[Column], depth: int = 2) -> tuple[Expr, str]:
        """An expression with its type, of a type that can be shown, grouped and joined by."""
        kinds = ["int", "string", "int"]
        if self.of_type(columns, "double"):
            kinds.append("double")
        if self.of_type(columns, "variant"):
            kinds += ["string", "string"]
        for kind in ("double", "date", "timestamp", "decimal", "boolean"):
            if self.of_type(columns, kind):
                kinds.append(kind)
        kind = self.pick.one(kinds)
        return self.expression(kind, columns, depth), kind

    def expression(self, kind: str, columns: Sequence[Column], depth: int) -> Expr:
        made: Expr = getattr(self, f"_{kind}")(columns, depth)
        return made

    def _leaf(self, kind: str, columns: Sequence[Column], literal: str) -> Expr:
        mine = self.of_type(columns, kind)
        if mine and not self.pick.chance(12):
            return self.pick.one(mine).name
        return literal

    def _int(self, columns: Sequence[Column], depth: int) -> Expr:
        pick = self.pick
        if depth <= 0 or pick.chance(35):
            return self._leaf("int", columns, str(pick.integer(0, 9)))
        sub = depth - 1
        way = pick.integer(0, 10)
        if way == 0 and (mine := self.of_type(columns, "date", "timestamp")):
            return [pick.one(["year", "month", "day", "dayofweek"]), pick.one(mine).name]
        if way == 1 and (mine := self.of_type(columns, "timestamp")):
            return [pick.one(["hour", "minute", "day"]), pick.one(mine).name]
        if way == 2 and (mine := self.of_type(columns, "string")):
            return [pick.one(["length", "ascii"]), pick.one(mine).name]
        if way == 3 and (mine := self.of_type(columns, "array<int>")):
            return [pick.one(["size", "array_max", "array_min"]), pick.one(mine).name]
        if way == 4 and (mine := self.of_type(columns, "string")):
            return [
                "cast int",
                ["try_variant_get", ["try_parse_json", pick.one(mine).name], "'$'", "'int'"],
            ]
        if way == 5:
            return [
                "if",
                self._boolean(columns, sub),
                self._int(columns, sub),
                self._int(columns, sub),
            ]
        if way == 6:
            return ["coalesce", self._int(columns, sub), self._int(columns, sub)]
        if way == 7:
            op = pick.one(["greatest", "least"])
            return [op, self._int(columns, sub), self._int(columns, sub)]
        if way == 8:
            return ["pmod", self._int(columns, sub), str(pick.integer(1, 5))]
        return [pick.one(["+", "-", "+", "*"]), self._int(columns, sub), self._int(columns, sub)]

    def _double(self, columns: Sequence[Column], depth: int) -> Expr:
        pick = self.pick
        if depth <= 0 or pick.chance(30):
            return self._leaf("double", columns, pick.one(["0.0D", "1.5D", "double('-0.0')"]))
        sub = depth - 1
        way = pick.integer(0, 5)
        if way in (0, 1):
            op = pick.one(["greatest", "least"])
            args = [self._double(columns, sub) for _ in range(pick.integer(2, 3))]
            return [op, *args]
        if way == 2:
            return [
                pick.one(["nanvl", "coalesce"]),
                self._double(columns, sub),
                self._double(columns, sub),
            ]
        if way == 3:
            return [pick.one(["abs", "negative"]), self._double(columns, sub)]
        if way == 4:
            return [
                "if",
                self._boolean(columns, sub),
                self._double(columns, sub),
                self._double(columns, sub),
            ]
        return [pick.one(["+", "-"]), self._double(columns, sub), self._double(columns, sub)]

    def _decimal(self, columns: Sequence[Column], depth: int) -> Expr:
        pick = self.pick
        if depth <= 0 or pick.chance(40):
            return self._leaf("decimal", columns, "1.25")
        sub = depth - 1
        if pick.chance(30):
            return ["coalesce", self._decimal(columns, sub), self._decimal(columns, sub)]
        return [pick.one(["+", "-", "*"]), self._decimal(columns, sub), self._decimal(columns, sub)]

    def _string(self, columns: Sequence[Column], depth: int) -> Expr:
        pick = self.pick
        if depth <= 0 or pick.chance(30):
            return self._leaf("string", columns, pick.one(["'a'", "''", "'Ab'"]))
        sub = depth - 1
        way = pick.integer(0, 8)
        if way == 0:
            return ["concat", self._string(columns, sub), self._string(columns, sub)]
        if way == 1:
            return [pick.one(["upper", "lower", "trim", "reverse"]), self._string(columns, sub)]
        if way == 2 and (mine := self.of_type(columns, "timestamp", "date")):
            return ["date_format", pick.one(mine).name, "'yyyy-MM-dd HH:mm'"]
        if way == 3 and (mine := self.of_type(columns, "timestamp", "date", "boolean", "decimal")):
            return ["cast string", pick.one(mine).name]
        if way == 4 and (mine := self.of_type(columns, "struct<x:int,y:string>")):
            return pick.one(mine).name + ".y"
        if way == 5:
            return ["cast string", self._int(columns, sub)]
        if way == 8 and (mine := self.of_type(columns, "variant")):
            return [pick.one(["schema_of_variant", "cast string"]), pick.one(mine).name]
        if way == 6:
            return ["coalesce", self._string(columns, sub), self._string(columns, sub)]
        return ["substring", self._string(columns, sub), "1", str(pick.integer(1, 3))]

    def _date(self, columns: Sequence[Column], depth: int) -> Expr:
        pick = self.pick
        if depth <= 0 or pick.chance(50):
            return self._leaf("date", columns, "DATE'2021-03-01'")
        if pick.chance(40) and (mine := self.of_type(columns, "timestamp")):
            return ["cast date", pick.one(mine).name]
        return ["date_add", self._date(columns, depth - 1), str(pick.integer(0, 40))]

    def _timestamp(self, columns: Sequence[Column], depth: int) -> Expr:
        pick = self.pick
        if depth <= 0 or pick.chance(50):
            return self._leaf("timestamp", columns, "TIMESTAMP'2021-03-14 01:30:00'")
        if pick.chance(40) and (mine := self.of_type(columns, "date")):
            return ["cast timestamp", pick.one(mine).name]
        return ["date_trunc", pick.one(["'DAY'", "'HOUR'"]), self._timestamp(columns, depth - 1)]

    def _boolean(self, columns: Sequence[Column], depth: int) -> Expr:
        pick = self.pick
        sub = depth - 1
        way = pick.integer(0, 9)
        if way == 0 and depth > 0:
            return [
                pick.one(["and", "or"]),
                self._boolean(columns, sub),
                self._boolean(columns, sub),
            ]
        if way == 1 and depth > 0:
            return ["not", self._boolean(columns, sub)]
        if way == 2:
            return [pick.one(["is null", "is not null"]), pick.one(columns).name]
        if way == 3 and (mine := self.of_type(columns, "string")):
            return ["like", pick.one(mine).name, pick.one(["'a%'", "'%b'", "'_'"])]
        if way == 4 and pick.chance(30) and (mine := self.of_type(columns, "string")):
            left = ["collate " + pick.one(["UTF8_LCASE", "UNICODE_CI"]), pick.one(mine).name]
            return ["=", left, pick.one(["'A'", "'ab'", "'b'"])]
        if way == 5:
            return ["in", self._int(columns, max(0, sub)), "1", "2", str(pick.integer(3, 9))]
        if way == 6 and (mine := self.of_type(columns, "boolean")):
            return pick.one(mine).name
        kinds = [
            k
            for k in ("int", "string", "date", "timestamp", "double", "decimal")
            if self.of_type(columns, k)
        ]
        kind = pick.one(kinds or ["int"])
        op = pick.one(["<", "<=", ">", ">=", "=", "<>", "<=>"])
        left, right = self.expression(kind, columns, min(1, sub)), self.expression(kind, columns, 0)
        return [pick.one(["is null", "is not null"]), left] if left == right else [op, left, right]

    def aggregate(self, columns: Sequence[Column]) -> tuple[Expr, str]:
        """An aggregate function that no order of rows changes."""
        pick = self.pick
        tame = [c for c in columns if not c.wild]
        way = pick.integer(0, 11)
        numbers = self.of_type(tame, "int", "bigint")
        if way <= 2 and numbers:
            argument: Expr = pick.one(numbers).name
            if pick.chance(30):
                argument = ["cast bigint", self._int(tame, 1)]
            made: Expr = [pick.one(["sum", "sum", "try_sum", "max", "min"]), argument]
            kind = "bigint"
        elif way == 3 and (mine := self.of_type(tame, "double")):
            # Plus zero: of two zeros the one that is met first would be the largest.
            made, kind = (
                [pick.one(["sum", "max", "min"]), ["+", pick.one(mine).name, "0.0D"]],
                "double",
            )
        elif way == 4 and (mine := self.of_type(tame, "string")):
            made, kind = [pick.one(["max", "min"]), pick.one(mine).name], "string"
        elif way == 5 and (mine := self.of_type(tame, "date", "timestamp")):
            column = pick.one(mine)
            made, kind = [pick.one(["max", "min"]), column.name], column.type
        elif way == 6:
            made, kind = ["count", ["distinct", pick.one(columns).name]], "bigint"
            if pick.chance(50) or family(made[1][1]) not in KEYS:
                keys = self.of_type(columns, "int", "string", "date")
                made = ["count", ["distinct", pick.one(keys).name]] if keys else ["count", "1"]
        elif way == 7 and numbers:
            made, kind = (
                [pick.one(["bit_xor", "bit_or", "avg", "median"]), pick.one(numbers).name],
                "double",
            )
            if made[0].startswith("bit"):
                kind = "bigint"
        elif way == 8 and (mine := self.of_type(tame, "decimal")):
            made, kind = (
                [pick.one(["sum", "max", "try_sum", "avg"]), pick.one(mine).name],
                "decimal",
            )
        elif way == 9:
            made, kind = ["count_if", self._boolean(columns, 1)], "bigint"
        elif way == 10 and numbers and pick.chance(25):
            made, kind = ["sort_array", ["collect_set", pick.one(numbers).name]], "array<bigint>"
        else:
            made, kind = ["count", pick.one(["1", pick.one(columns).name])], "bigint"
        if pick.chance(8) and made[0] not in ("sort_array", "count_if"):
            made = ["filter", made, self._boolean(columns, 1)]
        return made, kind

    # Relations

    def scan(self) -> tuple[Rel, list[Column]]:
        if self.leaf is not None:
            return copy.deepcopy(self.leaf[0]), self.leaf[1]
        name = self.pick.one(sorted(self.tables))
        return {"k": "scan", "name": name}, self.tables[name]

    def relation(self, depth: int) -> tuple[Rel, list[Column]]:
        pick = self.pick
        if depth <= 0:
            return self.scan()
        ways = [
            *["grouped"] * 5, *["joined"] * 4, *["projected"] * 3, *["scan"] * 2, *["set"] * 2,
            *["distinct"] * 2, *["windowed"] * 2, *["repartitioned"] * 3, "read_twice",
            "filtered_by", "filtered_by", "exploded", "top", "rollup",
        ]  # fmt: skip
        way = pick.one(ways)
        made: tuple[Rel, list[Column]] = self.scan() if way == "scan" else getattr(self, way)(depth)
        return made

    def _select(self, source: Rel, columns: Sequence[Column]) -> tuple[Rel, list[Column]]:
        """A select over one source, to which its columns come without a prefix."""
        where = [self._boolean(columns, 1)] if self.pick.chance(35) else []
        return {
            "k": "select",
            "items": [],
            "from": [{"rel": source, "as": "s"}],
            "where": where,
        }, list(columns)

    def selected(self) -> tuple[Rel, list[Column]]:
        """A select of nothing yet over one table, and the table's columns."""
        return self._select(*self.scan())

    def add(self, rel: Rel, expr: Expr, kind: str, wild: bool = False) -> Column:
        # Averages are not exact, and what is made of a wild value is no better than that.
        words = set(_WORD.findall(sql.text(expr))) if kind in ("double", "bigint") else set()
        wild = wild or bool(words & self._wild) or bool(words & {"avg", "median", "stddev"})
        column = Column(self.name(), kind, wild)
        if wild:
            self._wild.add(column.name)
        rel["items"].append([expr, column.name])
        return column

    def projected(self, depth: int) -> tuple[Rel, list[Column]]:
        source, columns = self.relation(depth - 1)
        rel, columns = self._select(source, columns)
        made = [self.add(rel, c.name, c.type, c.wild) for c in columns if self.pick.chance(70)]
        for _ in range(self.pick.integer(0 if made else 1, 2)):
            made.append(self.add(rel, *self.scalar(columns)))
        return rel, made

    def repartitioned(self, depth: int) -> tuple[Rel, list[Column]]:
        rel, made = self.projected(depth)
        rel["hint"] = self._repartition(made)
        return rel, made

    def _repartition(self, columns: Sequence[Column]) -> str:
        keys = [c for c in columns if c.type in KEYS]
        n = self.pick.integer(1, 4)
        if not keys:
            return f"REPARTITION({n})"
        key = self.pick.one(keys).name
        return self.pick.one(
            [
                *[f"REPARTITION({n}, {key})"] * 4,
                f"REBALANCE({key})",
                f"REPARTITION_BY_RANGE({n}, {key})",
                f"REPARTITION({n})",
            ]
        )

    def grouped(self, depth: int) -> tuple[Rel, list[Column]]:
        source, columns = self.relation(depth - 1)
        rel, columns = self._select(source, columns)
        keys: list[tuple[Expr, str]] = []
        for _ in range(self.pick.one([1, 1, 1, 2, 0])):
            plain = [c for c in columns if c.type in KEYS and not c.wild]
            if plain and self.pick.chance(75):
                column = self.pick.one(plain)
                keys.append((column.name, column.type))
            else:
                keys.append(self.scalar(columns, 1))
        rel["group"] = [k for k, _ in keys if not (isinstance(k, str) and k[0].isdigit())]
        made = [self.add(rel, k, kind) for k, kind in keys if k in rel["group"]]
        for _ in range(self.pick.integer(1, 3)):
            made.append(self.add(rel, *self.aggregate(columns)))
        if self.pick.chance(12):
            rel["having"] = [[">", ["count", "1"], str(self.pick.integer(0, 2))]]
        return rel, made

    def rollup(self, depth: int) -> tuple[Rel, list[Column]]:
        rel, made = self.grouped(depth)
        if rel["group"] and all(isinstance(g, str) for g in rel["group"]):
            rel["sets"] = self.pick.one(["ROLLUP", "CUBE"])
        return rel, made

    def distinct(self, depth: int) -> tuple[Rel, list[Column]]:
        rel, made = self.projected(depth)
        kept = [
            n for n, c in enumerate(made) if c.type in (*KEYS, "double", "decimal") and not c.wild
        ]
        if not kept:
            return rel, made
        rel["items"] = [rel["items"][n] for n in kept]
        rel["distinct"] = True
        return rel, [made[n] for n in kept]

    def joined(self, depth: int) -> tuple[Rel, list[Column]]:
        pick = self.pick
        left, left_columns = self.relation(depth - 1)
        right, right_columns = self.relation(depth - 1 if pick.chance(40) else 0)
        kind = pick.one(
            ["INNER", "INNER", "INNER", "LEFT", "RIGHT", "FULL", "LEFT SEMI", "LEFT ANTI", "CROSS"]
        )
        sides = [
            [Column(f"{side}.{c.name}", c.type, c.wild) for c in columns]
            for side, columns in (("l", left_columns), ("r", right_columns))
        ]
        pairs = [
            (a, b)
            for a in sides[0]
            for b in sides[1]
            if family(a.type) == family(b.type) and a.type in KEYS and not a.wild and not b.wild
        ]
        on: list[Expr] = []
        if kind != "CROSS" and pairs:
            same = [p for p in pairs if p[0].type != "boolean"] or pairs
            for _ in range(pick.one([1, 1, 2])):
                a, b = pick.one(same)
                on.append([pick.one(["=", "=", "=", "<=>"]), a.name, b.name])
        else:
            kind = "CROSS"
        if on and pick.chance(20):
            on.append(self._boolean([*sides[0], *sides[1]], 1))
        rel: Rel = {
            "k": "select",
            "items": [],
            "from": [{"rel": left, "as": "l"}, {"rel": right, "as": "r", "join": kind, "on": on}],
            "where": [],
        }
        seen = sides[0] if kind in ("LEFT SEMI", "LEFT ANTI") else [*sides[0], *sides[1]]
        if pick.chance(30):
            rel["where"] = [self._boolean(seen, 1)]
        if pick.chance(20):
            rel["hint"] = pick.one(
                ["BROADCAST(r)", "MERGE(r)", "SHUFFLE_HASH(r)", "SHUFFLE_HASH(l)"]
            )
        made = [self.add(rel, c.name, c.type, c.wild) for c in seen if pick.chance(60)]
        if not made or pick.chance(40):
            made.append(self.add(rel, *self.scalar(seen)))
        return rel, made

    def set(self, depth: int) -> tuple[Rel, list[Column]]:
        pick = self.pick
        sides = []
        kinds: list[str] = []
        for n in range(2):
            source, columns = self.relation(depth - 1 if n == 0 else pick.integer(0, depth - 1))
            rel, columns = self._select(source, columns)
            if not kinds:
                kinds = [
                    pick.one(["int", "string", "int", "double", "date"])
                    for _ in range(pick.integer(1, 3))
                ]
            made = [self.add(rel, self.expression(k, columns, 1), k) for k in kinds]
            sides.append((rel, made))
        op = pick.one(
            [
                "UNION ALL",
                "UNION ALL",
                "UNION",
                "INTERSECT",
                "EXCEPT",
                "EXCEPT ALL",
                "INTERSECT ALL",
            ]
        )
        return {"k": "set", "op": op, "l": sides[0][0], "r": sides[1][0]}, sides[0][1]

    def windowed(self, depth: int) -> tuple[Rel, list[Column]]:
        source, columns = self.relation(depth - 1)
        rel, columns = self._select(source, columns)
        pick = self.pick
        made = [self.add(rel, c.name, c.type, c.wild) for c in columns if pick.chance(60)]
        keys = [c.name for c in columns if c.type in KEYS and not c.wild]
        partition = [pick.one(keys)] if keys else []
        numbers = self.of_type([c for c in columns if not c.wild], "int")
        order = [pick.one(keys)] if keys and pick.chance(60) else []
        if order and pick.chance(50):
            function: Expr = [pick.one(["rank", "dense_rank"])]
            frame = ""
        else:
            function = (
                ["sum", ["cast bigint", pick.one(numbers).name]] if numbers else ["count", "1"]
            )
            frame = (
                "ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING"
                if pick.chance(30)
                else ""
            )
        made.append(self.add(rel, ["over", function, partition, order, frame], "bigint"))
        return rel, made

    def read_twice(self, depth: int) -> tuple[Rel, list[Column]]:
        """A common table expression that is read twice, joined with an aggregate over itself."""
        source, columns = self.relation(depth - 1)
        keys = [c for c in columns if c.type in KEYS and not c.wild and c.type != "boolean"]
        if not keys:
            return source, columns
        pick = self.pick
        name = f"w{self.name()}"
        key = pick.one(keys)
        again: Rel = {
            "k": "select",
            "items": [],
            "from": [{"rel": {"k": "ref", "name": name}, "as": "s"}],
            "where": [],
            "group": [key.name],
        }
        again_key = self.add(again, key.name, key.type)
        total = self.add(again, *self.aggregate(columns))
        body: Rel = {
            "k": "select",
            "items": [],
            "from": [
                {"rel": {"k": "ref", "name": name}, "as": "l"},
                {
                    "rel": again,
                    "as": "r",
                    "join": pick.one(["INNER", "LEFT"]),
                    "on": [["=", f"l.{key.name}", f"r.{again_key.name}"]],
                },
            ],
            "where": [],
        }
        made = [self.add(body, f"l.{c.name}", c.type, c.wild) for c in columns if pick.chance(60)]
        made.append(self.add(body, f"r.{total.name}", total.type))
        return {"k": "with", "defs": [[name, source]], "body": body}, made

    def filtered_by(self, depth: int) -> tuple[Rel, list[Column]]:
        """A filter by a subquery: IN, EXISTS or a single value."""
        pick = self.pick
        source, columns = self.relation(depth - 1)
        other, other_columns = self.relation(pick.integer(0, depth - 1))
        rel, columns = self._select(source, columns)
        made = [self.add(rel, c.name, c.type, c.wild) for c in columns if pick.chance(80)]
        if not made:
            made = [self.add(rel, columns[0].name, columns[0].type, columns[0].wild)]
        pairs = [
            (a, b)
            for a in columns
            for b in other_columns
            if family(a.type) == family(b.type) and a.type in KEYS and not a.wild and not b.wild
        ]
        inner, _ = self._select(other, other_columns)
        way = pick.integer(0, 2)
        if way == 0 and pairs:
            a, b = pick.one(pairs)
            self.add(inner, b.name, b.type)
            rel["where"].append([pick.one(["in query", "in query", "not in query"]), a.name, inner])
        elif way == 1 and pairs:
            a, b = pick.one(pairs)
            self.add(inner, "1", "int")
            inner["from"][0]["as"] = "e"
            inner["where"] = [["=", f"e.{b.name}", f"s.{a.name}"]]
            rel["where"].append([pick.one(["exists", "not exists"]), inner])
        else:
            numbers = self.of_type([c for c in other_columns if not c.wild], "int")
            argument: Expr = pick.one(numbers).name if numbers else "1"
            self.add(inner, [pick.one(["max", "min", "count"]), argument], "bigint")
            mine = self.of_type(columns, "int")
            left = pick.one(mine).name if mine else "1"
            rel["where"].append([pick.one(["<=", "<", ">=", "<>"]), left, ["scalar", inner]])
        return rel, made

    def exploded(self, depth: int) -> tuple[Rel, list[Column]]:
        source, columns = self.relation(depth - 1)
        arrays = self.of_type(columns, "array<int>")
        if not arrays:
            return self.grouped(depth)
        rel, columns = self._select(source, columns)
        name = self.name()
        outer = self.pick.one(["", "OUTER "])
        rel["lateral"] = [f"{outer}explode({self.pick.one(arrays).name}) e AS {name}"]
        made = [self.add(rel, c.name, c.type, c.wild) for c in columns if self.pick.chance(50)]
        made.append(self.add(rel, f"e.{name}", "int"))
        return rel, made

    def top(self, depth: int) -> tuple[Rel, list[Column]]:
        rel, made = self.distinct(depth)
        if rel.get("distinct"):
            rel["order"] = [c.name for c in made]
            rel["limit"] = self.pick.integer(1, 6)
        return rel, made

    def branches(self, depth: int) -> tuple[Rel, list[Column]]:
        """Two branches that compute one value over the same rows, and whether it is the same.

        The value may depend on how rows are spread over tasks; within a query all must see one.
        """
        pick = self.pick
        source, columns = self.relation(depth if pick.chance(25) else 0)
        wilder = [name for name, those in self.tables.items() if any(c.wild for c in those)]
        if source["k"] == "scan" and wilder:
            name = pick.one(sorted(wilder))
            source, columns = {"k": "scan", "name": name}, self.tables[name]
        wild = [c for c in columns if c.wild] or self.of_type(columns, "double", "int")
        keys = [c for c in columns if c.type in KEYS and not c.wild]
        if not wild or not keys:
            return self.grouped(depth)
        column, key = pick.one(wild), keys[0] if pick.chance(70) else pick.one(keys)
        if pick.chance(8):
            value: Expr = [pick.one(_PICKED), column.name]
            if value[0] in ("max_by", "min_by"):
                value.append(pick.one([key.name, "1"]))
        elif column.type == "bigint":
            value = [pick.one([*["try_sum"] * 4, "try_avg"]), column.name]
        else:
            value = [pick.one(["sum", "avg", "sum", "avg", "stddev"]), column.name]
        where = [self._boolean([key], 1)] if pick.chance(25) else []
        sides = []
        for n in range(2):
            rel: Rel = {
                "k": "select",
                "items": [[key.name, "k"], [value, "v"]],
                "group": [key.name],
                "from": [{"rel": copy.deepcopy(source), "as": "s"}],
                "where": copy.deepcopy(where),
            }
            if (n == 1) != pick.chance(15):
                for _ in range(pick.integer(1, 2)):
                    self.add(rel, *self.aggregate(columns))
            sides.append(rel)
        cast = (lambda e: ["cast string", e]) if pick.chance(60) else (lambda e: e)
        a, b = cast("l.v"), cast("r.v")
        on = [["<=>", "l.k", "r.k"]]
        used = [
            [">=", ["length", ["cast string", f"r.{name}"]], "0"]
            for _, name in sides[1]["items"][2:]
        ]
        rel = {
            "k": "select",
            "items": [],
            "where": [],
            "from": [
                {"rel": sides[0], "as": "l"},
                {"rel": sides[1], "as": "r", "join": "INNER", "on": on},
            ],
        }
        made = [self.add(rel, "l.k", key.type)]
        if pick.chance(50):
            made.append(self.add(rel, ["<=>", a, b], "boolean"))
        else:
            rel["where"] = [["<=>", a, b]]
        rel["where"] += [["coalesce", e, "true"] for e in used]
        return rel, made

    def root(self) -> tuple[Rel, bool]:
        """A whole query, most of the time with a shuffle, and whether it is of `branches`."""
        pick = self.pick
        depth = pick.one([1, 1, 2, 2, 2, 3])
        if pick.chance(18):
            return self.branches(depth - 1)[0], True
        ways = (
            *["grouped"] * 3, "joined", "joined", "distinct", "repartitioned", "repartitioned",
            "set", "windowed", "read_twice", "filtered_by", "rollup",
        )  # fmt: skip
        rel: Rel = getattr(self, pick.one(ways))(depth)[0]
        return rel, False


# Changes of a query between two applications

_SWAPPED = (
    "greatest",
    "least",
    "+",
    "*",
    "and",
    "or",
    "=",
    "<=>",
    "coalesce",
    "concat",
    "-",
    "nanvl",
)
_KIN = {
    "sum": "max",
    "max": "min",
    "min": "max",
    "try_sum": "sum",
    "greatest": "least",
    "least": "greatest",
    "upper": "lower",
    "rank": "dense_rank",
    "and": "or",
    "<": "<=",
    "<=": "<",
    "year": "month",
    "abs": "negative",
    "UNION ALL": "UNION",
    "INTERSECT": "EXCEPT",
}


def mutated(pick: Pick, rel: Rel, tables: dict[str, list[Column]], kind: str | None = None) -> Rel:
    """The query with one thing changed: operands swapped, a shuffle on another column, a literal...

    Whether the results stay the same does not matter: both applications are compared with Spark's
    own.
    """
    kind = kind or pick.one(
        ["swap", "swap", "shuffle", "shuffle", "literal", "kin", "where", "item", "join"]
    )
    spots: list[tuple[sql.Path, Any]] = []
    if kind == "swap":
        for path, node in sql.walk(rel):
            if (
                isinstance(node, list)
                and len(node) > 2
                and node[0] in _SWAPPED
                and node[1:] != node[:0:-1]
            ):
                spots.append((path, [node[0], *reversed(node[1:])]))
    elif kind == "kin":
        for path, node in sql.walk(rel):
            if isinstance(node, list) and node and isinstance(node[0], str) and node[0] in _KIN:
                spots.append((path, [_KIN[node[0]], *node[1:]]))
            if isinstance(node, dict) and node.get("op") in _KIN:
                spots.append((path, {**node, "op": _KIN[node["op"]]}))
    elif kind == "literal":
        for path, node in sql.walk(rel):
            if (
                isinstance(node, str)
                and node.isdigit()
                and path
                and isinstance(path[-1], int)
                and path[-1] > 0
            ):
                spots.append((path, str(int(node) + 1)))
    elif kind == "shuffle":
        # An exchange within the query, by one of the columns: it shows in no result.
        for path, node in sql.relations(rel):
            keys = [c.name for c in tables.get(node.get("name", ""), []) if c.type in KEYS]
            if node["k"] == "scan" and path and path[-1] == "rel" and keys:
                spots.append((path, (node, keys)))
        if spots:
            path, (node, keys) = pick.one(spots)
            # Most often by a column that nothing else reads: a reader is asked for one more.
            read = set(_WORD.findall(sql.query(rel)))
            if (unread := [key for key in keys if key not in read]) and pick.chance(70):
                keys = unread
            items = [[c.name, c.name] for c in tables[node["name"]]]
            hint = f"REPARTITION({pick.integer(1, 3)}, {pick.one(keys)})"
            inner = {
                "k": "select",
                "items": items,
                "from": [{"rel": node, "as": "s"}],
                "where": [],
                "hint": hint,
            }
            return sql.replaced(rel, path, inner)
    elif kind in ("where", "item", "join"):
        for path, node in sql.relations(rel):
            if node["k"] != "select":
                continue
            if kind == "where" and node["where"]:
                spots.append((path, {**node, "where": node["where"][1:]}))
            if kind == "item" and len(node["items"]) > 1 and path == ():
                spots.append((path, {**node, "items": node["items"][:-1]}))
            if (
                kind == "join"
                and len(node["from"]) > 1
                and node["from"][1].get("join") in ("INNER", "LEFT")
            ):
                other = "LEFT" if node["from"][1]["join"] == "INNER" else "INNER"
                spots.append(
                    (path, {**node, "from": [node["from"][0], {**node["from"][1], "join": other}]})
                )
    if not spots:
        return rel
    path, node = pick.one(spots)
    return sql.replaced(rel, path, node)
