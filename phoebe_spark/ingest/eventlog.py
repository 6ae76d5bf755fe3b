"""Event logs and spool files as lines of JSON: decoded, cut off or not.

Which there are is `ingest.finding`'s, how they are compressed `ingest.compression`'s. A log that
stops in the middle, of a driver that was killed or is still running, gives its whole lines and
``torn``. What events mean is `phoebe_spark.harvest`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Literal

import orjson

from phoebe_spark import nested_json
from phoebe_spark.errors import UnreadableLogError
from phoebe_spark.ingest.charsets import charset_in, is_utf8, readings
from phoebe_spark.ingest.compression import TORN, chunks

LogKind = Literal["eventlog", "spool"]

_LONGEST_LINE = 1 << 28  # the longest that were seen, with texts of plans, are a quarter of it


@dataclass(frozen=True, slots=True)
class LogSource:
    """One application's log: its files in the order in which they were written.

    Of a rolled log, ``missing``, ``late`` and ``over`` say what `rolled_logs.Part`
    does, and ``application`` whose it is by its directory's name.
    """

    path: Path
    files: tuple[Path, ...]
    kind: LogKind
    origin: str | None = None  # where it was copied from
    missing: Mapping[int, str] = field(default_factory=dict)
    late: str = ""
    over: bool = False
    application: tuple[str, str] | None = None

    @property
    def name(self) -> str:
        """What messages call it."""
        return self.origin or str(self.path)

    def written_at(self) -> datetime:
        """When it was written last. Raises ``OSError``."""
        last = max((file.stat().st_mtime for file in self.files), default=0.0)
        return datetime.fromtimestamp(last, tz=UTC)


Decode = Callable[[bytes], Any]
"""Makes a JSON value of a line, or None of one that nobody reads; raises
``orjson.JSONDecodeError``."""

_ENVIRONMENT = b'{"Event":"SparkListenerEnvironmentUpdate"'
_LOG_START = b'{"Event":"SparkListenerLogStart"'
_BOM = b"\xef\xbb\xbf"


class EventReader:
    """Iterates over the decoded lines of one log, in bounded memory.

    ``decode`` may pass over lines that nobody reads (`phoebe_spark.harvest.decode`).

    ``lines`` read, ``bad_lines`` that are not JSON objects (skipped), and ``gaps``, places where
    something is missing (a file, or the rest of one that others follow; ``missing`` says what),
    count up as the iteration goes: what was lost was lost before the event that comes next. After
    the iteration: ``torn``, whether the log stops in the middle of a line or of a compressed block.
    Raises ``OSError`` where a file cannot be read and `UnreadableLogError` where the first line of
    all is not JSON or a file claims what would not fit into memory.
    """

    def __init__(self, source: LogSource, decode: Decode = nested_json.loads) -> None:
        self.source = source
        self.lines = 0
        self.bad_lines = 0
        self.missing: list[str] = []
        self.torn = False
        self._decode = decode
        self._charset: str | None = None  # of the driver that wrote it, once it has told

    @property
    def gaps(self) -> int:
        return len(self.missing)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        files = self.source.files
        for number, path in enumerate(files):
            if self.torn:  # others follow: not where the log stops, a piece is missing
                self.torn = False
                self.missing.append(f"{files[number - 1].name} stops in the middle")
            if said := self.source.missing.get(number):
                self.missing.append(said)
            before = self.lines
            with path.open("rb") as raw:
                yield from self._file(raw, path)
            # Spark opens the next file when it has something to write.
            if self.lines == before and self.source.kind == "eventlog" and path != files[-1]:
                self.missing.append(f"{path.name} is empty")

    def _file(self, raw: IO[bytes], path: Path) -> Iterator[dict[str, Any]]:
        for line in self.raw_lines(raw):
            if not line or line.isspace():
                continue
            self.lines += 1
            if self.lines == 1 and self.source.late and not line.startswith(_LOG_START):
                self.missing.append(self.source.late)
            if line.startswith(_ENVIRONMENT):
                self._charset = charset_in(line)
            try:
                value = self._value(line)
            except orjson.JSONDecodeError as error:
                if self.lines == 1:
                    raise UnreadableLogError(f"{path.name}: the first line is not JSON") from error
                self.bad_lines += 1
                continue
            if isinstance(value, dict):
                yield value
            elif value is not None or line.strip() == b"null":
                self.bad_lines += 1

    def _value(self, line: bytes) -> Any:
        """What the line says; until Spark 3.0 it was written in the driver's own charset."""
        if line.isascii() or is_utf8(line):
            return self._decode(line)
        failed: orjson.JSONDecodeError | None = None
        for text in readings(line, self._charset):
            try:
                return self._decode(text.encode())
            except orjson.JSONDecodeError as error:
                failed = failed or error
        assert failed is not None
        raise failed

    def raw_lines(self, raw: IO[bytes]) -> Iterator[bytes]:
        """A file's lines as they are, without one at its end that is not whole."""
        rest: list[bytes] = []  # pieces of a line that is not over
        size = 0
        for number, chunk in enumerate(self._whole_chunks(raw)):
            if number == 0:
                chunk = chunk.removeprefix(_BOM)
                if not self.lines and chunk.lstrip()[:1] not in (b"", b"{", b"["):
                    raise UnreadableLogError("the first line is not JSON")
            first, *lines = chunk.split(b"\n")
            rest.append(first)
            size += len(first)
            if lines:
                yield b"".join(rest)
                yield from lines[:-1]
                rest, size = [lines[-1]], len(lines[-1])
            if size > _LONGEST_LINE:
                raise UnreadableLogError("a line of it is longer than Spark can write")
        last = b"".join(rest)
        if last.strip():
            # No newline at the end: whole if it parses, torn if not.
            try:
                self._value(last)
            except orjson.JSONDecodeError:
                self.torn = True
            else:
                yield last

    def _whole_chunks(self, raw: IO[bytes]) -> Iterator[bytes]:
        """Decompressed pieces up to where the file ends or is damaged."""
        try:
            yield from chunks(raw)
        except TORN as error:
            if "too much memory" in str(error):
                raise UnreadableLogError("a zstd frame of it claims too much memory") from error
            self.torn = True
