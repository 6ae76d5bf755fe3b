"""Several applications, one after another, in one JVM: what one has loaded and compiled serves all.

Each has a SparkContext, settings and folder of its own, as if it had been submitted. For tests of
what applications leave to one another; where a process has to end, they are submitted
(``apps.submit``).
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.support import apps
from tests.support.commands import Commands
from tests.support.places import plugin_jar, spark_environment

# Spark keeps the last hundred classes that it has made of queries: too few for the next application
# to find any.
CACHE = {"spark.sql.codegen.cache.maxEntries": "10000"}
APP = Path(__file__).with_name("in_turn_app.py")


def of_text(folder: Path, module: str, text: str, **how: Any) -> Jvm:
    """A process for one application's module, whose text the test has."""
    (folder / f"{module}.py").write_text(text)
    path = os.pathsep.join([str(folder), spark_environment()["PYTHONPATH"]])
    return Jvm(folder, environment={"PYTHONPATH": path}, **how)


class Jvm:
    """A process for applications. Leaving the ``with`` block ends it."""

    def __init__(
        self,
        folder: Path,
        jars: Sequence[Path] = (),
        conf: Mapping[str, str] | None = None,
        **how: Any,
    ) -> None:
        """``conf`` is every application's; ``how`` goes to :func:`apps.submit`."""
        self.folder = folder.resolve()
        self._commands = Commands(self.folder)
        self._app = apps.submit(
            APP,
            [str(self.folder)],
            folder=self.folder,
            packages_jars=[plugin_jar(), *jars],
            conf={**CACHE, **(conf or {})},
            **how,
        )

    def run(
        self,
        folder: Path,
        module: str,
        argument: Path,
        conf: Mapping[str, str],
        *,
        plugin: bool = True,
        timeout_s: float = 600,
    ) -> apps.FinishedApp:
        """Runs an application to its end; raises ``AppFailedError`` if it fails, ``TimeoutError``
        when it takes longer than that."""
        folder = folder.resolve()
        for name in ("events", "local"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / "driver.log").symlink_to(self.folder / "driver.log")
        settings = {
            **({"spark.plugins": "phoebe.PhoebePlugin"} if plugin else {}),
            "spark.local.dir": str(folder / "local"),
            "spark.sql.warehouse.dir": str(folder / "warehouse"),
            "spark.eventLog.dir": (folder / "events").as_uri(),
            **conf,
        }
        told = {"module": module, "argument": str(argument.resolve()), "conf": settings}
        started = time.monotonic()
        error = self._commands.answer(self._commands.ask(told), self._app, timeout_s)
        if error is not None:
            raise apps.AppFailedError(f"{error}\nlog {self.folder / 'driver.log'}")
        return apps.FinishedApp(folder, 0, time.monotonic() - started)

    def __enter__(self) -> Jvm:
        self._app.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None and self._app.running:
            self._commands.ask(None)
            self._app.wait(60)
        self._app.__exit__(kind, error, trace)
