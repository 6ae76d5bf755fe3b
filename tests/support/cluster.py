"""A standalone Spark cluster on loopback: one master, some workers, each with its own local disk.

Ports are chosen by the system. Everything runs in one process group per daemon and is ended when
the ``with`` block is left, whatever happened inside.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
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

    def decommission_executors(self) -> list[int]:
        """Has this worker's executors move their files and end, as before a machine is taken away
        (``spark.decommission.enabled``); returns who was told."""
        pids = self.executor_pids()
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGPWR)
        return pids


class Cluster:
    """A running cluster; ``master`` is the URL that ``--master`` takes."""

    def __init__(self, master: str, start: Callable[[int], Worker], count: int) -> None:
        self.master = master
        self._start = start
        self._workers = [start(number) for number in range(count)]

    @property
    def workers(self) -> tuple[Worker, ...]:
        return tuple(self._workers)

    @property
    def local_dirs(self) -> list[Path]:
        """Where executors keep shuffle files, for the disk sampler."""
        return [w.local_dir for w in self.workers]

    def restart_worker(self, number: int, down_s: float = 0.0) -> None:
        """SIGKILLs a worker with its executors, as a lost machine would, and starts it again.

        What its executors had on the local disk is gone too.
        """
        worker = self._workers[number]
        os.kill(worker.pid, signal.SIGSTOP)  # or it would start another executor in between
        worker.kill_executors()
        os.kill(worker.pid, signal.SIGKILL)
        for left in worker.local_dir.iterdir():
            shutil.rmtree(left, ignore_errors=True)
        time.sleep(down_s)
        self._workers[number] = self._start(number)

    def wait_for_executors(self, timeout_s: float = 60) -> None:
        """Waits until every worker runs an executor."""
        deadline = time.monotonic() + timeout_s
        while not all(w.executor_pids() for w in self._workers):
            if time.monotonic() > deadline:
                raise ClusterError(f"a worker has no executor after {timeout_s} s")
            time.sleep(0.1)


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
    folder: Path,
    workers: int = 2,
    cores: int = 1,
    memory: str = "1200m",
    timeout_s: float = 60,
    service_port: int | None = None,
    hosts: Sequence[str] = ("127.0.0.1",),
) -> Iterator[Cluster]:
    """Starts a cluster under ``folder``; raises ``ClusterError`` when a daemon stays down.

    ``cores`` and ``memory`` are per worker. ``service_port`` starts the external shuffle service in
    the worker, on that port: with one worker, since all are on one machine. ``hosts`` are taken in
    turn: Spark starts no speculative task on the host of the first attempt.
    """
    folder.mkdir(parents=True, exist_ok=True)
    common = ["--port", "0", "--webui-port", "0"]
    env = {"SPARK_DAEMON_MEMORY": "256m"}
    with ExitStack() as stack:
        log = folder / "master.log"
        name = "org.apache.spark.deploy.master.Master"
        stack.enter_context(_daemon(name, ["--host", "127.0.0.1", *common], log, env))
        url = _await(log, r"spark://127\.0\.0\.1:\d+", timeout_s)

        def start(number: int) -> Worker:
            home = folder / f"worker{number}"
            local = home / "local"
            local.mkdir(parents=True, exist_ok=True)
            log = home / "worker.log"
            host = hosts[number % len(hosts)]
            arguments = ["--host", host, *common, "--cores", str(cores), "--memory", memory]
            arguments += ["--work-dir", str(home / "work"), url]
            settings = {**env, "SPARK_LOCAL_DIRS": str(local)}
            if service_port is not None:
                settings["SPARK_WORKER_OPTS"] = (
                    "-Dspark.shuffle.service.enabled=true "
                    f"-Dspark.shuffle.service.port={service_port}"
                )
            worker = "org.apache.spark.deploy.worker.Worker"
            pid = stack.enter_context(_daemon(worker, arguments, log, settings))
            _await(log, "Successfully registered with master", timeout_s)
            return Worker(pid, local)

        yield Cluster(url, start, workers)
