"""A case: everything that two applications do, as plain data."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any

from tests.exactness import sql


@dataclass(frozen=True, slots=True)
class File:
    """One file of a table: rows by column, and lines that the format does not allow.

    ``part`` is its partition folder ("p=1", or empty), ``bad`` holds (position, line).
    """

    rows: list[list[Any]]
    part: str = ""
    bad: list[list[Any]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Table:
    """A table of files. Types are Spark's; ``schema`` is what the reader is told, empty: inferred.

    ``made_by``: ``path`` (a temporary view of this session), ``global`` (a global temporary view
    that another session made), ``catalog`` (a table of the catalogue).
    """

    name: str
    format: str
    columns: list[list[str]]
    files: list[File]
    options: dict[str, str] = field(default_factory=dict)
    schema: str = ""
    made_by: str = "path"


@dataclass(frozen=True, slots=True)
class Change:
    """What happens to a table's files, and when.

    ``kind``: ``none``, ``touch``, ``rewrite``, ``append``, ``remove``, ``swap``; for rewrites
    ``rows`` are the new ones. ``moment``: ``between`` the applications; ``listed`` (the second
    application has listed its inputs, the query has not begun); ``listed_write`` (the same in the
    application that writes); ``running_write`` (its query runs) or ``ran_write`` (its query has
    ended, a commit may be under way), ``delay_ms`` after that. ``back``: before the second
    application the files are again as they were.
    """

    kind: str = "none"
    table: int = 0
    file: int = 0
    rows: list[list[Any]] = field(default_factory=list)
    bad: list[list[Any]] = field(default_factory=list)
    keep_time: bool = False
    in_place: bool = True
    moment: str = "between"
    delay_ms: int = 0
    back: bool = False


@dataclass(frozen=True, slots=True)
class Mishap:
    """What befalls the checkpoints of a case before its second application.

    ``kind``: ``none``; ``forgotten`` (a manifest is gone), ``flipped`` (one byte of a pack, at
    ``spot`` percent of what lies before its footer), ``lost`` (packs are gone). ``every``: all of
    them, or the ``spot``-th only. ``running``: while the query runs, and not before it.
    """

    kind: str = "none"
    spot: int = 0
    every: bool = False
    running: bool = False


@dataclass(frozen=True, slots=True)
class Run:
    """What one application does with the tables.

    ``settings`` are the session's that asks, ``maker`` those of the session that makes the
    relations of ``global`` tables. ``action``: how the rows are fetched. ``post``: what is done to
    the query's frame first (Python functions, caches). ``force``: the boundaries to be
    checkpointed.
    """

    query: sql.Rel
    settings: dict[str, str] = field(default_factory=dict)
    maker: dict[str, str] = field(default_factory=dict)
    action: str = "collect"
    post: str = ""
    force: str = "all"


@dataclass(frozen=True, slots=True)
class Case:
    """Two applications over the same tables, and what changes in between."""

    tables: list[Table]
    first: Run
    second: Run
    change: Change = field(default_factory=Change)
    mishap: Mishap = field(default_factory=Mishap)


HELD_BYTES = "spark.phoebe.checkpoint.held_bytes"


@dataclass(frozen=True, slots=True)
class Batch:
    """Cases that share their applications: what one JVM's SparkContext can have only once.

    ``cores`` of the first application and of the second.
    """

    cases: list[Case]
    cores: list[int] = field(default_factory=lambda: [2, 2])
    delta: bool = False
    conf: dict[str, str] = field(default_factory=dict)

    @property
    def is_held(self) -> bool:
        """Whether the driver holds the bytes of boundaries that cannot be computed again."""
        return self.conf.get(HELD_BYTES) != "0"

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @staticmethod
    def from_json(text: str) -> Batch:
        """Raises ``ValueError`` or ``TypeError`` when it is not a batch."""
        return batch_of(json.loads(text))


def batch_of(value: dict[str, Any]) -> Batch:
    return Batch(**{**value, "cases": [_case(c) for c in value["cases"]]})


def _case(value: dict[str, Any]) -> Case:
    return Case(
        tables=[_table(t) for t in value["tables"]],
        first=Run(**value["first"]),
        second=Run(**value["second"]),
        change=Change(**value["change"]),
        mishap=Mishap(**value["mishap"]),
    )


def _table(value: dict[str, Any]) -> Table:
    return Table(**{**value, "files": [File(**f) for f in value["files"]]})


def size(case: Case) -> int:
    """How much there is to read in a case: what shrinking makes less."""
    return (
        sql.size(dataclasses.asdict(case))
        + 5 * (case.first != case.second)
        + 5 * (case.change.kind != "none")
        + 5 * (case.mishap.kind != "none")
        + len(sql.query(case.first.query)) // 4
    )
