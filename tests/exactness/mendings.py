"""Proof that the fuzzer sees: each known fault is brought back, and has to be found again.

A mending is a file ``mendings/<name>.toml``: ``says`` (what goes wrong without it) and
``[[replace]]`` tables (``file``, ``old``, ``new``), edits that take it back. The files that they
are about are compiled against the plugin's jar, their classes take the place of the jar's, and the
same random pairs as ever run with it.
"""

from __future__ import annotations

import shutil
import subprocess
import time
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile

from tests.exactness.engine import Engine
from tests.exactness.fuzz import DEFECTS, Defect, failing, fuzz
from tests.support.places import BUILD, ROOT, plugin_jar, spark_home

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


def edited(root: Path, mending: Mending) -> dict[str, str]:
    """The files of a mending without it, by path from the root of the sources.

    Raises ``MendingError`` where a text of the mending does not occur once.
    """
    found: dict[str, str] = {}
    for it in mending.replaces:
        path = root / it.file
        text = found.get(it.file) or (path.read_text() if path.exists() else "")
        if text.count(it.old) != 1:
            times = text.count(it.old)
            raise MendingError(f"{it.file}: the text to replace occurs {times} times: {it.old}")
        found[it.file] = text.replace(it.old, it.new)
    return found


def _compiled(sources: Sequence[Path], jar: Path, target: Path) -> None:
    """By the Scala compiler that Spark brings along for its shell."""
    spark = f"{spark_home()}/jars/*"
    command = ["java", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xss4m", "-cp", spark]
    command += ["scala.tools.nsc.Main", "-nowarn", "-cp", f"{jar}:{spark}", "-d", str(target)]
    done = subprocess.run([*command, *map(str, sources)], capture_output=True, text=True)
    if done.returncode:
        raise MendingError(f"it does not compile: {done.stdout[-2000:]}{done.stderr[-500:]}")


class Workshop:
    """Where jars are made without one mending each, out of the plugin's jar."""

    def __init__(self, folder: Path = BUILD / "exactness" / "workshop") -> None:
        self.folder = folder
        self.mended = plugin_jar()

    def jar(self, mending: Mending) -> Path:
        """A jar without the mending. Raises ``MendingError``."""
        root = self.folder / mending.name
        shutil.rmtree(root, ignore_errors=True)
        classes = root / "classes"
        classes.mkdir(parents=True)
        sources = []
        for file, text in edited(ROOT, mending).items():
            sources.append(root / Path(file).name)
            sources[-1].write_text(text)
        _compiled(sources, self.mended, classes)
        new = {p.relative_to(classes).as_posix(): p for p in classes.rglob("*") if p.is_file()}
        made = root / "plugin.jar"
        with ZipFile(self.mended) as old, ZipFile(made, "w", ZIP_DEFLATED) as jar:
            for entry in old.infolist():
                if entry.filename not in new:
                    jar.writestr(entry, old.read(entry))
            for name, path in new.items():
                jar.write(path, name)
        return made


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
    for mending in wanted:
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            say(f"no time left for {mending.name} and what follows")
            break
        results.append(_find(mending, workshop, seed, pairs, min(seconds, left_s), say))
        it = results[-1]
        said = f"found after {it.pairs} pairs" if it.found else f"NOT found in {it.pairs} pairs"
        say(f"{mending.name}: {said}, {it.seconds:.0f} s")
        if it.defect is not None:
            say(it.defect.text())
    return results


def _find(
    mending: Mending,
    workshop: Workshop,
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
    with Engine(jar) as engine, Engine(workshop.mended) as judge:

        def its_own(defect: Defect) -> bool:
            return defect.finding.kind != "broken" and not any(
                failing(judge, defect.batch, defect.finding)
            )

        report = fuzz(
            [engine],
            seed,
            pairs,
            seconds,
            lambda _: None,
            kinds=(*DEFECTS, "order", "typed"),
            stop_when=its_own,
        )
    mine = report.defects[-1] if report.stopped else None
    return Result(mending, report.stopped, report.pairs, report.seconds, mine)
