"""Event logs and spool files as lines of JSON: found, decompressed, decoded, cut off or not.

Reads what Spark writes: single files and rolling directories (``eventlog_v2_*``, compacted files
included), plain, zstd, lz4 (the LZ4Block format of lz4-java, which is not lz4's frame format),
snappy (xerial's stream) and gzip. The codec is told by the first bytes, not by the name: a log in
progress is called ``.inprogress``. A log that stops in the middle, of a driver that was killed or
is still running, gives its whole lines and ``torn``. What events mean is `phoebe_spark.harvest`'s.
"""

from __future__ import annotations

import gzip
import re
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from errno import ENOENT
from pathlib import Path
from typing import IO, Any, Literal, Protocol

import lz4.block
import orjson
import zstandard

Kind = Literal["eventlog", "spool"]

_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_LZ4_MAGIC = b"LZ4Block"
_SNAPPY_MAGIC = b"\x82SNAPPY\x00"
_GZIP_MAGIC = b"\x1f\x8b"
_READ_BYTES = 1 << 20
_LARGEST_BLOCK = 1 << 30
_LONGEST_LINE = 1 << 29  # longer than any string of a JVM that an event is written from


class UnreadableLogError(Exception):
    """A file that is no event log or spool, or that is damaged from its start."""


@dataclass(frozen=True, slots=True)
class LogSource:
    """One application's log: its files in the order in which they were written."""

    path: Path
    files: tuple[Path, ...]
    kind: Kind
    origin: str | None = None  # where it was copied from

    @property
    def name(self) -> str:
        """What messages call it."""
        return self.origin or str(self.path)

    def written_at(self) -> datetime:
        """When it was written last. Raises ``OSError``."""
        last = max((file.stat().st_mtime for file in self.files), default=0.0)
        return datetime.fromtimestamp(last, tz=UTC)


_ROLLED = re.compile(r"events_(\d+)_.*")
_SPOOL = re.compile(r"(?P<stem>.+?)(?:-[0-9a-f]{8})?\.ndjson")


def find_logs(
    paths: Iterable[str | Path], unreadable: Callable[[Path, OSError], None] | None = None
) -> list[LogSource]:
    """The logs in ``paths``: files, rolling directories, or directories of either.

    Spool files of one application are one log. Hidden files and Hadoop's ``_SUCCESS`` and checksums
    are passed over. ``unreadable`` is told of each path that does not exist or cannot be listed;
    without it ``OSError`` is raised.
    """
    found: list[LogSource] = []
    spools: dict[tuple[Path, str], list[Path]] = {}

    def visit(path: Path) -> None:
        try:
            look(path)
        except OSError as error:
            if unreadable is None:
                raise
            unreadable(path, error)

    def look(path: Path) -> None:
        if path.is_dir():
            if path.name.startswith("eventlog_v2_"):
                names = rolled(child.name for child in path.iterdir())
                found.append(LogSource(path, tuple(path / name for name in names), "eventlog"))
                return
            for child in sorted(path.iterdir()):
                if not child.name.startswith((".", "_")):
                    visit(child)
        elif not path.exists():
            raise FileNotFoundError(ENOENT, "no such file or directory", str(path))
        elif spool := _SPOOL.fullmatch(path.name):
            spools.setdefault((path.parent, spool.group("stem")), []).append(path)
        else:
            found.append(LogSource(path, (path,), "eventlog"))

    for given in paths:
        visit(Path(given).expanduser())
    for files in spools.values():
        ordered = tuple(sorted(files, key=lambda path: (path.stat().st_mtime_ns, path.name)))
        found.append(LogSource(ordered[0], ordered, "spool"))
    return found


def rolled(names: Iterable[str]) -> list[str]:
    """Of the files in a rolling log's directory the event files, in the order in which they were
    written; a compacted file stands for all that came before it."""
    numbered: list[tuple[int, bool, str]] = []
    for name in names:
        if match := _ROLLED.fullmatch(name):
            numbered.append((int(match.group(1)), name.endswith(".compact"), name))
    start = max((number for number, compact, _ in numbered if compact), default=-1)
    return [
        name
        for number, compact, name in sorted(numbered)
        if number > start or (number == start and compact)
    ]


def kind_of(name: str) -> Kind:
    """What a file of this name holds."""
    return "spool" if _SPOOL.fullmatch(name) else "eventlog"


Decode = Callable[[bytes], Any]
"""Makes a JSON value of a line, or None of one that nobody reads; raises
``orjson.JSONDecodeError``."""


