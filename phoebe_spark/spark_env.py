"""The Spark installation of this machine: where it is, and what its defaults say."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping
from pathlib import Path

_PAIR = re.compile(r"([^\s=:#!][^\s=:]*)\s*[=:]?\s*(.*)")
_CONTINUED = re.compile(r"(?<!\\)((?:\\\\)*)\\\r?\n[ \t]*")


def spark_home() -> Path | None:
    """``SPARK_HOME``, or the pip-installed PySpark; None when there is no Spark."""
    if os.environ.get("SPARK_HOME"):
        return Path(os.environ["SPARK_HOME"])
    with contextlib.suppress(ImportError):
        import pyspark

        return Path(pyspark.__file__).resolve().parent
    return None


def spark_defaults(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """``spark-defaults.conf``, by ``SPARK_CONF_DIR`` or ``SPARK_HOME``; empty without."""
    if environment.get("SPARK_CONF_DIR"):
        return read_defaults(Path(environment["SPARK_CONF_DIR"]))
    if environment.get("SPARK_HOME"):
        return read_defaults(Path(environment["SPARK_HOME"]) / "conf")
    return {}


def read_defaults(folder: Path) -> dict[str, str]:
    """``spark-defaults.conf`` in a folder, which Spark reads as Java properties: a key ends at the
    first blank, ``=`` or ``:``, and all that follows is the value."""
    try:
        text = (folder / "spark-defaults.conf").read_text(encoding="utf-8")
    except OSError:
        return {}
    lines = _CONTINUED.sub(r"\1", text).splitlines()
    pairs = (_PAIR.fullmatch(line.strip()) for line in lines)
    return {pair[1]: pair[2] for pair in pairs if pair is not None and pair[2]}
