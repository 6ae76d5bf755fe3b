"""Draws tables, settings and changes, and cases in which all is left to chance."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tests.exactness import sql
from tests.exactness.cases import Case, Change, File, Mishap, Run, Table
from tests.exactness.queries import Column, Grammar, Pick, mutated

ZONES = ("UTC", "America/Los_Angeles", "Asia/Tokyo", "Asia/Kolkata")
FORMATS = (
    *["parquet"] * 5, *["csv"] * 6, *["json"] * 4, *["orc"] * 2, *["xml"] * 2, "text",
    *["avro"] * 2,
)  # fmt: skip

# Of a session, with what they are set to. Most cannot change a result, some can.
SETTINGS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("spark.sql.session.timeZone", ZONES),
    ("spark.sql.session.timeZone", ZONES),
    ("spark.sql.ansi.enabled", ("false", "false", "true")),
    ("spark.sql.caseSensitive", ("true", "false")),
    ("spark.sql.adaptive.coalescePartitions.enabled", ("false", "true")),
    ("spark.sql.adaptive.localShuffleReader.enabled", ("false", "true")),
    ("spark.sql.adaptive.autoBroadcastJoinThreshold", ("-1", "10MB")),
    ("spark.sql.adaptive.advisoryPartitionSizeInBytes", ("64b", "64MB")),
    ("spark.sql.adaptive.forceOptimizeSkewedJoin", ("true",)),
    ("spark.sql.autoBroadcastJoinThreshold", ("-1", "10MB")),
    ("spark.sql.autoBroadcastJoinThreshold", ("-1",)),
    ("spark.sql.join.preferSortMergeJoin", ("false",)),
    ("spark.sql.exchange.reuse", ("false",)),
    ("spark.sql.files.maxPartitionBytes", ("16", "48", "128MB")),
    ("spark.sql.files.openCostInBytes", ("0", "128MB")),
    ("spark.sql.files.openCostInBytes", ("0", "128MB")),
    ("spark.sql.files.minPartitionNum", ("1", "1", "5")),
    ("spark.sql.classic.shuffleDependency.fileCleanup.enabled", ("true",)),
    ("spark.sql.classic.shuffleDependency.fileCleanup.enabled", ("true",)),
    ("spark.sql.parquet.filterPushdown", ("false",)),
    ("spark.sql.parquet.enableVectorizedReader", ("false",)),
    ("spark.sql.parquet.mergeSchema", ("true",)),
    ("spark.sql.parquet.inferTimestampNTZ.enabled", ("false",)),
    ("spark.sql.orc.enableVectorizedReader", ("false",)),
    ("spark.sql.orc.filterPushdown", ("false",)),
    ("spark.sql.csv.filterPushdown.enabled", ("false",)),
    ("spark.sql.csv.parser.columnPruning.enabled", ("false",)),
    ("spark.sql.json.filterPushdown.enabled", ("false",)),
    ("spark.sql.legacy.timeParserPolicy", ("LEGACY", "CORRECTED")),
    ("spark.sql.mapKeyDedupPolicy", ("LAST_WIN",)),
    ("spark.sql.decimalOperations.allowPrecisionLoss", ("false",)),
    ("spark.sql.sources.partitionColumnTypeInference.enabled", ("false",)),
    ("spark.sql.optimizer.dynamicPartitionPruning.reuseBroadcastOnly", ("false",)),
    ("spark.sql.optimizer.runtime.bloomFilter.applicationSideScanSizeThreshold", ("0",)),
    ("spark.sql.codegen.wholeStage", ("false", "true")),
    ("spark.sql.cbo.enabled", ("true",)),
    ("spark.sql.adaptive.enabled", ("false", "true", "true")),
    ("spark.sql.columnNameOfCorruptRecord", ("broken", "_corrupt_record")),
    ("spark.sql.legacy.sizeOfNull", ("true",)),
    ("spark.sql.storeAssignmentPolicy", ("LEGACY",)),
)
_WHILE_WRITING = ("listed_write", "running_write", "running_write", "ran_write")
_INTERPRETED = {
    "spark.sql.codegen.wholeStage": "false",
    "spark.sql.codegen.factoryMode": "NO_CODEGEN",
}
# What a relation's maker may have set: a reader takes it from there.
MAKER: tuple[tuple[str, tuple[str, ...]], ...] = (
    *[("spark.sql.session.timeZone", ZONES)] * 5,
    ("spark.sql.ansi.enabled", ("true", "false")),
    ("spark.sql.caseSensitive", ("true",)),
    ("spark.sql.parquet.inferTimestampNTZ.enabled", ("false",)),
    ("spark.sql.csv.parser.columnPruning.enabled", ("false",)),
    ("spark.sql.legacy.timeParserPolicy", ("LEGACY",)),
    ("spark.sql.columnNameOfCorruptRecord", ("broken",)),
    ("spark.sql.parquet.mergeSchema", ("true",)),
)
ACTIONS = (
    *["collect"] * 9, *["twice"] * 3, *["rdd"] * 2, *["rdd_after"] * 2, "iterate",
    "iterate_between", "count_then_collect", "write", "view", "joined_with_itself", "zipped",
)  # fmt: skip
_WORDS = ("a", "ab", "b", "A", "Ab", "c", "", "z")


# Of two files, one overflows if it is summed up by itself. Spark reads the larger one first.
_OVERFLOWING = ((-(2**55), -(2**55) + 1, -(2**55) - 1), (2**63 - 1, 9, 9, 9, 9, 9))


def value(pick: Pick, kind: str, wild: bool) -> Any:
    """One value of a column; none in one of ten."""
    if pick.chance(10):
        return None
    if wild and kind == "double":
        return pick.one([1.0, 1e16, -1e16, 3.0, 0.1, 1e8, -0.0, 0.0, 0.5])
    if wild and kind == "bigint":
        return pick.one([2**63 - 1, -(2**63) + 1, 1, 5, -5, 2**62])
    if kind in ("int", "bigint"):
        return pick.integer(0, 9) if pick.chance(70) else pick.integer(-20, 40)
    if kind in ("double", "float"):
        return pick.one([0.0, -0.0, 1.5, -2.25, 7.0, float("nan"), 0.25, -0.0, 1024.5])
    if kind == "string":
        return pick.one(_WORDS)
    if kind == "boolean":
        return pick.chance(50)
    if kind == "date":
        return f"2021-03-{pick.integer(1, 28):02d}"
    if kind.startswith("timestamp"):
        return f"2021-03-{pick.integer(12, 16):02d} {pick.integer(0, 23):02d}:30:00"
    if kind.startswith("decimal"):
        return f"{pick.integer(-99, 999)}.{pick.integer(0, 99):02d}"
    if kind == "variant":
        return pick.one(["1", "x", "2", "2.5", "true", "2021-03-01"])
    if kind == "array<int>":
        return [pick.integer(0, 5) for _ in range(pick.integer(0, 3))]
    if kind.startswith("map<"):
        return {pick.one(("k", "m", "n")): pick.integer(0, 5) for _ in range(pick.integer(0, 2))}
    if kind.startswith("struct<"):
        return {"x": pick.integer(0, 5), "y": pick.one(_WORDS)}
    raise ValueError(kind)


def nudged(of: Any) -> Any:
    """Another value that takes as many characters, where there is one."""
    if isinstance(of, bool) or of is None or isinstance(of, list | dict):
        return of
    if isinstance(of, int):
        last = abs(of) % 10
        other = last % 9 + 1 if of < 0 or last == 9 else last + 1
        return (abs(of) - last + other) * (-1 if of < 0 else 1)
    if isinstance(of, float):
        return {1.5: 2.5, 7.0: 3.0, 0.0: 1.0, 1e16: 3e16, 1.0: 3.0, 0.25: 0.75, 3.0: 1.0}.get(
            of, of
        )
    return str(of).translate(str.maketrans("abzA", "bcaB")) if not str(of)[:1].isdigit() else of


_COLUMNS = (
    "int",
    "string",
    "int",
    "double",
    "string",
    "timestamp",
    "date",
    "bigint",
    "boolean",
    "decimal(10,2)",
)
_NESTED = ("array<int>", "struct<x:int,y:string>", "map<string,int>")


def _bad_lines(pick: Pick, table: Table, rows: int) -> list[list[Any]]:
    if table.format not in ("csv", "json", "xml"):
        return []
    lines: list[list[Any]] = []
    for _ in range(pick.integer(1, 3)):
        good = [_field(pick, kind) for _, kind in table.columns if _ != "p"]
        spot = pick.integer(0, max(0, len(good) - 1))
        if table.format == "csv":
            sep = table.options.get("sep", ",")
            way = pick.integer(0, 4)
            if way <= 2 and good:
                good[spot] = "x?"
            elif way == 3:
                good = good[:spot]
            else:
                good = [*good, "more"]
            line = sep.join(good)
        elif table.format == "json":
            names = [n for n, _ in table.columns]
            line = pick.one(
                [
                    f'{{"{names[spot]}": ',
                    f'{{"{names[spot]}": "x?", "{names[0]}": 1}}',
                    "not json",
                    f'{{"{names[spot]}": {{"q": 1}}}}',
                ]
            )
        else:
            names = [n for n, _ in table.columns]
            line = pick.one(
                [
                    f"<row><{names[spot]}>x?</{names[spot]}></row>",
                    f"<row><{names[spot]}>1</row>",
                    "<row/>",
                ]
            )
        lines.append([pick.integer(0, rows), line])
    return lines


def _field(pick: Pick, kind: str) -> str:
    if kind == "string":
        return pick.one(_WORDS)
    if kind == "timestamp":
        return "2021-03-14 01:30:00"
    if kind == "date":
        return "2021-03-05"
    return str(pick.integer(0, 9))


def _options(pick: Pick, form: str) -> dict[str, str]:
    options: dict[str, str] = {}
    if form in ("csv", "json", "xml"):
        options["mode"] = pick.one(
            ["PERMISSIVE", "DROPMALFORMED", "PERMISSIVE", "DROPMALFORMED", "FAILFAST"]
        )
    if form == "csv":
        if pick.chance(20):
            options["header"] = "true"
        if pick.chance(20):
            options["sep"] = pick.one([";", "|"])
        if pick.chance(15):
            options["nullValue"] = pick.one(["a", "7"])
        if pick.chance(10):
            options["ignoreLeadingWhiteSpace"] = "true"
        if pick.chance(10):
            options["enforceSchema"] = "false"
        if pick.chance(10):
            options["multiLine"] = "true"
    if form == "json":
        if pick.chance(15):
            options["primitivesAsString"] = "true"
        if pick.chance(10):
            options["multiLine"] = "true"
        if pick.chance(10):
            options["allowUnquotedFieldNames"] = "true"
    if form == "xml":
        options["rowTag"] = "row"
    if form in ("csv", "json", "xml") and pick.chance(12):
        options["timeZone"] = pick.one(ZONES)
    if form == "text" and pick.chance(20):
        options["wholetext"] = "true"
    if form == "avro" and pick.chance(70):
        options["positionalFieldMatching"] = "true"
    if form in ("parquet", "orc") and pick.chance(15):
        options["mergeSchema"] = "true"
    if form == "parquet" and pick.chance(10):
        options["datetimeRebaseMode"] = pick.one(["CORRECTED", "LEGACY"])
    return options


@dataclass(frozen=True)
class Wish:
    """What a table is drawn from; the defaults leave all open.

    ``columns`` beside the key, some of them: empty is any. ``values``: what a column's values are
    drawn from. ``keys``: how many there are, beside ``strays`` percent of other ones. More
    percentages: ``wild`` (a column whose sums follow from the order of rows), ``bad`` (a file with
    malformed lines), ``parted`` (partition folders).
    """

    forms: tuple[str, ...] = FORMATS
    columns: tuple[str, ...] = ()
    values: dict[str, tuple[Any, ...]] = dataclasses.field(default_factory=dict)
    files: tuple[int, ...] = (1, 2, 2, 3)
    rows: tuple[int, int] = (1, 9)
    keys: int = 3
    strays: int = 15
    by: tuple[str, ...] = ("path", "path", "path", "global", "global", "catalog")
    modes: tuple[str, ...] = ("PERMISSIVE", "DROPMALFORMED") * 2 + ("FAILFAST",)
    wild: int = 60
    bad: int = 55
    parted: int = 20


def table(pick: Pick, name: str, delta: bool, wish: Wish) -> tuple[Table, list[Column]]:
    """A table and its columns as queries see them."""
    form = "delta" if delta and pick.chance(30) else pick.one(wish.forms)
    if form == "text":
        columns = [["line", "string"]]
    elif wish.columns:
        columns = [["k", pick.one(["int", "int", "string", "bigint"])]]
        columns += [[f"v{n}", kind] for n, kind in enumerate(wish.columns)]
    else:
        columns = [["k", pick.one(["int", "int", "string", "bigint"])]]
        for n in range(pick.integer(1, 4)):
            columns.append([f"v{n}", pick.one(_COLUMNS)])
        if form in ("parquet", "json", "orc") and pick.chance(25):
            columns.append(["n", pick.one(_NESTED if form != "orc" else _NESTED[:2])])
        if form in ("csv", "json") and pick.chance(15):
            columns.append(["u", "variant"])
        if form == "avro":
            columns = [c for c in columns if not c[1].startswith("decimal")]
    wild: set[str] = set()
    if form != "text" and pick.chance(wish.wild):
        columns.append(["w", pick.one(["double", "bigint"])])
        wild.add("w")
    options = _options(pick, form)
    if "mode" in options:
        options["mode"] = pick.one(wish.modes)
    made = Table(name, form, columns, [], options)
    parted = form not in ("text", "delta") and pick.chance(wish.parted)
    parts = (
        pick.one([["p=1", "p=2", "p=3"], ["p=01", "p=1", "p=x"], ["p=2021-03-01", "p=2021-03-02"]])
        if parted
        else [""]
    )
    files = []

    def drawn(column: str, kind: str, row: int) -> Any:
        if column in wish.values and (column != "w" or kind == "double"):
            return pick.one(wish.values[column])
        if column == "k" and not pick.chance(wish.strays):
            # Of few: rows of several files meet in one group.
            key = row if row < wish.keys else pick.integer(0, wish.keys - 1)
            return ["a", "b", "A"][key] if kind == "string" else key + 1
        if column in wild and kind == "bigint" and pick.chance(97):
            # As long as files are summed up one by one: about one largest value for each key.
            values = _OVERFLOWING[n % 2]
            return values[0] if row < wish.keys else pick.one(values[1:])
        return value(pick, kind, column in wild)

    for n in range(pick.one(wish.files)):
        rows = [
            [drawn(c, kind, row) for c, kind in columns] for row in range(pick.integer(*wish.rows))
        ]
        bad = _bad_lines(pick, made, len(rows)) if pick.chance(wish.bad) else []
        files.append(File(rows, parts[n % len(parts)], bad))
    schema = ", ".join(f"{c} {kind}" for c, kind in columns)
    seen = [Column(c, kind, c in wild) for c, kind in columns]
    if form in ("csv", "json", "xml") and options["mode"] == "PERMISSIVE" and pick.chance(50):
        schema += ", _corrupt_record string"
        if pick.chance(30):
            options["columnNameOfCorruptRecord"] = "_corrupt_record"
        seen.append(Column("_corrupt_record", "string"))
    if form == "text":
        schema = ""
        seen = [Column("value", "string")]
    elif form in ("parquet", "orc", "avro", "delta"):
        schema = "" if form == "delta" or pick.chance(60) else schema
    elif form == "csv" and options.get("header") == "true" and pick.chance(15):
        schema = ""
        options["inferSchema"] = "true"
        seen = [c for c in seen if c.name != "_corrupt_record"]
    if parted:
        # The partition column's type follows from its values, and from settings.
        kind = {"p=1": "int", "p=01": "string"}.get(parts[0], "date")
        seen.append(Column("p", kind))
    by = pick.one(wish.by)
    if by == "catalog" and (parted or form in ("delta", "avro")):
        by = "path"
    return dataclasses.replace(made, files=files, schema=schema, made_by=by), seen


def drawn_settings(
    pick: Pick, pool: Sequence[tuple[str, tuple[str, ...]]], most: int
) -> dict[str, str]:
    found = {}
    for _ in range(pick.integer(0, most)):
        key, values = pick.one(pool)
        found[key] = pick.one(values)
    return found


_CHANGES = ("rewrite", "rewrite", "rewrite", "touch", "append", "remove", "swap", "swap")


def changed(
    pick: Pick,
    tables: Sequence[Table],
    seen: dict[str, list[Column]],
    kinds: Sequence[str] = _CHANGES,
) -> Change:
    n = pick.integer(0, len(tables) - 1)
    it = tables[n]
    f = pick.integer(0, len(it.files) - 1)
    kind = pick.one(kinds)
    wild = {c.name for c in seen[it.name] if c.wild}
    if kind == "rewrite" and pick.chance(85):
        rows = [[nudged(v) for v in row] for row in it.files[f].rows]
        bad = it.files[f].bad
    else:
        rows = [
            [value(pick, k, c in wild) for c, k in it.columns] for _ in range(pick.integer(1, 4))
        ]
        bad = []
    moment = pick.one([*["between"] * 4, *["listed"] * 3, *_WHILE_WRITING])
    return Change(
        kind,
        n,
        f,
        rows if kind in ("rewrite", "append") or it.format == "delta" else [],
        bad if kind in ("rewrite", "append") else [],
        keep_time=pick.chance(60),
        in_place=not pick.chance(30),
        moment=moment,
        delay_ms=pick.one([0, 0, 5, 20, 60]) if moment == "running_write" else 0,
        back=moment.endswith("write") and pick.chance(60),
    )


_SPLITS = tuple(entry for entry in SETTINGS if entry[0].startswith("spark.sql.files."))


def session(pick: Pick, most: int) -> dict[str, str]:
    """The settings of a session, at most so many besides those that keep it quick."""
    # A few partitions only: empty tasks cost more time than they find.
    return {
        "spark.sql.shuffle.partitions": str(pick.integer(1, 4)),
        # Code is compiled for each query otherwise, which takes longer than such queries do.
        **(_INTERPRETED if pick.chance(70) else {}),
        # Tables are small: their joins would all be broadcast.
        **({"spark.sql.autoBroadcastJoinThreshold": "-1"} if pick.chance(60) else {}),
        **drawn_settings(pick, SETTINGS, most),
    }


def case(pick: Pick, delta: bool) -> Case:
    """One case of no family. Most differ in one thing between the applications."""
    drawn = [table(pick, f"t{n}", delta, Wish()) for n in range(pick.one([1, 1, 2, 2, 3]))]
    query, branches = Grammar(pick, {t.name: c for t, c in drawn}).root()
    asked = set(re.findall(r"\bt\d\b", sql.query(query)))
    tables = [t for t, _ in drawn if t.name in asked]
    seen = {t.name: c for t, c in drawn if t.name in asked}
    settings_ = session(pick, 3)
    anyone = any(t.made_by == "global" for t in tables)
    maker = drawn_settings(pick, MAKER, 2) if anyone else {}
    posts = ("cached", "python_udf", "pandas_groups", "pandas_map", "explained")
    post = pick.one(posts) if pick.chance(8) else ""
    some = ("e0", "e0", "e1", "e0,e2")
    force = pick.one(some) if pick.chance(70 if branches else 20) else "all"
    first = Run(query, settings_, maker, pick.one(ACTIONS), post, force)
    second = dataclasses.replace(
        first, action=pick.one(ACTIONS), force="all" if pick.chance(30) else "none"
    )
    change = Change()
    ways = [*["files"] * 9, *["query"] * 6, *["settings"] * 3, *["splits"] * 3, "none", "none"]
    ways += ["maker"] * 12 if anyone else []
    ways += ["splits"] * 12 if branches else []
    for way in [pick.one(ways)] + ([pick.one(ways)] if pick.chance(20) else []):
        if way == "files" and tables:
            change = changed(pick, tables, seen)
        elif way == "query":
            second = dataclasses.replace(second, query=mutated(pick, query, seen))
        elif way in ("settings", "splits"):
            pool = SETTINGS if way == "settings" else _SPLITS
            more = drawn_settings(pick, pool, 3)
            second = dataclasses.replace(second, settings={**second.settings, **more})
        elif way == "maker":
            second = dataclasses.replace(second, maker={**maker, **drawn_settings(pick, MAKER, 2)})
    mishap = Mishap()
    if pick.chance(10):
        kind = pick.one(["forgotten", "forgotten", "flipped", "lost"])
        mishap = Mishap(kind, pick.integer(0, 99), pick.chance(50), pick.chance(20))
    return Case(tables, first, second, change, mishap)