class EventReader:
    """Iterates over the decoded lines of one log, in bounded memory.

    ``decode`` may pass over lines that nobody reads (`phoebe_spark.harvest.decode`).

    ``lines`` read, ``bad_lines`` that are not JSON objects (skipped), and ``gaps``, files before
    the last one that stop in the middle, count up as the iteration goes: what was lost was lost
    before the event that comes next. After the iteration: ``torn``, whether the log stops in the
    middle of a line or of a compressed block. Raises ``OSError`` where a file cannot be read and
    `UnreadableLogError` where the first line of all is not JSON.
    """

    def __init__(self, source: LogSource, decode: Decode = orjson.loads) -> None:
        self.source = source
        self.lines = 0
        self.bad_lines = 0
        self.gaps = 0
        self.torn = False
        self._decode = decode

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for path in self.source.files:
            if self.torn:  # others follow: not where the log stops, a piece is missing
                self.torn = False
                self.gaps += 1
            with path.open("rb") as raw:
                yield from self._file(raw, path)

    def _file(self, raw: IO[bytes], path: Path) -> Iterator[dict[str, Any]]:
        decode = self._decode
        for line in self._lines(raw):
            if not line or line.isspace():
                continue
            self.lines += 1
            try:
                value = decode(line)
            except orjson.JSONDecodeError as error:
                if self.lines == 1:
                    raise UnreadableLogError(f"{path.name}: the first line is not JSON") from error
                self.bad_lines += 1
                continue
            if isinstance(value, dict):
                yield value
            elif value is not None or line.strip() == b"null":
                self.bad_lines += 1

    def _lines(self, raw: IO[bytes]) -> Iterator[bytes]:
        rest = b""
        for chunk in self._whole_chunks(raw):
            lines = (rest + chunk).split(b"\n")
            rest = lines.pop()
            if len(rest) > _LONGEST_LINE:
                raise UnreadableLogError("a line of it is longer than Spark can write")
            yield from lines
        if rest.strip():
            # No newline at the end: whole if it parses, torn if not.
            try:
                orjson.loads(rest)
            except orjson.JSONDecodeError:
                self.torn = True
            else:
                yield rest

    def _whole_chunks(self, raw: IO[bytes]) -> Iterator[bytes]:
        """Decompressed pieces up to where the file ends or is damaged."""
        try:
            yield from _chunks(raw)
        except _TORN:
            self.torn = True


class _CutOffError(Exception):
    """A compressed stream that ends or breaks in the middle of a block."""


_TORN = (
    _CutOffError,
    EOFError,
    gzip.BadGzipFile,
    zlib.error,
    zstandard.ZstdError,
    lz4.block.LZ4BlockError,
)


def _chunks(raw: IO[bytes]) -> Iterator[bytes]:
    head = raw.read(8)
    raw.seek(0)
    if head.startswith(_ZSTD_MAGIC):
        reader = zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True)
        return _blocks(reader)
    if head == _LZ4_MAGIC:
        return _lz4_blocks(raw)
    if head == _SNAPPY_MAGIC:
        return _snappy_blocks(raw)
    if head.startswith(_GZIP_MAGIC):
        return _blocks(gzip.GzipFile(fileobj=raw))
    return _blocks(raw)


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


def _blocks(stream: _Readable) -> Iterator[bytes]:
    while chunk := stream.read(_READ_BYTES):
        yield chunk


_LZ4_HEADER = struct.Struct("<8sBiiI")


def _lz4_blocks(raw: IO[bytes]) -> Iterator[bytes]:
    """lz4-java's ``LZ4BlockOutputStream``: per block a header of magic, token (method and level),
    compressed and decompressed length and checksum, little-endian. A length of 0 ends a stream;
    streams may follow each other."""
    while header := raw.read(_LZ4_HEADER.size):
        if len(header) < _LZ4_HEADER.size:
            raise _CutOffError
        magic, token, compressed, size, _checksum = _LZ4_HEADER.unpack(header)
        if magic != _LZ4_MAGIC or not 0 <= size <= _LARGEST_BLOCK or compressed < 0:
            raise _CutOffError
        data = raw.read(compressed)
        if len(data) < compressed:
            raise _CutOffError
        if token & 0xF0 == 0x10:  # stored as it is
            yield data
        elif size:
            yield lz4.block.decompress(data, uncompressed_size=size)


def _snappy_blocks(raw: IO[bytes]) -> Iterator[bytes]:
    """xerial's ``SnappyOutputStream``: a 16-byte header, then blocks of big-endian length and
    snappy's raw format; headers may occur again where streams follow each other."""
    import pyarrow as pa

    while length := raw.read(4):
        if length == _SNAPPY_MAGIC[:4]:
            raw.read(12)
            continue
        if len(length) < 4:
            raise _CutOffError
        (size,) = struct.unpack(">i", length)
        data = raw.read(size) if 0 <= size <= _LARGEST_BLOCK else b""
        if len(data) < size or size <= 0:
            raise _CutOffError
        try:
            yield pa.decompress(data, _snappy_size(data), codec="snappy", asbytes=True)
        except (OSError, ValueError, pa.ArrowException) as error:
            raise _CutOffError from error


def _snappy_size(data: bytes) -> int:
    """The decompressed length at the start of a raw snappy block, a little-endian base-128."""
    size = shift = 0
    for byte in data[:5]:
        size |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return size
    raise _CutOffError
