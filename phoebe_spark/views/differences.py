"""Why fingerprints changed between two runs: from what each boundary's fingerprint was made of.

Pure functions over the rows of ``boundaries``: `explanation` reads them, `text` prints the
result. The parts (docs/protocol.md, "Parts") hold no literals, only their types and hashes: a
literal that lies as far from each run's own clock is one that follows the clock.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

import orjson

from phoebe_spark.reasons import Reason

Row = Mapping[str, Any]
Parts = Mapping[str, Any]

CLOCK_ADVICE = (
    "Work above it never resumes on another day: give the job its date as a fixed value, or expect"
    " boundaries below it only."
)


@dataclass(frozen=True, slots=True)
class Difference:
    """One cause, and the boundaries of the second run that it changed, as ``(execution id,
    boundary id)``. Inputs and settings count for every boundary that they reach."""

    reason: Reason
    boundaries: tuple[tuple[int, str], ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two runs by fingerprint. ``same``: boundaries of the second run whose fingerprint the first
    one has too; ``downstream``: changed by what lies upstream of them alone; ``unmatched``: changed
    and without a partner in the first run; ``unknown``: boundaries of either run without a
    fingerprint or its parts (refused, or nothing could have followed from one)."""

    same: int
    changed: int
    downstream: int
    unmatched: int
    unknown: int
    differences: tuple[Difference, ...]


def compare(
    one: Sequence[Row], other: Sequence[Row], names: Mapping[str, Mapping[int, str]]
) -> Comparison:
    """Compares two runs' rows of ``boundaries``; ``names``: of each run ("one", "other"), what each
    of its SQL executions is called. Executions are partners when they are called the same, in
    order."""
    known_one, known_other = _known(one), _known(other)
    found: dict[str, tuple[Reason, list[tuple[int, str]]]] = {}
    same = changed = downstream = unmatched = 0
    ours = _by_name(known_one, names.get("one", {}))
    for key, rows in _by_name(known_other, names.get("other", {})).items():
        theirs = ours.get(key, [])
        prints = {row["fingerprint"] for row in theirs}
        mine = {row["fingerprint"] for row in rows}
        same += sum(row["fingerprint"] in prints for row in rows)
        left = [row for row in theirs if row["fingerprint"] not in mine]
        for row in (row for row in rows if row["fingerprint"] not in prints):
            changed += 1
            partner = _partner(row, left)
            if partner is None:
                unmatched += 1
                continue
            left.remove(partner)
            causes = list(_causes(partner["parts"], row["parts"]))
            downstream += not causes
            for reason in causes:
                where = found.setdefault(reason.message, (reason, []))[1]
                where.append((row["execution_id"], row["boundary_id"]))
    return Comparison(
        same=same,
        changed=changed,
        downstream=downstream,
        unmatched=unmatched,
        unknown=len(one) - len(known_one) + len(other) - len(known_other),
        differences=tuple(
            Difference(reason, tuple(where))
            for reason, where in sorted(found.values(), key=lambda f: -len(f[1]))
        ),
    )


