"""Which logs there are: event logs and spool files in directories, and the files that make one."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from errno import ENOENT
from itertools import zip_longest
from pathlib import Path
from typing import Any

import orjson

from phoebe_spark.errors import UnreadableLogError
from phoebe_spark.ingest.compression import TORN, chunks
from phoebe_spark.ingest.eventlog import EventReader, LogKind, LogSource
from phoebe_spark.ingest.rolled_logs import FOLDER, application_of, in_order, is_part, parts_of

_SPOOL = re.compile(r"(?P<stem>.+?)(?:-[0-9a-f]{8})?\.ndjson")


def find_logs(
    paths: Iterable[str | Path], unreadable: Callable[[Path, OSError], None] | None = None
) -> list[LogSource]:
    """The logs in ``paths``: files, rolling directories, or directories of either.

    The parts of a rolled log, and the spool files of one application, are one log; a part that is
    named alone stands for all of it. Hidden files and Hadoop's ``_SUCCESS`` and checksums are
    passed over. ``unreadable`` is told of each path that does not exist or cannot be listed;
    without it ``OSError`` is raised.
    """
    found: list[LogSource] = []
    spools: dict[tuple[Path, str], list[Path]] = {}
    rolled: set[tuple[Path, str]] = set()

    def visit(path: Path) -> None:
        try:
            look(path)
        except OSError as error:
            if unreadable is None:
                raise
            unreadable(path, error)

    def look(path: Path) -> None:
        if path.is_dir():
            files, folders = _listed(path)
            parts = parts_of(files)
            take_parts(path, parts)
            if path.name.startswith(FOLDER):
                if not parts:
                    found.append(LogSource(path, (), "eventlog"))
                return
            taken = {name for mine in parts.values() for name in mine}
            for name in sorted({*files, *folders} - taken):
                visit(path / name)
        elif not path.exists():
            raise FileNotFoundError(ENOENT, "no such file or directory", str(path))
        elif spool := _SPOOL.fullmatch(path.name):
            spools.setdefault((path.parent, spool.group("stem")), []).append(path)
        elif is_part(path.name):
            parts = parts_of(_listed(path.parent)[0])
            take_parts(path.parent, {k: mine for k, mine in parts.items() if path.name in mine})
        else:
            found.append(LogSource(path, (path,), "eventlog"))

    def take_parts(folder: Path, parts: Mapping[str, Sequence[str]]) -> None:
        for called, names in parts.items():
            if (folder, called) not in rolled:
                rolled.add((folder, called))
                found.extend(_rolled(folder, names))

    for given in paths:
        visit(Path(given).expanduser())
    for files in spools.values():
        ordered = tuple(sorted(files, key=lambda path: (path.stat().st_mtime_ns, path.name)))
        found.append(LogSource(ordered[0], ordered, "spool"))
    return found


def _listed(folder: Path) -> tuple[list[str], list[str]]:
    """Names of files and of folders, without hidden ones. Raises ``OSError``."""
    files: list[str] = []
    folders: list[str] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if not entry.name.startswith((".", "_")):
                (folders if entry.is_dir() else files).append(entry.name)
    return files, folders


def _rolled(folder: Path, names: Sequence[str]) -> Iterator[LogSource]:
    """The logs that are written in these parts: one, but for folders that several clusters used."""
    heads = {name: head for name in names if (head := _databricks_head(folder / name))}
    contexts = {str(head.get("SparkContext Id")) for head in heads.values()}
    for context in sorted(contexts) or [""]:
        mine = [
            n for n in names if str(heads.get(n, {}).get("SparkContext Id", context)) == context
        ]
        part = in_order(mine, heads)
        missing = dict(part.missing)
        for copy, kept in part.copies:
            if not _same_lines(folder / copy, folder / kept):
                text = f"two files have one number, {kept} was read and {copy} was not"
                missing.setdefault(part.names.index(kept), text)
        files = tuple(folder / name for name in part.names)
        alone = len(files) == 1 or len(contexts) > 1 or not _is_databricks(names)
        yield LogSource(
            files[0] if files and alone and not folder.name.startswith(FOLDER) else folder,
            files,
            "eventlog",
            missing=missing,
            late=part.late,
            over=part.over,
            application=application_of(folder),
        )


def _is_databricks(names: Iterable[str]) -> bool:
    return all(name.startswith("eventlog") for name in names)


def _databricks_head(path: Path) -> Mapping[str, Any] | None:
    """The event by which Databricks begins each of a log's files."""
    if not _is_databricks([path.name]):
        return None
    try:
        with path.open("rb") as raw:
            first = next(chunks(raw), b"").partition(b"\n")[0]
        head = orjson.loads(first)
    except (*TORN, OSError, UnreadableLogError, orjson.JSONDecodeError):
        return None  # reading it will say what is wrong
    known = isinstance(head, dict) and head.get("Event") == "DBCEventLoggingListenerMetadata"
    return head if known else None


def _same_lines(one: Path, other: Path) -> bool:
    """Whether two files hold the same, perhaps compressed otherwise."""
    readers = [EventReader(LogSource(path, (path,), "eventlog")) for path in (one, other)]
    try:
        with one.open("rb") as first, other.open("rb") as second:
            lines = zip_longest(readers[0].raw_lines(first), readers[1].raw_lines(second))
            return all(a == b for a, b in lines) and not any(reader.torn for reader in readers)
    except (OSError, UnreadableLogError):
        return False


def kind_of(name: str) -> LogKind:
    """What a file of this name holds."""
    return "spool" if _SPOOL.fullmatch(name) else "eventlog"
