"""Applies breakages in a copy of the sources and runs the tests that are to see them.

Python files are edited in the copy. A Scala file is compiled against the plugin's jar
(`tests.exactness.mendings`): a suite then runs with its classes before all others, a test on a real
Spark with a jar that holds them.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.breakages import listed
from tests.breakages.listed import Breakage, BreakageError
from tests.exactness.mendings import MendingError, Workshop
from tests.support import jvm
from tests.support.places import BUILD, ROOT, plugin_jar, spark_home, testing_jar

COPIED = ("phoebe_spark", "training", "tests", "benchmarks", "docs", "conf", "listeners/src")
FILES = ("pyproject.toml", "constraints.txt", "README.md", "CONTRIBUTING.md", "CHANGELOG.md")
FILES += ("Makefile", "listeners/pom.xml", "hatch_build.py")
TIMEOUT_S = 900
HUNG = 124
OPENS = tuple(
    f"--add-opens=java.base/{package}=ALL-UNNAMED"
    for package in ("java.nio", "java.lang", "java.lang.invoke", "java.util", "sun.nio.ch")
)
"""As ``listeners/pom.xml`` says."""


@dataclass(frozen=True, slots=True)
class Result:
    """Whether a breakage was caught, and how the test's output ended."""

    breakage: Breakage
    caught: bool
    seconds: float
    said: str = ""
    hung: bool = False


class Copy:
    """A copy of the sources; its data and downloads are the original's."""

    def __init__(self) -> None:
        place = BUILD / "breakages"
        place.mkdir(parents=True, exist_ok=True)
        self._folder = tempfile.TemporaryDirectory(dir=place)  # gone with this object
        folder = Path(self._folder.name)
        self.root = folder / "sources"
        ignored = shutil.ignore_patterns("__pycache__", "*.jar")
        for name in COPIED:
            shutil.copytree(ROOT / name, self.root / name, ignore=ignored)
        for name in FILES:
            shutil.copy(ROOT / name, self.root / name)
        (self.root / "build").symlink_to(BUILD)
        target = self.root / "listeners" / "target"
        target.mkdir()
        self.jar = target / plugin_jar().name
        for jar in (plugin_jar(), testing_jar()):
            shutil.copy(jar, target)
        self._workshop = Workshop(folder / "workshop")

    def run(self, breakage: Breakage) -> Result:
        """Breaks, runs the test, takes it back. Raises ``BreakageError``."""
        began = time.monotonic()
        if breakage.is_scala:
            try:
                jar = self._workshop.jar(listed.as_mending(self.root, breakage))
            except MendingError as error:
                raise BreakageError(f"{breakage.name}: {error}") from error
            code, said = self._with_jar(breakage.caught_by, jar)
        else:
            file = listed.source(self.root, breakage)
            whole = file.read_text()
            file.write_text(listed.broken(self.root, breakage))
            try:
                code, said = self.test(breakage.caught_by)
            finally:
                file.write_text(whole)
        seconds = time.monotonic() - began
        if code == HUNG:
            return Result(breakage, False, seconds, said, hung=True)
        # All but a failed test says nothing about them: a fixture, a suite that never ran.
        caught = code == 1 and a_test_failed(said)
        if code and not caught:
            raise BreakageError(f"{breakage.name}: exit code {code}: {said}")
        return Result(breakage, caught, seconds, said)

    def _with_jar(self, test: str, jar: Path) -> tuple[int, str]:
        whole = self.jar.with_suffix(".whole")
        self.jar.rename(whole)
        shutil.copy(jar, self.jar)
        try:
            return self.test(test)
        finally:
            whole.replace(self.jar)

    def test(self, test: str) -> tuple[int, str]:
        """Runs one test as it is listed; its exit code (``HUNG``: it did not end) and the end of
        its output."""
        if test.startswith("tests/"):
            options = ["-q", "-x", "--no-header", "-p", "no:cacheprovider", "-p", "no:xdist"]
            command = [sys.executable, "-m", "pytest", *options, *shlex.split(test)]
        else:
            command = self._suite(listed.suite_class(self.root, test))
        paths = os.pathsep.join([str(self.root), str(self.root / "training")])
        environment = {**os.environ, "PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1"}
        code, said = run_to_end(command, self.root, environment | {jvm.VARIABLE: jvm.options()})
        return code, said[-1500:]

    def _suite(self, name: str) -> list[str]:
        tests = ROOT / "listeners" / "target" / "test-classes"
        classes = [self.jar, tests, *_scalatest(), f"{spark_home()}/jars/*"]
        command = ["java", *OPENS, "-cp", os.pathsep.join(map(str, classes))]
        return [*command, "org.scalatest.tools.Runner", "-R", str(tests), "-s", name, "-oW"]


def run_to_end(
    command: Sequence[str], folder: Path, environment: dict[str, str], timeout_s: float = TIMEOUT_S
) -> tuple[int, str]:
    """Exit code and output. What does not end is interrupted, so that pytest ends what it started,
    and then killed with its process group; the code is ``HUNG``."""
    with tempfile.TemporaryFile("w+", errors="replace") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            code = HUNG
            process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(min(timeout_s, 30))
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        output.seek(0)
        return code, output.read()


def a_test_failed(said: str) -> bool:
    """Whether pytest or ScalaTest counts a test that failed at the end of its output."""
    return bool(re.search(r"\b[1-9]\d* failed\b|\b[1-9]\d* TESTS? FAILED\b", said))


def _scalatest() -> list[Path]:
    """ScalaTest's jars, of the version that ``listeners/pom.xml`` names."""
    text = (ROOT / "listeners" / "pom.xml").read_text()
    version = text.partition("<scalatest.version>")[2].partition("<")[0]
    repository = Path(os.environ.get("MAVEN_REPOSITORY", Path.home() / ".m2" / "repository"))
    groups = ("org/scalatest", "org/scalactic")
    found = [jar for group in groups for jar in (repository / group).rglob(f"*_2.13-{version}.jar")]
    return [*found, *(repository / "org/scalatest").rglob(f"scalatest-compatible-{version}.jar")]


def run(names: Sequence[str], say: Callable[[str], None], checked: bool = True) -> list[Result]:
    """Applies the named breakages (all by default), one by one. ``checked`` first runs each test
    without any: it has to pass. Raises ``BreakageError``."""
    known = listed.read()
    if unknown := set(names) - {one.name for one in known}:
        raise BreakageError(f"no such breakage: {', '.join(sorted(unknown))}")
    wanted = [one for one in known if not names or one.name in names]
    copy = Copy()
    if checked:
        for test in dict.fromkeys(one.caught_by for one in wanted):
            code, said = copy.test(test)
            if code:
                raise BreakageError(f"{test} fails without a breakage: {said}")
            say(f"passes: {test}")
    results = []
    for one in wanted:
        result = copy.run(one)
        results.append(result)
        missed = f"NOT CAUGHT, did not end: {result.said}" if result.hung else "NOT CAUGHT"
        verdict = "caught" if result.caught else missed
        say(f"{verdict}: {one.name} by {one.caught_by}, {result.seconds:.0f} s")
    return results
