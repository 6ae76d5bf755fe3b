"""A PySpark process that runs applications one after another: ``in_turn_app.py FOLDER``.

It takes commands (``tests.support.commands``) of ``in_turn.Jvm``: a module with ``main(path)``, its
argument, and the settings of its SparkContexts, which are found as if the application had been
submitted with them. The answer is the traceback, or null.
"""

from __future__ import annotations

import sys
import traceback
from importlib import import_module
from pathlib import Path
from typing import Any

from pyspark import SparkContext
from pyspark.sql import SparkSession

from tests.support import commands


def _run(told: dict[str, Any]) -> None:
    SparkContext._ensure_initialized()
    jvm: Any = SparkContext._jvm
    system = jvm.java.lang.System
    before = {key: system.getProperty(key) for key in told["conf"]}
    for key, value in told["conf"].items():
        system.setProperty(key, value)
    left = None
    try:
        # A context takes all properties: one that an application before left here would count.
        found = system.getProperty("spark.plugins")
        if found != told["conf"].get("spark.plugins"):
            raise RuntimeError(f"the application would run with spark.plugins={found}")
        code = import_module(told["module"]).main(Path(told["argument"]))
    finally:
        left = SparkContext._active_spark_context
        if left is not None:
            (SparkSession.getActiveSession() or left).stop()
        for key, value in before.items():
            if value is None:
                system.clearProperty(key)
            else:
                system.setProperty(key, value)
    if code:
        raise SystemExit(code)
    if left is not None:
        raise RuntimeError(f"{left.appName} was left running: the next would have joined it")


def main(folder: Path) -> int:
    for number, told in commands.taken(folder):
        error = None
        try:
            _run(told)
        except (Exception, SystemExit):  # the answer says what happened
            error = traceback.format_exc()
        commands.answer(folder, number, error)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
