"""A standalone Spark cluster on loopback: one master, some workers, each with its own local disk.

Ports are chosen by the system. Everything runs in one process group per daemon and is ended when
the ``with`` block is left, whatever happened inside.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from tests.support.places import spark_environment, spark_home


class ClusterError(RuntimeError):
    """A daemon did not come up; the message has the end of its log."""


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker daemon; its executors are its child processes."""

    pid: int
    local_dir: Path

    def executor_pids(self) -> list[int]:
        """Processes of the executors that run on this worker now."""
        try:
            children = psutil.Process(self.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []
        found = []
        for child in children:
            with contextlib.suppress(psutil.Error):
                if any("CoarseGrainedExecutorBackend" in word for word in child.cmdline()):
                    found.append(child.pid)
        return found

    def kill_executors(self) -> list[int]:
        """SIGKILLs this worker's executors; returns who was killed."""
        pids = self.executor_pids()
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return pids


@dataclass(frozen=True, slots=True)
class Cluster:
    master: str  # the URL that --master takes
    workers: tuple[Worker, ...]

    @property
    def local_dirs(self) -> list[Path]:
        """Where executors keep shuffle files, for the disk sampler."""
        return [w.local_dir for w in self.workers]


@contextmanager
def _daemon(name: str, arguments: list[str], log: Path, env: dict[str, str]) -> Iterator[int]:
    with log.open("wb") as out:
        process = subprocess.Popen(
            [str(spark_home() / "bin" / "spark-class"), name, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**spark_environment(), **env},
            cwd=log.parent,
            start_new_session=True,
        )
    try:
        yield process.pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _await(log: Path, pattern: str, timeout_s: float) -> str:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        found = re.search(pattern, log.read_text(errors="replace"))
        if found:
            return found.group(0)
        time.sleep(0.05)
    raise ClusterError(f"{log.name}: no {pattern!r} in {timeout_s} s:\n{log.read_text()[-2000:]}")


@contextmanager
def standalone(
    folder: Path, workers: int = 2, cores: int = 1, memory: str = "1200m", timeout_s: float = 60
) -> Iterator[Cluster]:
    """Starts a cluster under ``folder``; raises ``ClusterError`` when a daemon stays down.

    ``cores`` and ``memory`` are per worker.
    """
    folder.mkdir(parents=True, exist_ok=True)
    common = ["--host", "127.0.0.1", "--port", "0", "--webui-port", "0"]
    env = {"SPARK_DAEMON_MEMORY": "256m"}
    with ExitStack() as stack:
        log = folder / "master.log"
        name = "org.apache.spark.deploy.master.Master"
        stack.enter_context(_daemon(name, common, log, env))
        url = _await(log, r"spark://127\.0\.0\.1:\d+", timeout_s)
        found = []
        for number in range(workers):
            home = folder / f"worker{number}"
            local = home / "local"
            local.mkdir(parents=True, exist_ok=True)
            log = home / "worker.log"
            arguments = [*common, "--cores", str(cores), "--memory", memory]
            arguments += ["--work-dir", str(home / "work"), url]
            pid = stack.enter_context(
                _daemon(
                    "org.apache.spark.deploy.worker.Worker",
                    arguments,
                    log,
                    {**env, "SPARK_LOCAL_DIRS": str(local)},
                )
            )
            found.append((pid, local, log))
        for _, _, log in found:
            _await(log, "Successfully registered with master", timeout_s)
        yield Cluster(url, tuple(Worker(pid, local) for pid, local, _ in found))
