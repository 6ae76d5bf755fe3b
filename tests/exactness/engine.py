"""The worker's other end: a process that is started when needed, and again when it hangs or
dies.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.exactness.cases import Batch
from tests.exactness.worker import RUNS
from tests.support import delta
from tests.support.places import BUILD, ROOT, ivy_home, plugin_jar, spark_environment


def packages() -> str:
    """What the worker's JVM loads beside Spark: the formats of the allow-list that it has not."""
    return f"{delta.PACKAGE},{delta.AVRO}"


class BrokenWorkerError(RuntimeError):
    """The worker hung, died, or failed outside of any case; the message has its log's end."""


class Engine:
    """One worker with one jar. Closing it, or leaving the ``with`` block, ends its process."""

    def __init__(self, jar: Path | None = None, timeout_s: float = 600) -> None:
        self.jar = jar or plugin_jar()
        self.timeout_s = timeout_s
        self.folder = Path(tempfile.mkdtemp(prefix="exactness-", dir=_work()))
        self._process: subprocess.Popen[str] | None = None
        self._lines: queue.Queue[str] = queue.Queue()

    def run(
        self, batch: Batch, runs: Sequence[str] = RUNS, root: Path | None = None
    ) -> dict[str, Any]:
        """The outcomes of a batch, by run. Raises ``BrokenWorkerError``."""
        self.start()
        process = self._process
        assert process is not None
        assert process.stdin is not None
        asked = {
            "batch": json.loads(batch.to_json()),
            "root": str(root or self.folder / "batch"),
            "runs": list(runs),
            "keep": root is not None,
        }
        try:
            process.stdin.write(json.dumps(asked) + "\n")
            process.stdin.flush()
            found: dict[str, Any] = json.loads(self._answer())
        except (OSError, queue.Empty, ValueError) as error:
            said = self._log()
            self.close()
            raise BrokenWorkerError(f"{type(error).__name__}: {said}") from error
        if "broken" in found:
            self.close()
            raise BrokenWorkerError(found["broken"])
        return found

    def start(self) -> None:
        """Starts the worker if none runs. Raises ``BrokenWorkerError``."""
        if self._process is not None:
            return
        environment = {
            **spark_environment(),
            "SPARK_SUBMIT_OPTS": f"-Duser.home={ivy_home()}",
            "TZ": "UTC",
        }
        with (self.folder / "worker.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.exactness.worker", str(self.jar), packages()],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=environment,
                cwd=ROOT,
                start_new_session=True,
            )
        self._lines = queue.Queue()
        threading.Thread(
            target=_pump, args=(self._process.stdout, self._lines), daemon=True
        ).start()
        try:
            if self._answer().strip() != "ready":
                raise ValueError("the worker did not start")
        except (queue.Empty, ValueError) as error:
            said = self._log()
            self.close()
            raise BrokenWorkerError(said) from error

    def _answer(self) -> str:
        line = self._lines.get(timeout=self.timeout_s)
        if not line:
            raise ValueError("the worker ended")
        return line

    def _log(self) -> str:
        return (self.folder / "worker.log").read_text(errors="replace")[-3000:]

    def close(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
        shutil.rmtree(self.folder, ignore_errors=True)


@contextlib.contextmanager
def engines(count: int, jar: Path | None = None) -> Iterator[list[Engine]]:
    """Engines that work side by side: one alone leaves about half of two cores idle."""
    with contextlib.ExitStack() as stack:
        made = [stack.enter_context(Engine(jar)) for _ in range(count)]
        for engine in made:
            engine.start()  # in turn: on a new machine the first one fills Ivy's cache
        yield made


def _pump(source: Any, lines: queue.Queue[str]) -> None:
    for line in source:
        lines.put(line)
    lines.put("")


def _work() -> Path:
    folder = BUILD / "exactness"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
