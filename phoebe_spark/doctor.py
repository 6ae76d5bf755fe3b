"""Is this machine ready to be a driver with the plugin? Each check says what to do if not.

Starts no Spark: looks at what is installed, and talks to a companion of its own for a moment.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import orjson

from phoebe_spark.companion.protocol import PROTOCOL
from phoebe_spark.errors import MissingJarError, PhoebeError
from phoebe_spark.jar import jar_path
from phoebe_spark.spark_env import spark_home
from phoebe_spark.tables.ownership import is_kind, kind_of, needs_one
from phoebe_spark.tables.storage_options import (
    Unreachable,
    hadoop_settings,
    options_for,
    reach,
    scheme,
)

TESTED_SPARK = "4.2.0"
TESTED_DELTA_SPARK = "4.4.0"


@dataclass(frozen=True, slots=True)
class Check:
    """``status`` is ``ok``, ``warning`` (works, with less), ``error`` or ``skipped``."""

    name: str
    status: str
    found: str
    to_do: str = ""


def examine(home: str, python: str) -> Iterator[Check]:
    """All checks, in the order in which things depend on each other; never raises."""
    spark = spark_home()
    checks: list[tuple[str, Callable[[], Check]]] = [
        ("java", check_java),
        ("spark", lambda: check_spark(spark)),
        ("delta", check_delta),
        ("jar", check_jar),
        ("home", lambda: check_home(home)),
        ("permissions", lambda: check_permissions(home)),
        ("sink", lambda: check_sink(home)),
        ("writer", lambda: check_writer(home)),
        ("companion", lambda: check_companion(python)),
        ("bundle", lambda: check_bundle(home)),
    ]
    for name, check in checks:
        try:
            yield check()
        except Exception as error:
            yield Check(name, "error", f"the check itself failed: {error!r}")


def check_java() -> Check:
    java = os.environ.get("JAVA_HOME")
    program = str(Path(java) / "bin" / "java") if java else shutil.which("java")
    if program is None or not Path(program).exists():
        return Check("java", "error", "no java", "install a JDK 17 or later, or set JAVA_HOME")
    told = subprocess.run([program, "-version"], capture_output=True, text=True, timeout=30).stderr
    match = re.search(r'version "(\d+)', told)
    major = int(match.group(1)) if match else 0
    if major < 17:
        return Check(
            "java", "error", f"Java {major} at {program}", "Spark 4 needs Java 17 or later"
        )
    return Check("java", "ok", f"Java {major} at {program}")


def check_spark(home: Path | None) -> Check:
    """The build on disk: its jars say the version, and whether a vendor made it."""
    if home is None:
        what = f"pip install 'phoebe-spark[spark]' (pyspark=={TESTED_SPARK}), or set SPARK_HOME"
        return Check("spark", "error", "no Spark", what)
    core = sorted((home / "jars").glob("spark-core_2.1*.jar"))
    if not core:
        return Check("spark", "error", f"no Spark jars in {home}/jars", "set SPARK_HOME")
    match = re.fullmatch(r"spark-core_(2\.\d+)-(.+)\.jar", core[0].name)
    scala, build = match.groups() if match else ("?", core[0].name)
    found = f"Spark {build}, Scala {scala}, at {home}"
    if scala != "2.13":
        return Check("spark", "error", found, "the plugin is built for Scala 2.13")
    if re.fullmatch(r"4\.2\.\d+", build):
        return Check("spark", "ok", found)
    if build.startswith("4.2."):
        to_do = "a vendor's build: the plugin only observes there"
    else:
        to_do = f"tested with {TESTED_SPARK}: on other versions the plugin only observes"
    return Check("spark", "warning", found, to_do)


def check_delta() -> Check:
    found = {name: _version(name) for name in ("deltalake", "delta-spark")}
    text = ", ".join(f"{name} {v or 'not installed'}" for name, v in found.items())
    if found["deltalake"] is None:
        return Check("delta", "error", text, "pip install phoebe-spark again: deltalake is missing")
    if found["delta-spark"] is None:
        return Check("delta", "ok", text + " (needed for training through Spark only)")
    if found["delta-spark"] != TESTED_DELTA_SPARK:
        return Check("delta", "warning", text, f"tested with delta-spark=={TESTED_DELTA_SPARK}")
    return Check("delta", "ok", text)


def check_jar() -> Check:
    try:
        return Check("jar", "ok", jar_path())
    except MissingJarError as error:
        return Check("jar", "error", "not there", str(error))


def check_home(home: str) -> Check:
    if "://" in home:
        return Check("home", "skipped", home, "not a local path: reachable from the driver only")
    path = Path(home)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
        free = shutil.disk_usage(path).free
    except OSError as error:
        to_do = "name a directory that can be written: spark.phoebe.home, or --home here"
        return Check("home", "error", f"{home}: {error.strerror or error}", to_do)
    found = f"{home}, {free / 2**30:.1f} GiB free"
    if free < 2**30:
        return Check("home", "warning", found, "checkpoints and tables need room")
    return Check("home", "ok", found)


def check_sink(home: str, hadoop: Mapping[str, str] | None = None) -> Check:
    """Which way a run's events can take into the tables, and why.

    ``hadoop``: Hadoop's settings, by default those of Spark's and Hadoop's files here; what a
    session sets beside them only its driver knows, which logs one line when it spools.
    """
    found = reach(home, hadoop_settings() if hadoop is None else hadoop)
    if isinstance(found, Unreachable):
        to_do = "spark.phoebe.harvest.sink=spool spares the attempt; phoebe ingest reads the spool"
        return Check("sink", "warning", f"spool: {found.reason.message}", to_do)
    if scheme(home) == "file":
        return Check("sink", "ok", "delta: companions write the tables to a local disk")
    what = f"delta: companions write {scheme(home)}:// with {found.how}"
    to_do = "if only Hadoop has the credentials: spark.phoebe.harvest.sink=spool"
    return Check("sink", "ok", what, to_do)


def check_writer(home: str) -> Check:
    """Which kind of writer has the tables of a home on S3."""
    if not needs_one(home):
        return Check("writer", "skipped", "any: only homes on S3 take one kind of writer")
    quick = {"max_retries": "1", "timeout": "10s", "connect_timeout": "5s"}
    try:
        found = kind_of(home, {**options_for(home), **quick})
    except Exception as error:
        what = "phoebe ingest reads the spool" if isinstance(error, PhoebeError) else "see sink"
        return Check("writer", "warning", f"not known: {str(error).splitlines()[0][:200]}", what)
    if found is not None and not is_kind(found):
        what = f"{home}/writer is a table that phoebe_spark has not made"
        return Check("writer", "error", what, "name another home")
    if found == "delta-spark":
        to_do = f"spark.phoebe.harvest.sink=spool, or delete {home}/writer while nothing writes"
        return Check("writer", "warning", "delta-spark alone writes the tables", to_do)
    return Check("writer", "ok", f"{found} alone" if found else "none yet: the first one has it")


def check_permissions(home: str) -> Check:
    """Checkpoints hold users' rows: nobody else should be able to write, or silently read, them."""
    if "://" in home or not Path(home).exists():
        return Check("permissions", "skipped", home)
    mode = stat.S_IMODE(Path(home).stat().st_mode)
    if mode & stat.S_IWOTH:
        return Check("permissions", "warning", f"{mode:04o}", f"chmod o-w {home}")
    return Check("permissions", "ok", f"{mode:04o}")


