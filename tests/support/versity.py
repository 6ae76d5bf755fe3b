"""A real S3 server on loopback, over a directory, that can be made to wait."""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.places import BUILD, free_port

JARS = BUILD / "stores-s3"
"""Where `make test-stores` puts the server and s3a's jars."""
GATEWAY = JARS / "versitygw"
BUCKET = "bucket"
USER, SECRET = "ann", "secret-of-ann"


@dataclass(frozen=True)
class Server:
    process: subprocess.Popen[bytes]
    port: int
    folder: Path

    def conf(self, port: int | None = None) -> dict[str, str]:
        """The Spark settings that reach it, by way of another port if given."""
        return {
            "spark.hadoop.fs.s3a.endpoint": f"http://127.0.0.1:{port or self.port}",
            "spark.hadoop.fs.s3a.endpoint.region": "us-east-1",
            "spark.hadoop.fs.s3a.path.style.access": "true",
            "spark.hadoop.fs.s3a.access.key": USER,
            "spark.hadoop.fs.s3a.secret.key": SECRET,
        }

    def objects(self, prefix: str) -> Path:
        """The directory with the objects under a prefix: what is complete, under its own name."""
        return self.folder / BUCKET / prefix

    def pause(self) -> None:
        """Requests wait for their answers from here on."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.process.send_signal(signal.SIGCONT)


@contextmanager
def running(folder: Path, timeout_s: float = 30) -> Iterator[Server]:
    (folder / BUCKET).mkdir(parents=True)
    port = free_port()
    options = ["--port", f"127.0.0.1:{port}", "--access", USER, "--secret", SECRET]
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [str(GATEWAY), *options, "posix", str(folder)],
            stdout=log,
            stderr=log,
        )
    try:
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError as e:
                if time.monotonic() > deadline:
                    text = (folder / "server.log").read_text()
                    raise TimeoutError(f"the S3 server does not answer: {text}") from e
                time.sleep(0.1)
        yield Server(process, port, folder)
    finally:
        process.kill()
        process.wait()
