"""TPC-H and TPC-DS: Parquet data from tpcgen-cli, query texts from Spark's own test artifact.

Both are cached under ``build/`` and appear whole or not at all (written aside, then renamed), so
that two processes may ask for the same data at once. The query texts are the Apache Spark
project's; they are fetched from Maven Central through Maven, not copied into this tree.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Literal

from tests.support.places import BUILD

Suite = Literal["tpch", "tpcds", "tpcds-v2.7.0"]

QUERY_ARTIFACT = "org.apache.spark:spark-sql_2.13:4.2.0:jar:tests"
DATA_FORMAT = 1  # raise when the generator or its options change

TPCH_QUERIES: tuple[str, ...] = tuple(f"tpch/q{n}" for n in range(1, 23))

THE_TWELVE: tuple[str, ...] = (
    *(f"tpch/{q}" for q in ("q5", "q7", "q9", "q18", "q21")),
    *(f"tpcds/{q}" for q in ("q4", "q14b", "q23b", "q64", "q72", "q78", "q80")),
)
"""The queries with most shuffle bytes over at least five shuffle stages (q72 excepted)."""


@contextmanager
def _appears_whole(target: Path) -> Iterator[Path | None]:
    """Yields a scratch directory that becomes ``target`` on success; None when it already is."""
    if target.exists():
        yield None
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        yield scratch
        try:
            scratch.rename(target)
        except OSError:
            if not target.exists():  # another process may have been first; its copy is as good
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def data(suite: Suite, scale_factor: float, parts: int = 1) -> Path:
    """The directory of ``suite``'s tables at ``scale_factor``: ``<table>.parquet`` files, or
    ``<table>/`` directories of ``parts`` files. Generated once; raises ``CalledProcessError``
    when the generator fails.
    """
    family = suite.split("-")[0]
    target = BUILD / "data" / f"{family}-sf{scale_factor:g}-p{parts}-v{DATA_FORMAT}"
    with _appears_whole(target) as scratch:
        if scratch is not None:
            command = [
                str(Path(sys.executable).parent / "tpcgen-cli"),
                family,
                "parquet",
                f"--scale-factor={scale_factor:g}",
                f"--output-dir={scratch}",
                "--num-threads=2",
                "--no-progress",
                "--quiet",
            ]
            if parts > 1:
                command.append(f"--parts={parts}")
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return target


def tables(directory: Path) -> dict[str, Path]:
    """Table name to the path that Spark reads, for a directory made by :func:`data`."""
    return {
        p.name.removesuffix(".parquet"): p
        for p in sorted(directory.iterdir())
        if p.suffix == ".parquet" or p.is_dir()
    }


def artifact(coordinates: str, name: str) -> Path:
    """A jar of Maven Central, downloaded once into ``build/<name>``."""
    target = BUILD / name
    with _appears_whole(target) as scratch:
        if scratch is not None and (there := _in_repository(coordinates)).exists():
            shutil.copy(there, scratch)  # Maven takes ten seconds for it
        elif scratch is not None:
            goal = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy"
            where = [f"-Dartifact={coordinates}", f"-DoutputDirectory={scratch}"]
            done = subprocess.run(
                ["mvn", "-q", "-B", goal, *where],
                stdout=subprocess.PIPE,  # Maven writes escape codes, on a terminal or not
                stderr=subprocess.STDOUT,
                text=True,
                cwd=scratch,
                env={k: v for k, v in os.environ.items() if k != "MAVEN_ARGS"},
            )
            if done.returncode:
                raise OSError(f"{coordinates} cannot be had: {done.stdout[-2000:]}")
    return next(target.glob("*.jar"))


def _in_repository(coordinates: str) -> Path:
    """Where Maven keeps a jar that it has downloaded before."""
    group, name, version, kind, *classifier = coordinates.split(":")
    repository = Path(os.environ.get("MAVEN_REPOSITORY", Path.home() / ".m2" / "repository"))
    file = "-".join([name, version, *classifier]) + f".{kind}"
    return repository / group.replace(".", "/") / name / version / file


@cache
def _queries() -> dict[str, str]:
    """All query texts by name; the jar has thousands of other files."""
    with zipfile.ZipFile(artifact(QUERY_ARTIFACT, "queries")) as archive:
        return {
            name.removesuffix(".sql"): archive.read(name).decode()
            for name in archive.namelist()
            if re.fullmatch(r"tpc[^/]*/q[^/]*\.sql", name)
        }


def query(name: str) -> str:
    """The text of ``"tpch/q5"``, ``"tpcds-v2.7.0/q6"`` and so on; ``KeyError`` if absent."""
    return _queries()[name]


def query_names(suite: Suite) -> list[str]:
    """All query names of a suite, in natural order (q2 before q10)."""

    def order(name: str) -> tuple[int, str]:
        stem = name.rpartition("/")[2].removeprefix("q")
        digits = "".join(c for c in stem if c.isdigit())
        return int(digits), stem

    return sorted((n for n in _queries() if n.startswith(f"{suite}/q")), key=order)
