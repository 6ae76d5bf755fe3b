"""The third application of the bench ``fingerprint``: mutations missed, and collisions.

Queries are planned without adaptive execution, so that each plan is seen once and whole, and they
are not run. Whether a change of a query's text must show is judged by Spark's own canonical form of
each exchange: where it is another one than before, the fingerprint must be, too, unless the
exchange yields the very same rows. A changed setting, and a file written anew under its name, must
show in each exchange that it can reach. Exchanges that share a fingerprint and not Spark's
canonical form are run, and their rows compared.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from py4j.protocol import Py4JError
from pyspark.errors import PySparkException

from tests.support import tpc
from tests.support.probe import Planned, Probe, probe

SUITES: tuple[tpc.Suite, ...] = ("tpch", "tpcds")
TEXTS_PER_QUERY = 3

NUMBER = re.compile(r"(?<![\w.'-])\d+(?:\.\d+)?(?![\w.'-])")
STRING = re.compile(r"'[^']+'")
DATE = re.compile(r"'(\d{4})-(\d\d)-(\d\d)'")
WORDS: tuple[tuple[str, str], ...] = (
    (r"<=", "<"), (r">=", ">"), (r"(?<![<>])=(?!=)", "<>"), (r"\band\b", "or"),
    (r"\bsum\(", "max("), (r"\bavg\(", "min("), (r"\bcount\(", "max("), (r"\bmin\(", "max("),
    (r"\bunion all\b", "union"), (r"\bintersect\b", "except"), (r"\bexists\b", "not exists"),
    (r"\bleft (?:outer )?join\b", "join"), (r"\bnot in\b", "in"), (r"\basc\b", "desc"),
    (r"\brank\(", "dense_rank("), (r"\brollup\b", "cube"),
)  # fmt: skip
"""What else is changed in a text: an operator, a function, a kind of join."""

SETTINGS: tuple[tuple[str, str], ...] = (
    ("spark.sql.session.timeZone", "Asia/Tokyo"),
    ("spark.sql.ansi.enabled", "true"),
    ("spark.sql.caseSensitive", "true"),
    ("spark.sql.legacy.timeParserPolicy", "LEGACY"),
    ("spark.sql.parquet.enableVectorizedReader", "false"),
    ("hive.exec.orc.tolerate.missing.schema", "false"),
)


@dataclass(slots=True)
class _Findings:
    """What was tried and what went wrong."""

    tried: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    missed: list[dict[str, Any]] = field(default_factory=list)
    needless: dict[str, int] = field(default_factory=lambda: defaultdict(int))


def main() -> None:
    out, scale_factor, seed, settings = sys.argv[1:5]
    path = Path(out)
    findings = _Findings()
    rng = random.Random(int(seed))
    with probe(path.with_suffix("")) as p:
        spark = p.spark
        for key, value in {**json.loads(settings), "spark.sql.adaptive.enabled": "false"}.items():
            spark.conf.set(key, value)
        shared: dict[str, dict[str, tuple[str, int]]] = defaultdict(dict)
        for suite in SUITES:
            folder = path.with_suffix("") / suite
            shutil.copytree(tpc.data(suite, float(scale_factor)), folder)
            plain = _plan_all(p, suite, folder)
            for name, (text, exchanges) in plain.items():
                for number, e in enumerate(exchanges):
                    if e.hash:
                        shared[e.hash].setdefault(e.canonical, (text, number))
                _texts(p, name, text, exchanges, rng, findings)
            print(suite, "texts done", flush=True)
            _settings(p, plain, findings)
            _same_time(p, folder, plain, rng, findings)
            _files(p, folder, plain, rng, findings)
            p.tables_of(folder)
        collisions, compared = _collisions(p, shared)
    path.write_text(
        json.dumps(
            {
                "collisions": len(collisions),
                "mutations_missed": len(findings.missed),
                "mutations": dict(findings.tried),
                "unreached_that_changed": dict(findings.needless),
                "compared_by_rows": compared,
                "colliding": collisions,
                "missed": findings.missed[:50],
            }
        )
    )


Plans = dict[str, tuple[str, list[Planned]]]


def _plan_all(p: Probe, suite: tpc.Suite, folder: Path) -> Plans:
    p.tables_of(folder)
    found = {}
    for name in tpc.query_names(suite):
        for number, text in enumerate(filter(str.strip, tpc.query(name).split(";"))):
            with suppress(PySparkException):  # q30 names a column that the generator does not make
                found[f"{name}.{number}"] = (text, p.planned(text))
    return found


# --- another text


def _texts(
    p: Probe,
    name: str,
    text: str,
    before: list[Planned],
    rng: random.Random,
    findings: _Findings,
) -> None:
    changes = list(_changes(text))
    rng.shuffle(changes)
    known = {e.canonical for e in before}
    hashes = {e.hash: number for number, e in enumerate(before) if e.hash}
    for kind, changed in changes[:TEXTS_PER_QUERY]:
        try:
            after = p.planned(changed)
        except PySparkException:
            continue  # no query any more
        for number, e in enumerate(after):
            if e.canonical in known or not e.hash:
                continue
            findings.tried[kind] += 1
            if e.hash in hashes and not _same_rows(p, (text, hashes[e.hash]), (changed, number)):
                findings.missed.append({"query": name, "kind": kind, "text": changed})


def _changes(text: str) -> Iterator[tuple[str, str]]:
    """Every single change of a text, by kind."""

    def at(match: re.Match[str], new: str) -> str:
        return text[: match.start()] + new + text[match.end() :]

    quoted = [m.span() for m in STRING.finditer(text)]
    for m in NUMBER.finditer(text):
        if not any(a <= m.start() < b for a, b in quoted):
            yield "number", at(m, str(int(m[0]) + 1) if m[0].isdigit() else m[0] + "1")
    for m in STRING.finditer(text):
        date = DATE.fullmatch(m[0])
        new = f"'{int(date[1]) + 1}-{date[2]}-{date[3]}'" if date else m[0][:-1] + "x'"
        yield "string", at(m, new)
    for pattern, new in WORDS:
        for m in re.finditer(pattern, text, re.IGNORECASE):
            if not any(a <= m.start() < b for a, b in quoted):
                yield f"{m[0].lower()} for {new}", at(m, new)


# --- the same text under another setting, or over other files


def _settings(p: Probe, plain: Plans, findings: _Findings) -> None:
    conf = p.spark.conf
    for key, value in SETTINGS:
        old = conf.get(key, None)
        conf.set(key, value)
        _compare(p, plain, key, lambda _: True, findings)
        if old is None:
            conf.unset(key)
        else:
            conf.set(key, old)
    old = conf.get("spark.sql.shuffle.partitions")
    conf.set("spark.sql.shuffle.partitions", "7")
    _compare(p, plain, "partitions", lambda e: "partitioning(" in e.partitioning, findings)
    conf.set("spark.sql.shuffle.partitions", old or "")


def _files(
    p: Probe, folder: Path, plain: Plans, rng: random.Random, findings: _Findings
) -> None:  # fmt: skip
    """Half of the tables are written anew: the same bytes, under the same names."""
    tables = sorted(tpc.tables(folder).values())
    chosen = rng.sample(tables, len(tables) // 2)
    for path in chosen:
        scratch = path.with_suffix(".new")
        shutil.copyfile(path, scratch)
        scratch.rename(path)
    p.tables_of(folder)
    names = [f"/{path.name}" for path in chosen]
    _compare(p, plain, "file", lambda e: any(r.endswith(n) for r in e.roots for n in names),
             findings)  # fmt: skip


def _same_time(
    p: Probe, folder: Path, plain: Plans, rng: random.Random, findings: _Findings
) -> None:  # fmt: skip
    """Half of the tables are written anew: the same lengths and times, under the same names."""
    tables = sorted(tpc.tables(folder).values())
    chosen = rng.sample(tables, len(tables) // 2)
    before = {name: p.identities(text) for name, (text, _) in plain.items()}
    for path in chosen:
        time_ns = path.stat().st_mtime_ns
        scratch = path.with_suffix(".new")
        shutil.copyfile(path, scratch)
        scratch.rename(path)
        os.utime(path, ns=(time_ns, time_ns))
    p.tables_of(folder)
    names = [f"/{path.name}" for path in chosen]
    for name, (text, exchanges) in plain.items():
        for e, was, now in zip(exchanges, before[name], p.identities(text), strict=True):
            if e.hash and any(r.endswith(n) for r in e.roots for n in names):
                findings.tried["same time"] += 1
                if was == now:
                    findings.missed.append({"query": name, "kind": "same time", "hash": e.hash})


def _compare(
    p: Probe,
    plain: Plans,
    kind: str,
    reached: Callable[[Planned], bool],
    findings: _Findings,
) -> None:
    for name, (text, before) in plain.items():
        try:
            after = p.planned(text)
        except PySparkException:
            continue
        hashes = {e.hash for e in after if e.hash}
        for e in before:
            if not e.hash:
                continue
            if reached(e):
                findings.tried[kind] += 1
                if e.hash in hashes:
                    findings.missed.append({"query": name, "kind": kind, "hash": e.hash})
            elif e.hash not in hashes:
                findings.needless[kind] += 1


# --- rows


def _same_rows(p: Probe, one: tuple[str, int], other: tuple[str, int]) -> bool:
    """What cannot be compared, because a text fails when it runs, is not the same."""
    try:
        return p.same_rows(one, other)
    except (PySparkException, Py4JError):
        return False


# --- one fingerprint for two


def _collisions(
    p: Probe, shared: dict[str, dict[str, tuple[str, int]]]
) -> tuple[list[dict[str, Any]], int]:
    colliding, compared = [], 0
    for found in shared.values():
        (one, *others) = found.values()
        for other in others:
            compared += 1
            if not _same_rows(p, one, other):
                colliding.append({"one": one, "other": other})
    return colliding, compared


if __name__ == "__main__":
    main()
