"""Proof that the fuzzer sees: each known fault is brought back, and has to be found again.

A mending is a file ``mendings/<name>.toml``: ``says`` (what goes wrong without it) and
``[[replace]]`` tables (``file``, ``old``, ``new``), edits that take it back. They are applied to a
copy of ``listeners/``, the jar is built there, and the same random pairs as ever run with it.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import time
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.exactness.engine import Engine
from tests.exactness.fuzz import DEFECTS, Defect, failing, fuzz
from tests.support.places import BUILD, ROOT

_BUILD = ["mvn", "-q", "-B", "-f", "listeners/pom.xml", "package", "-Dmaven.test.skip=true"]
_BUILD.append("-Dscala.recompile=incremental")
_SOURCES = ("listeners/pom.xml", "listeners/src/main")
FOLDER = Path(__file__).parent / "mendings"


class MendingError(RuntimeError):
    """A mending's file does not say what it must, or cannot be applied to these sources."""


@dataclass(frozen=True, slots=True)
class Replace:
    """``old`` occurs once in ``file`` (from the root of the sources) and becomes ``new``."""

    file: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Mending:
    name: str
    says: str
    replaces: tuple[Replace, ...]


@dataclass(frozen=True, slots=True)
class Result:
    """Whether a fault was found again, after how many pairs, and as what."""

    mending: Mending
    found: bool
    pairs: int
    seconds: float
    defect: Defect | None = None


def read(folder: Path = FOLDER) -> list[Mending]:
    """All mendings by name. Raises ``MendingError``."""
    return [_read(path) for path in sorted(folder.glob("*.toml"))]


def _read(path: Path) -> Mending:
    try:
        value: dict[str, Any] = tomllib.loads(path.read_text())
        return Mending(path.stem, value["says"], tuple(Replace(**r) for r in value["replace"]))
    except (KeyError, TypeError, ValueError) as error:
        raise MendingError(f"{path.name}: {error}") from error


def sources(root: Path, mending: Mending | None = None) -> dict[str, bytes]:
    """What a jar is built of, by path from the root, without the mending.

    Raises ``MendingError`` where a text of the mending does not occur once.
    """
    found = {}
    for name in _SOURCES:
        below = [root / name, *(root / name).rglob("*")]
        found.update({str(p.relative_to(root)): p.read_bytes() for p in below if p.is_file()})
    for it in mending.replaces if mending is not None else ():
        text = found.get(it.file, b"").decode()
        if text.count(it.old) != 1:
            times = text.count(it.old)
            raise MendingError(f"{it.file}: the text to replace occurs {times} times: {it.old}")
        found[it.file] = text.replace(it.old, it.new).encode()
    return found


def _put(wanted: dict[str, bytes], root: Path) -> None:
    """Makes the sources under ``root`` those that are wanted; what is the same stays untouched."""
    for name in set(sources(root)) - set(wanted):
        (root / name).unlink()
    for name, data in wanted.items():
        to = root / name
        if not to.exists() or to.read_bytes() != data:
            to.parent.mkdir(parents=True, exist_ok=True)
            to.write_bytes(data)


def _build(root: Path) -> Path:
    """The jar of the sources under ``root``."""
    done = subprocess.run(_BUILD, cwd=root, capture_output=True, text=True)
    if done.returncode:
        raise MendingError(f"it does not compile: {done.stdout[-2000:]}{done.stderr[-500:]}")
    jars = (root / "listeners" / "target").glob("phoebe-spark_2.13-*.jar")
    return next(j for j in jars if not j.stem.endswith(("-sources", "-javadoc", "-tests")))


class Workshop:
    """A copy of ``listeners/`` in which jars are built without one mending each.

    Jars are kept by the hash of their sources: what has not changed is not built again.
    """

    def __init__(self, folder: Path = BUILD / "exactness" / "workshop") -> None:
        self.folder = folder

    def jar(self, mending: Mending | None) -> Path:
        """A jar without the mending, or the jar as it is. Raises ``MendingError``."""
        wanted = sources(ROOT, mending)
        digest = hashlib.sha256()
        for file in sorted(wanted):
            digest.update(f"{file}\0{len(wanted[file])}\0".encode() + wanted[file])
        name = mending.name if mending is not None else "as-it-is"
        jar = self.folder / f"{name}-{digest.hexdigest()[:16]}.jar"
        if not jar.exists():
            target = self.folder / "listeners" / "target"
            if not target.exists() and (ROOT / "listeners" / "target").exists():
                shutil.copytree(ROOT / "listeners" / "target", target)
            _put(wanted, self.folder)
            built = _build(self.folder)
            for old in self.folder.glob(f"{name}-*.jar"):
                old.unlink()
            beside = jar.with_suffix(".new")
            shutil.copy(built, beside)
            beside.rename(jar)
        return jar


def find_again(
    names: Sequence[str],
    seed: int,
    pairs: int,
    seconds: float,
    say: Callable[[str], None],
    total_s: float = float("inf"),
) -> list[Result]:
    """Looks for each fault in at most ``pairs`` pairs and ``seconds``; all by default.

    A defect counts only if the jar with the mending does not have it. A fault that does not build
    or apply counts as not found, and is said.
    """
    known = read()
    if unknown := set(names) - {m.name for m in known}:
        raise MendingError(f"no such mending: {', '.join(sorted(unknown))}")
    deadline = time.monotonic() + total_s
    workshop = Workshop()
    results: list[Result] = []
    wanted = [m for m in known if not names or m.name in names]
    if not wanted:
        return results
    mended = workshop.jar(None)
    for mending in wanted:
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            say(f"no time left for {mending.name} and what follows")
            break
        results.append(_find(mending, workshop, mended, seed, pairs, min(seconds, left_s), say))
        it = results[-1]
        said = f"found after {it.pairs} pairs" if it.found else f"NOT found in {it.pairs} pairs"
        say(f"{mending.name}: {said}, {it.seconds:.0f} s")
        if it.defect is not None:
            say(it.defect.text())
    return results


def _find(
    mending: Mending,
    workshop: Workshop,
    mended: Path,
    seed: int,
    pairs: int,
    seconds: float,
    say: Callable[[str], None],
) -> Result:
    try:
        jar = workshop.jar(mending)
    except MendingError as error:
        say(str(error))
        return Result(mending, False, 0, 0.0)
    with Engine(jar) as engine, Engine(mended) as judge:

        def its_own(defect: Defect) -> bool:
            return defect.finding.kind != "broken" and not any(
                failing(judge, defect.batch, defect.finding)
            )

        report = fuzz(
            engine,
            seed,
            pairs,
            seconds,
            lambda _: None,
            kinds=(*DEFECTS, "order"),
            stop_when=its_own,
        )
    mine = report.defects[-1] if report.stopped else None
    return Result(mending, report.stopped, report.pairs, report.seconds, mine)
