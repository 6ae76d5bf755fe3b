"""Where things are: the source tree, the build folder, Spark's home, the plugin's jar."""

from __future__ import annotations

import importlib.util
import os
import socket
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build"


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens at just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


class MissingJarError(RuntimeError):
    """The plugin's jar has not been built."""


def spark_home() -> Path:
    """The installation of the pip-installed PySpark, which is not imported for that."""
    found = importlib.util.find_spec("pyspark")
    if found is None or found.origin is None:
        raise ModuleNotFoundError("pyspark is not installed: run `make setup`")
    return Path(found.origin).resolve().parent


def plugin_jar() -> Path:
    """The newest built jar of the plugin; raises ``MissingJarError`` with what to do."""
    found = [
        *(ROOT / "listeners" / "target").glob("phoebe-spark_2.13-*.jar"),
        *(ROOT / "phoebe_spark" / "jars").glob("phoebe-spark_2.13-*.jar"),
    ]
    jars = [j for j in found if not j.stem.endswith(("-sources", "-javadoc", "-tests"))]
    if not jars:
        raise MissingJarError("the plugin's jar is not built: run `make jar`")
    return max(jars, key=lambda jar: jar.stat().st_mtime)


def testing_jar() -> Path:
    """The jar with ``phoebe.testing`` (a slow file system that counts requests), for ``--jars``.

    Raises ``MissingJarError`` with what to do.
    """
    jars = list((ROOT / "listeners" / "target").glob("phoebe-spark_2.13-*-tests.jar"))
    if not jars:
        raise MissingJarError("the jar for tests is not built: run `make -B jar`")
    return max(jars, key=lambda jar: jar.stat().st_mtime)


def spark_environment() -> dict[str, str]:
    """The environment for Spark's scripts: this interpreter, this source tree, loopback only."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SPARK_")}
    environment.update(
        SPARK_HOME=str(spark_home()),
        SPARK_LOCAL_IP="127.0.0.1",
        PYSPARK_PYTHON=sys.executable,
        PYSPARK_DRIVER_PYTHON=sys.executable,
        PYTHONPATH=os.pathsep.join([str(ROOT), str(ROOT / "training")]),
        PYTHONUNBUFFERED="1",
    )
    return environment


def ivy_home() -> Path:
    """A home for Ivy, one per test process, which downloads Delta's jars for Spark.

    Of its own, because Ivy trusts ``~/.m2``, where a Maven build leaves artifacts' descriptors
    without their jars, and then fails to "download" them; one per process, because two Ivys must
    not fill one cache at once.
    """
    home = BUILD / "ivy-home" / os.environ.get("PYTEST_XDIST_WORKER", "main")
    home.mkdir(parents=True, exist_ok=True)
    return home
