"""Runs PySpark applications as users do: ``spark-submit`` in a process of its own.

``submit`` returns at once; the handle waits, kills the driver as a lost machine would, and always
leaves nothing running. Each application has a folder with its log, event log and local files.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal

from tests.support.places import plugin_jar, spark_environment, spark_home

Shipping = Literal["jars", "classpath", "none"]
"""How the plugin reaches the driver: ``--jars``, ``--driver-class-path`` (and the executors' class
path), or not at all."""

BASE_CONF: Mapping[str, str] = {
    "spark.ui.enabled": "false",
    "spark.driver.host": "127.0.0.1",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.sql.adaptive.enabled": "true",
    # One plain file, so that tests read it line by line while the application still runs.
    "spark.eventLog.rolling.enabled": "false",
    "spark.eventLog.compress": "false",
}


class AppFailedError(AssertionError):
    """An application ended with another exit code than expected; the message has its log's end."""


@dataclass(frozen=True, slots=True)
class FinishedApp:
    """What is left of an application. ``exit_code`` is negative for a signal, as in subprocess."""

    folder: Path
    exit_code: int
    wall_s: float

    @property
    def log(self) -> str:
        return (self.folder / "driver.log").read_text(errors="replace")

    @property
    def event_log(self) -> Path:
        """The event log (of a killed application: the ``.inprogress`` file)."""
        return event_log(self.folder)

    def check(self) -> FinishedApp:
        """Returns itself, or raises ``AppFailedError`` when the application failed."""
        if self.exit_code != 0:
            raise AppFailedError(
                f"exit code {self.exit_code}, log {self.folder / 'driver.log'}:\n{self.log[-4000:]}"
            )
        return self


def event_log(folder: Path) -> Path:
    """The newest event log in an application's folder; ``FileNotFoundError`` when there is none."""
    logs = sorted((folder / "events").iterdir(), key=lambda path: path.stat().st_mtime)
    if not logs:
        raise FileNotFoundError(f"no event log in {folder / 'events'}")
    return logs[-1]


def app_id(folder: Path) -> str:
    """The id of the application in a folder, by its newest event log."""
    return event_log(folder).name.removesuffix(".inprogress")


class RunningApp:
    """A submitted application. Leaving the ``with`` block ends whatever still runs of it."""

    def __init__(self, process: subprocess.Popen[bytes], folder: Path, started: float) -> None:
        self._process = process
        self._started = started
        self.folder = folder

    @property
    def pid(self) -> int:
        """The driver's JVM (spark-submit replaces itself by it); Python is its child."""
        return self._process.pid

    @property
    def started(self) -> float:
        """When it was submitted, in seconds of the monotonic clock."""
        return self._started

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def wait(self, timeout_s: float = 600) -> FinishedApp:
        """Waits for the end; raises ``subprocess.TimeoutExpired`` (and kills it) when it hangs."""
        try:
            code = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.close()
            raise
        return FinishedApp(self.folder, code, time.monotonic() - self._started)

    def kill_driver(self) -> FinishedApp:
        """SIGKILL to the driver's JVM alone; Python and the companion are left to see it."""
        os.kill(self.pid, signal.SIGKILL)
        return self.wait(30)

    def wait_for(self, path: Path, timeout_s: float = 300) -> None:
        """Waits until ``path`` exists; raises ``AppFailedError`` if the application ends before."""
        deadline = time.monotonic() + timeout_s
        while not path.exists():
            if not self.running or time.monotonic() > deadline:
                raise AppFailedError(f"{path.name} never appeared, see {self.folder}/driver.log")
            time.sleep(0.02)

    def close(self, grace_s: float = 0.0) -> None:
        """Ends the process group, after ``grace_s`` seconds for the companion to end itself."""
        deadline = time.monotonic() + grace_s
        while time.monotonic() < deadline and self._group_alive():
            time.sleep(0.05)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()

    def _group_alive(self) -> bool:
        try:
            os.killpg(self.pid, 0)
        except ProcessLookupError:
            return False
        return True

    def __enter__(self) -> RunningApp:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # The companion has ten seconds to write what it holds after its driver is gone.
        self.close(grace_s=10.0 if kind is None and not self.running else 0.0)


def submit(
    script: Path,
    arguments: Sequence[str] = (),
    *,
    folder: Path,
    conf: Mapping[str, str] | None = None,
    plugin: Shipping = "none",
    master: str = "local[2]",
    driver_memory: str = "1g",
    properties_file: Path | None = None,
    packages_jars: Sequence[Path] = (),
    environment: Mapping[str, str] | None = None,
    with_event_log: bool = True,
    driver_options: str = "",
) -> RunningApp:
    """Submits ``script``; ``folder`` gets ``driver.log``, ``events/``, ``local/``.

    ``plugin`` adds the jar and ``spark.plugins=phoebe.PhoebePlugin``, nothing else: home, mode and
    the like come from ``conf`` or ``properties_file``. ``environment`` overrides variables;
    ``driver_options`` are options for the driver's JVM.
    """
    folder = folder.resolve()  # Spark takes URIs, and runs in that folder
    for name in ("events", "local"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    settings: dict[str, str] = {
        **BASE_CONF,
        "spark.local.dir": str(folder / "local"),
        "spark.sql.warehouse.dir": str(folder / "warehouse"),
        "spark.eventLog.enabled": str(with_event_log).lower(),
        "spark.eventLog.dir": (folder / "events").as_uri(),
    }
    command = [str(spark_home() / "bin" / "spark-submit"), "--master", master]
    command += ["--driver-memory", driver_memory]
    jars = [str(j) for j in packages_jars]
    if plugin != "none":
        settings["spark.plugins"] = "phoebe.PhoebePlugin"
        jar = str(plugin_jar())
        if plugin == "jars":
            jars.append(jar)
        else:
            command += ["--driver-class-path", jar]
            settings["spark.executor.extraClassPath"] = jar
    if jars:
        command += ["--jars", ",".join(jars)]
    if driver_options:
        command += ["--driver-java-options", driver_options]
    if properties_file is not None:
        command += ["--properties-file", str(properties_file)]
    for key, value in {**settings, **(conf or {})}.items():
        command += ["--conf", f"{key}={value}"]
    started = time.monotonic()
    with (folder / "driver.log").open("ab") as log:
        process = subprocess.Popen(
            [*command, str(script), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**spark_environment(), **(environment or {})},
            cwd=folder,
            start_new_session=True,
        )
    return RunningApp(process, folder, started)
