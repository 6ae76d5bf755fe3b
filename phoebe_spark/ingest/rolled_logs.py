"""Which files are one application's log, in which order, and which of them are missing.

Spark rolls a log into ``events_<number>_<application>`` in a directory ``eventlog_v2_...``, whose
``appstatus_...`` says whether it is over; its history server may replace the first of them by
``....compact``, without the events of finished queries. Databricks keeps the newest events in
``eventlog`` and rolls them into ``eventlog-2021-06-15--15-00.gz`` in the same folder; each file
begins with an event that holds its number. Only names and first lines are looked at here.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

FOLDER = "eventlog_v2_"
"""How the name of a rolling log's directory begins."""

_EVENTS = re.compile(
    r"events_(?P<number>\d+)_(?P<app>.+?)(?:\.(?:zstd|zst|lz4|snappy|lzf|gz))?(?P<compact>\.compact)?"
)
_STATUS = re.compile(r"appstatus_(?P<app>.+?)(?P<open>\.inprogress)?")
_DATABRICKS = re.compile(r"eventlog(?:-\d{4}-\d\d-\d\d--\d\d-\d\d(?:\.\w+)?)?")
_APPLICATION = re.compile(r"(?P<id>application_\d+_\d+|.+?)(?:_(?P<attempt>\d+))?")


@dataclass(frozen=True, slots=True)
class Part:
    """One log's files in a folder, in the order in which they were written.

    ``missing``: before which of them (their count: after the last) something is missing, and a
    sentence that says what. ``late``: the sentence for a first number that is not the first there
    can be, which is a loss unless the log's start is in it. ``copies``: files with a number that
    another one has, and that one; they are not among ``names``. ``over``: Spark had closed the log.
    """

    names: tuple[str, ...]
    missing: Mapping[int, str]
    late: str = ""
    copies: tuple[tuple[str, str], ...] = ()
    over: bool = False


def is_part(name: str) -> bool:
    """Whether a file of this name is one of several that are one log."""
    return any(form.fullmatch(name) for form in (_EVENTS, _STATUS, _DATABRICKS))


def parts_of(names: Iterable[str]) -> dict[str, list[str]]:
    """Those of a folder's files that are parts of logs, by what their log is called there.

    A log of which there is a status only has no events yet.
    """
    found: dict[str, list[str]] = defaultdict(list)
    for name in sorted(names):
        if match := _EVENTS.fullmatch(name) or _STATUS.fullmatch(name):
            found[match["app"]].append(name)
        elif _DATABRICKS.fullmatch(name):
            found["eventlog"].append(name)
    return dict(found)


def application_of(path: PurePath) -> tuple[str, str] | None:
    """Id and attempt of the application that a rolling log's directory is named after."""
    match = _APPLICATION.fullmatch(path.name.removeprefix(FOLDER))
    if match is None or not path.name.startswith(FOLDER):
        return None
    return match["id"], match["attempt"] or ""


def in_order(names: Iterable[str], heads: Mapping[str, Mapping[str, Any]] | None = None) -> Part:
    """One log's files, given as `parts_of` does. ``heads``: the first event of Databricks' files,
    where it could be read."""
    names = list(names)
    if any(map(_DATABRICKS.fullmatch, names)):
        return _databricks(names, heads or {})
    numbered: list[tuple[int, bool, str]] = []
    over = False
    for name in names:
        if match := _EVENTS.fullmatch(name):
            numbered.append((int(match["number"]), match["compact"] is not None, name))
        elif match := _STATUS.fullmatch(name):
            over = match["open"] is None
    start = max((number for number, compact, _ in numbered if compact), default=-1)
    kept = sorted(
        (number, len(name), name)
        for number, compact, name in numbered
        if number > start or (number == start and compact)
    )
    part = _by_number([(number, name) for number, _, name in kept], "events_{}", first=1, over=over)
    if start < 0:
        return part
    said = f"Spark compacted it, without the events of finished queries, to {kept[0][2]}"
    return Part(part.names, {**part.missing, 0: said}, "", part.copies, over)


def _databricks(names: list[str], heads: Mapping[str, Mapping[str, Any]]) -> Part:
    told = {name: heads.get(name, {}).get("Rollover Number") for name in names}
    numbers = {name: number for name, number in told.items() if isinstance(number, int)}
    if len(numbers) == len(names):
        ordered = sorted((number, len(name), name) for name, number in numbers.items())
        return _by_number([(n, name) for n, _, name in ordered], "rollover {}", first=0, over=False)
    # The newest has no date.
    return Part(tuple(sorted(names, key=lambda name: (name == "eventlog", name))), {})


def _by_number(numbered: list[tuple[int, str]], called: str, *, first: int, over: bool) -> Part:
    """``numbered`` in order, the best of each number first."""
    names: list[str] = []
    missing: dict[int, str] = {}
    copies: list[tuple[str, str]] = []
    late = ""
    last: int | None = None
    for number, name in numbered:
        if number == last:
            copies.append((name, names[-1]))
            continue
        begin = first if last is None else last + 1
        if begin < number:
            lost = called.format(begin)
            if begin < number - 1:
                lost += f" to {called.format(number - 1)}"
            if last is None:
                late = f"its beginning is missing ({lost})"
            else:
                missing[len(names)] = f"a piece is missing ({lost})"
        names.append(name)
        last = number
    return Part(tuple(names), missing, late, tuple(copies), over)