def _known(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Rows with a fingerprint and its parts, decoded."""
    return [
        {**row, "parts": orjson.loads(row["parts"])}
        for row in rows
        if row.get("fingerprint") and row.get("parts")
    ]


def _by_name(
    rows: Sequence[dict[str, Any]], names: Mapping[int, str]
) -> dict[tuple[str, int], list[dict[str, Any]]]:
    """Boundaries by their execution's name and its place among those of that name."""
    places: dict[str, list[int]] = defaultdict(list)
    for execution in sorted({row["execution_id"] for row in rows}):
        places[names.get(execution) or ""].append(execution)
    keys = {e: (name, place) for name, all_ in places.items() for place, e in enumerate(all_)}
    found: dict[tuple[str, int], list[dict[str, Any]]] = defaultdict(list)
    for row in sorted(rows, key=lambda r: (len(r["boundary_id"]), r["boundary_id"])):
        found[keys[row["execution_id"]]].append(row)
    return found


def _partner(row: Row, candidates: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The boundary that this one was: best by its own operators, and then by its place."""

    def likeness(candidate: Row) -> tuple[float, bool]:
        a, b = (_skeleton(r["parts"]) for r in (candidate, row))
        same_place = candidate["boundary_id"] == row["boundary_id"]
        return SequenceMatcher(a=a, b=b, autojunk=False).ratio(), same_place

    best = max(candidates, key=likeness, default=None)
    return best if best is not None and likeness(best)[0] >= 0.5 else None


def _skeleton(parts: Parts) -> list[str]:
    return [operator["name"] for operator in parts["operators"]]


def _causes(before: Parts, after: Parts) -> Iterator[Reason]:
    yield from _settings(before["settings"], after["settings"])
    yield from _inputs(before["inputs"], after["inputs"])
    if before["partitions"] != after["partitions"]:
        args = {"before": before["partitions"], "after": after["partitions"]}
        yield Reason(
            "partitions", args, f"{args['after']} partitions instead of {args['before']}"
        )  # fmt: skip
    yield from _operators(before["operators"], after["operators"])


def _settings(before: Mapping[str, str], after: Mapping[str, str]) -> Iterator[Reason]:
    for key in sorted(before.keys() | after.keys()):
        a, b = before.get(key), after.get(key)
        if a != b:
            yield Reason(
                "setting",
                {"setting": key, "before": a, "after": b},
                f"setting {key}: {a or 'as by default'} became {b or 'as by default'}",
            )


def _inputs(before: Sequence[Parts], after: Sequence[Parts]) -> Iterator[Reason]:
    roots: dict[str, tuple[list[Parts], list[Parts]]] = defaultdict(lambda: ([], []))
    for side, inputs in enumerate((before, after)):
        for one in inputs:
            roots[one["root"]][side].append(one)
    for root, (then, now) in sorted(roots.items()):
        if {i["version"] for i in then} == {i["version"] for i in now}:
            continue
        args: dict[str, Any] = {"root": root}
        if not then or not now:
            how = "is read now, and was not" if now else "is not read any more"
        else:
            figures = {k: (_sum(then, k), _sum(now, k)) for k in ("files", "bytes")}
            args |= {k: list(v) for k, v in figures.items()}
            told = [f"{a} {k} became {b}" for k, (a, b) in figures.items() if a != b]
            # Delta's snapshots list no files here, and a file written anew may be as long.
            how = "changed: " + (", ".join(told) or "another version of as many files and bytes")
        yield Reason("input", args, f"input {root} {how}")


def _sum(inputs: Sequence[Parts], key: str) -> int:
    return sum(int(i[key] or 0) for i in inputs)


def _operators(before: Sequence[Parts], after: Sequence[Parts]) -> Iterator[Reason]:
    names = [[operator["name"] for operator in side] for side in (before, after)]
    matcher = SequenceMatcher(a=names[0], b=names[1], autojunk=False)
    for what, a0, a1, b0, b1 in matcher.get_opcodes():
        if what == "equal":
            for a, b in zip(before[a0:a1], after[b0:b1], strict=True):
                yield from _operator(a, b)
            continue
        gone, new = ", ".join(names[0][a0:a1]), ", ".join(names[1][b0:b1])
        told = " instead of ".join(filter(None, (new or "nothing", gone)))
        yield Reason("operator", {"before": gone, "after": new}, f"the plan has {told}")


def _operator(before: Parts, after: Parts) -> Iterator[Reason]:
    name = after["name"]
    if before["shape"] != after["shape"]:
        yield Reason("expression", {"operator": name}, f"an expression of {name} changed")
        return
    for a, b in zip(before["literals"], after["literals"], strict=False):
        if a["hash"] == b["hash"]:
            continue
        args = {"operator": name, "type": b["type"]}
        if a.get("since_now") is not None and a["since_now"] == b.get("since_now"):
            yield Reason(
                "literal_follows_clock",
                args,
                f"a {b['type']} in {name} follows the clock, as current_date and"
                f" current_timestamp do. {CLOCK_ADVICE}",
            )
        else:
            yield Reason("literal", args, f"a literal of type {b['type']} in {name} changed")
    if len(before["literals"]) != len(after["literals"]):
        args = {"operator": name, "type": ""}
        yield Reason("literal", args, f"{name} has another number of literals")
