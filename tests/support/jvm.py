"""Options for the JVMs that tests start, which live for seconds: most of their time is starting.

``-XX:TieredStopAtLevel=1`` leaves out the optimizing compiler, whose work pays off after minutes;
the serial collector has no threads of its own. An archive (class-data sharing) holds Spark's
classes parsed and verified; ``python -m tests.support.jvm STAMP`` makes it once for an
installation, out of an application that runs some queries. A JVM with another class path, or of
another version, ignores it.

Tests alone have them (``tests/conftest.py``); benches and the demo run with what users have.
What ``JDK_JAVA_OPTIONS`` has in the environment comes after them, and counts where they differ.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.support import apps, queries, tpc
from tests.support.places import BUILD, spark_home

VARIABLE = "JDK_JAVA_OPTIONS"
"""What the ``java`` command reads before its arguments, also in processes that Spark starts."""
_FIRST = "-XX:TieredStopAtLevel=1 -XX:ReservedCodeCacheSize=400m"
_COLLECTOR = " -XX:+UseSerialGC"
SHORT = (
    f"{_FIRST}{_COLLECTOR}"
    # What the JVM has to say of an archive that does not fit must not be in anybody's output.
    " -Xlog:disable -Xlog:all=error:stderr"
)
QUERIES = ("tpch/q2", "tpch/q5", "tpch/q18", "tpch/q21")
CONF = {"spark.sql.shuffle.partitions": "2", "spark.sql.autoBroadcastJoinThreshold": "50KB"}


def options() -> str:
    """The options, with the archive if it was made, and what the environment has."""
    try:
        archive = archive_of(spark_home())
    except (ModuleNotFoundError, OSError):  # without Spark there is none
        return with_theirs(SHORT)
    return with_theirs(f"{SHORT} -XX:SharedArchiveFile={archive}" if archive.exists() else SHORT)


def with_theirs(ours: str) -> str:
    """``ours``, and then what the environment has, unless a process above this one did that."""
    theirs = os.environ.get(VARIABLE, "")
    if _FIRST in theirs:
        return theirs
    if re.search(r"-XX:\+Use\w+GC\b", theirs):  # a JVM with two collectors does not start
        ours = ours.replace(_COLLECTOR, "")
    return f"{ours} {theirs}".strip()


def archive_of(spark: Path) -> Path:
    """Where an installation's archive is; it fits as long as the jars are those."""
    jars = sorted((spark / "jars").iterdir())
    seen = "\n".join(f"{jar} {jar.stat().st_mtime_ns} {jar.stat().st_size}" for jar in jars)
    return BUILD / "jvm" / f"{hashlib.sha256(seen.encode()).hexdigest()[:16]}.jsa"


def make(archive: Path) -> None:
    """Makes the archive; it appears whole. Without it everything works, but slower."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=archive.parent) as scratch:
        here = Path(scratch)
        made = here / "made.jsa"
        data = tpc.data("tpch", 0.01)
        with queries.submit_queries(
            [queries.Item(name, data) for name in QUERIES],
            folder=here / "app",
            conf=CONF,
            # For the driver alone: the JVM that only builds its command has none to make.
            driver_options=f"-XX:ArchiveClassesAtExit={made}",
            environment={VARIABLE: with_theirs(SHORT)},
        ) as app:
            app.wait().check()
        made.rename(archive)


def main(stamp: Path) -> int:
    """Touches ``stamp`` when there is an archive: what failed is tried again the next time."""
    archive = archive_of(spark_home())
    try:
        if not archive.exists():
            make(archive)
        stamp.touch()
    except (OSError, apps.AppFailedError, subprocess.SubprocessError) as error:
        print(f"tests run without an archive of Spark's classes: {error}", file=sys.stderr)
    return 0


def use() -> None:
    """Gives the options to every JVM that this process and its children start."""
    os.environ[VARIABLE] = options()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