def check_companion(python: str) -> Check:
    """Starts a companion as the plugin does, in a home of its own, and waits for its ``ready``."""
    with tempfile.TemporaryDirectory(prefix="phoebe-doctor-") as home:
        hello = {
            "type": "hello",
            "protocol": PROTOCOL,
            "app_id": "doctor",
            "app_attempt": "",
            "app_name": "phoebe doctor",
            "home": home,
            "mode": "observe",
            "time": 0,
        }
        lines = [hello, {"type": "end", "time": 0}]
        try:
            run = subprocess.run(
                [python, "-m", "phoebe_spark.companion"],
                input=b"".join(orjson.dumps(line) + b"\n" for line in lines),
                capture_output=True,
                timeout=60,
                env={**os.environ, "PYTHONSAFEPATH": "1"},
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return Check("companion", "error", f"{python}: {error}", _PYTHON_TO_DO)
    last = run.stderr.decode(errors="replace").strip().splitlines()[-1:] or [""]
    try:
        ready = orjson.loads(run.stdout.splitlines()[0])["type"] == "ready"
    except (IndexError, KeyError, TypeError, orjson.JSONDecodeError):
        ready = False
    if not ready or run.returncode != 0:
        found = f"{python}: exit code {run.returncode}, {last[0]}"
        return Check("companion", "error", found, _PYTHON_TO_DO)
    return Check("companion", "ok", f"answers under {python}")


_PYTHON_TO_DO = "pip install phoebe-spark there, or set spark.phoebe.python to a Python that has it"


def check_bundle(home: str) -> Check:
    from phoebe_spark.errors import BundleError, BundleMissing, BundleRemote
    from phoebe_spark.predict.predictor import load_predictor

    try:
        found = load_predictor(home).version or ""  # as a companion does
    except BundleMissing:
        to_do = "observe some runs (or phoebe ingest their event logs), then phoebe train"
        return Check("bundle", "warning", "no models were promoted yet", to_do)
    except BundleRemote as error:
        to_do = "name a local directory in spark.phoebe.home, or observe only"
        return Check("bundle", "warning", str(error), to_do)
    except BundleError as error:
        return Check("bundle", "error", str(error), "phoebe train writes a new one")
    return Check("bundle", "ok", found)


def default_python() -> str:
    """As the plugin finds it outside Spark's configuration, else this very interpreter."""
    for name in ("PYSPARK_DRIVER_PYTHON", "PYSPARK_PYTHON"):
        value = os.environ.get(name, "").strip()
        if value and not re.match(r"(jupyter|ipython)", Path(value).name):
            return value
    return sys.executable


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
