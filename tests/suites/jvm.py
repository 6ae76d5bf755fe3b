"""One run of ScalaTest's Runner over some of Spark's suites, in a JVM of its own.

``plain`` runs them without the product's plugin, ``written`` with every exchange checkpointed that
may be, ``restored`` again over the store that was left. A plugin for tests helps in all three: see
``SuitesPlugin`` in the listeners' tests.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

from tests.suites import classes
from tests.suites.outcomes import Outcomes, read_report
from tests.support.places import plugin_jar, testing_jar

_PACKAGE = "org.apache.spark.sql.execution.phoebe"
_OPENED = (
    "java.lang",
    "java.lang.invoke",
    "java.lang.reflect",
    "java.io",
    "java.net",
    "java.nio",
    "java.util",
    "java.util.concurrent",
    "java.util.concurrent.atomic",
    "jdk.internal.ref",
    "sun.nio.ch",
    "sun.nio.cs",
    "sun.security.action",
    "sun.util.calendar",
)
# Spark's own build gives its suites these.
_JAVA = (
    "-ea",
    "-XX:TieredStopAtLevel=1",
    "-XX:+UseParallelGC",
    "-Xmx3g",
    "-Xss4m",
    "-XX:ReservedCodeCacheSize=256m",
    *(f"--add-opens=java.base/{package}=ALL-UNNAMED" for package in _OPENED),
    "--add-opens=java.security.jgss/sun.security.krb5=ALL-UNNAMED",
    "-Djdk.reflect.useDirectMethodHandle=false",
    "-Dio.netty.tryReflectionSetAccessible=true",
    "-Dio.netty.allocator.type=pooled",
    "-Dio.netty.handler.ssl.defaultEndpointVerificationAlgorithm=NONE",
    "-Djava.awt.headless=true",
    "-Dderby.system.durability=test",
    "-Dspark.testing=1",
    "-Dspark.ui.enabled=false",
    "-Dspark.ui.showConsoleProgress=false",
    "-Dspark.master.rest.enabled=false",
    "-Dspark.unsafe.exceptionOnMemoryLeak=true",
    "-Dspark.hadoop.hadoop.security.key.provider.path=test:///",
)


@dataclass(frozen=True, slots=True)
class Chosen:
    """A suite by its full name. ``tests``: only those whose names contain one of these texts."""

    name: str
    tests: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Run:
    """What is run: ``label`` is ``plain``, ``written`` or ``restored``; ``cleanup``: whether Spark
    removes a query's shuffle files at its end (as it does in its own tests, not in production)."""

    label: str
    suites: tuple[Chosen, ...]
    folder: Path
    store: Path
    cleanup: bool
    limit_s: float


@dataclass(frozen=True, slots=True)
class Ran:
    """What came of it: outcomes by suite, the plugin's counters summed over all contexts, threads
    of ours that outlived them, and whether the JVM ended by itself."""

    outcomes: dict[str, Outcomes]
    counts: dict[str, int] = field(default_factory=dict)
    threads_left: tuple[str, ...] = ()
    ended: bool = True
    seconds: float = 0.0


def run(what: Run) -> Ran:
    """Runs the suites one after the other; a JVM that takes longer than its limit is killed."""
    shutil.rmtree(what.folder, ignore_errors=True)
    work = what.folder / "work"
    (work / "tmp").mkdir(parents=True)
    began = time.monotonic()
    with (what.folder / "console").open("wb") as console:
        process = subprocess.Popen(
            _command(what, work),
            cwd=work,
            env=_environment(),
            stdout=console,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            process.wait(what.limit_s)
            ended = True
        except subprocess.TimeoutExpired:
            ended = False
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    shutil.rmtree(work, ignore_errors=True)
    counts, threads = read_counts(what.folder / "counts")
    return Ran(
        outcomes=_outcomes(what.folder / "reports"),
        counts=counts,
        threads_left=threads,
        ended=ended,
        seconds=time.monotonic() - began,
    )


def _command(what: Run, work: Path) -> list[str]:
    home, folder = classes.home(), what.folder
    jars = [str(classes.resources()), str(plugin_jar()), str(testing_jar()), *classes.class_path()]
    plugins = ["phoebe.PhoebePlugin"] if what.label != "plain" else []
    settings = {
        "spark.test.home": home,
        "spark.plugins": ",".join([*plugins, f"{_PACKAGE}.SuitesPlugin"]),
        "spark.sql.classic.shuffleDependency.fileCleanup.enabled": str(what.cleanup).lower(),
        "java.io.tmpdir": work / "tmp",
        "log4j2.configurationFile": f"file:{Path(__file__).parent / 'log4j2.properties'}",
        "phoebe.suites.log": folder / "spark.log",
        "phoebe.suites.report": folder / "counts",
    }
    if plugins:
        settings |= {
            "spark.phoebe.home": folder / "home",
            "spark.phoebe.mode": "apply",
            "spark.phoebe.force": "all",
            "spark.phoebe.min_duration_ms": 0,
            "spark.phoebe.harvest.sink": "spool",
            "spark.phoebe.checkpoint.retain": "always",
            "spark.phoebe.checkpoint.dir": what.store,
        }
    selected = []
    for suite in what.suites:
        selected += ["-s", suite.name]
        selected += [argument for text in suite.tests for argument in ("-z", text)]
    return [
        "java",
        *_JAVA,
        *(f"-D{key}={value}" for key, value in settings.items()),
        *("-cp", ":".join(jars), "org.scalatest.tools.Runner"),
        *("-R", str(classes.tests_jar()), *selected),
        *("-u", str(folder / "reports"), "-fWD", str(folder / "report")),
    ]


def _environment() -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("SPARK_", "PYSPARK_"))}
    return kept | {
        "SPARK_TESTING": "1",
        "SPARK_HOME": str(classes.home()),
        "SPARK_LOCAL_IP": "127.0.0.1",
        "PYSPARK_PYTHON": sys.executable,
        "PYSPARK_DRIVER_PYTHON": sys.executable,
    }


def _outcomes(reports: Path) -> dict[str, Outcomes]:
    found = {}
    for report in sorted(reports.glob("TEST-*.xml")):
        name = report.stem.removeprefix("TEST-")
        # A report that is cut off is one of a suite that was killed: it has not ended.
        with suppress(ElementTree.ParseError):
            found[name] = read_report(report)
    return found


def read_counts(lines: Path) -> tuple[dict[str, int], tuple[str, ...]]:
    """What ``SuitesPlugin`` wrote: counters by name, and the names of threads that were left."""
    counts: dict[str, int] = {}
    threads: list[str] = []
    for line in lines.read_text().splitlines() if lines.exists() else []:
        row = json.loads(line)
        threads += row.pop("threads_left", [])
        for key, value in row.items():
            # Failures that were guarded are counted over the whole JVM, the rest for each context.
            so_far = counts.get(key, 0)
            counts[key] = max(so_far, value) if key.startswith("failed.") else so_far + value
    return counts, tuple(threads)
