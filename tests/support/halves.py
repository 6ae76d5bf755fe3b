"""A proxy on loopback that stops half-way through the first HTTP request of a kind."""

from __future__ import annotations

import re
import socket
import socketserver
import threading
from contextlib import suppress
from types import TracebackType

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class Proxy:
    """Forwards what comes to ``port``, to a server on loopback, while the ``with`` block lasts.

    ``reached`` is set when the request has been cut: its headers and the first half of its body are
    through, the rest never will be; when its client goes, so does the server's connection. ``path``
    is a regular expression. A request must begin what is received at once: true of clients that
    wait for an answer before they send the next one.
    """

    def __init__(self, to_port: int, method: str, path: str) -> None:
        self.reached = threading.Event()
        self._to = ("127.0.0.1", to_port)
        self._cut = re.compile(f"{method} {path} HTTP".encode())
        self._first = threading.Lock()  # taken for good by the request that is cut
        forward = self._forward

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                with suppress(OSError):
                    forward(self.request)

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]

    def __enter__(self) -> Proxy:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _forward(self, client: socket.socket) -> None:
        with socket.create_connection(self._to) as server:
            threading.Thread(target=_answers, args=(server, client), daemon=True).start()
            try:
                while data := client.recv(65536):
                    if self._cut.match(data) and self._first.acquire(blocking=False):
                        self._half(data, client, server)
                        return
                    server.sendall(data)
            finally:
                server.shutdown(socket.SHUT_RDWR)  # a close alone leaves it to who still reads

    def _half(self, data: bytes, client: socket.socket, server: socket.socket) -> None:
        while b"\r\n\r\n" not in data:
            data += _more(client)
        headers, _, body = data.partition(b"\r\n\r\n")
        length = _LENGTH.search(headers)
        assert length, headers
        server.sendall(headers + b"\r\n\r\n")  # the client may wait to be asked for the body
        half = int(length[1]) // 2
        while len(body) < half:
            body += _more(client)
        server.sendall(body[:half])
        self.reached.set()
        while client.recv(65536):  # until the client is gone
            pass


def _more(client: socket.socket) -> bytes:
    data = client.recv(65536)
    if not data:
        raise ConnectionError("the client went before half of its request was there")
    return data


def _answers(server: socket.socket, client: socket.socket) -> None:
    with suppress(OSError):
        while data := server.recv(65536):
            client.sendall(data)
        client.shutdown(socket.SHUT_WR)
