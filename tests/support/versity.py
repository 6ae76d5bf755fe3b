"""A real S3 server on loopback, over a directory, that can be made to wait, and a relay in front of
it that lets only the beginning of a manifest through."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
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


_MANIFEST = re.compile(rb"PUT /\S*\.manifest\b")
_BODY_BYTES = 100


@dataclass
class Relay:
    """Passes bytes on to a server. While ``holding``, of a manifest's upload only the beginning
    arrives: the server waits for the rest as long as the client lives."""

    port: int
    to: int
    holding: bool = True
    held: list[bytes] = field(default_factory=list)

    def wait_for_held(self, count: int = 1, timeout_s: float = 240) -> None:
        """Waits until so many uploads have begun and are held."""
        deadline = time.monotonic() + timeout_s
        while len(self.held) < count:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{len(self.held)} of {count} manifests on their way")
            time.sleep(0.05)

    def _serve(self, listener: socket.socket) -> None:
        with suppress(OSError):  # the listener is closed at the end
            while True:
                client, _ = listener.accept()
                server = socket.create_connection(("127.0.0.1", self.to))
                for target, one, other in ((self._up, client, server), (_pass, server, client)):
                    threading.Thread(target=target, args=(one, other), daemon=True).start()

    def _up(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while data := client.recv(1 << 16):
                if self.holding and (found := _MANIFEST.search(data)):
                    while b"\r\n\r\n" not in data[found.start() :]:
                        data += client.recv(1 << 16)
                    self._hold(data, data.index(b"\r\n\r\n", found.start()) + 4, client, server)
                    break
                server.sendall(data)
        _close(client, server)

    def _hold(self, data: bytes, body: int, client: socket.socket, server: socket.socket) -> None:
        server.sendall(data[:body])
        rest = data[body:]
        while len(rest) < _BODY_BYTES and (more := client.recv(1 << 16)):
            rest += more
        server.sendall(rest[:_BODY_BYTES])
        self.held.append(data[:body])
        while client.recv(1 << 16):
            pass  # goes nowhere


def _pass(one: socket.socket, other: socket.socket) -> None:
    with suppress(OSError):
        while data := one.recv(1 << 16):
            other.sendall(data)
    _close(one, other)


def _close(*sockets: socket.socket) -> None:
    for one in sockets:
        with suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)
        one.close()


@contextmanager
def relay(to: Server) -> Iterator[Relay]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        found = Relay(listener.getsockname()[1], to.port)
        threading.Thread(target=found._serve, args=(listener,), daemon=True).start()
        yield found
