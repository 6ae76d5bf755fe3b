"""As much of S3 as the tables need, in memory on loopback: objects, listings, conditional puts.

A process of its own (``python -m tests.support.s3``), which says its port: the ``deltalake``
package holds the interpreter's lock during some of its requests.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from urllib.request import Request, urlopen
from xml.sax.saxutils import escape

from tests.support.places import ROOT

STATE = "/_state"


@dataclass(frozen=True)
class Running:
    endpoint: str

    def state(self) -> dict[str, Any]:
        """``objects``: keys as ``/bucket/key``; ``conditional``: those that were put only where
        there was nothing; ``headers`` of each request, names in lower case."""
        with urlopen(f"http://{self.endpoint}{STATE}", timeout=10) as answer:
            found: dict[str, Any] = json.load(answer)
        return found

    def put(self, key: str, body: bytes) -> None:
        urlopen(Request(f"http://{self.endpoint}{key}", body, method="PUT"), timeout=10).close()


@contextmanager
def running() -> Iterator[Running]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.s3"], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    try:
        assert process.stdout is not None
        yield Running(process.stdout.readline().strip())
    finally:
        process.kill()
        process.communicate()


@dataclass
class _Store:
    objects: dict[str, bytes] = field(default_factory=dict)
    headers: list[dict[str, str]] = field(default_factory=list)
    conditional: set[str] = field(default_factory=set)


def _state(store: _Store) -> dict[str, Any]:
    return {
        "objects": sorted(store.objects),
        "headers": store.headers,
        "conditional": sorted(store.conditional),
    }


def _serve() -> None:
    store, lock = _Store(), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def answer(self, code: int, body: bytes = b"", **headers: str) -> None:
            self.send_response(code)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def do_GET(self) -> None:
            if self.path == STATE:
                self.answer(200, json.dumps(_state(store)).encode())
                return
            store.headers.append({k.lower(): v for k, v in self.headers.items()})
            url = urlsplit(self.path)
            query = parse_qs(url.query)
            if "list-type" in query:
                self.answer(200, _listing(store, url.path.strip("/"), query["prefix"][0]))
                return
            body = store.objects.get(unquote(url.path))
            if body is None:
                self.answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
                return
            headers = {"ETag": '"e"', "Last_Modified": "Thu, 01 Jan 2026 00:00:00 GMT"}
            wanted = self.headers.get("Range")
            if wanted is None:
                self.answer(200, body, **headers)
                return
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start = int(first) if first else max(0, len(body) - int(last))
            part = body[start : int(last) + 1] if first and last else body[start:]
            headers["Content_Range"] = f"bytes {start}-{start + len(part) - 1}/{len(body)}"
            self.answer(206, part, **headers)

        do_HEAD = do_GET  # noqa: N815

        def do_PUT(self) -> None:
            store.headers.append({k.lower(): v for k, v in self.headers.items()})
            body = self.rfile.read(int(self.headers["Content-Length"]))
            key = unquote(urlsplit(self.path).path)
            with lock:
                if self.headers.get("If-None-Match") == "*":
                    if key in store.objects:
                        self.answer(412, b"<Error><Code>PreconditionFailed</Code></Error>")
                        return
                    store.conditional.add(key)
                store.objects[key] = body
            self.answer(200, ETag='"e"')

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(f"127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()


def _listing(store: _Store, bucket: str, prefix: str) -> bytes:
    keys = sorted(k.removeprefix(f"/{bucket}/") for k in store.objects)
    rows = "".join(
        f"<Contents><Key>{escape(key)}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
        f'<ETag>"e"</ETag><Size>{len(store.objects[f"/{bucket}/{key}"])}</Size></Contents>'
        for key in keys
        if key.startswith(prefix)
    )
    text = f"<ListBucketResult><IsTruncated>false</IsTruncated>{rows}</ListBucketResult>"
    return text.encode()


if __name__ == "__main__":
    _serve()
