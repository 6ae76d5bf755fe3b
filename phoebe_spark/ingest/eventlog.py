"""Event logs and spool files as lines of JSON: found, decompressed, decoded, cut off or not.

Reads what Spark writes: single files and rolled ones (`ingest.rolled_logs`), plain, zstd, lz4
(the LZ4Block format of lz4-java, which is not lz4's frame format), snappy (xerial's stream) and
gzip. The codec is told by the first bytes, not by the name: a log in progress is called
``.inprogress``. A log that stops in the middle, of a driver that was killed or is still running,
gives its whole lines and ``torn``. What events mean is `phoebe_spark.harvest`'s.
"""

from __future__ import annotations

import codecs
import gzip
import os
import re
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from errno import ENOENT
from itertools import zip_longest
from pathlib import Path
from typing import IO, Any, Literal, Protocol

import lz4.block
import orjson
import zstandard

from phoebe_spark import nested_json
from phoebe_spark.ingest.rolled_logs import FOLDER, application_of, in_order, is_part, parts_of

LogKind = Literal["eventlog", "spool"]

_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_LZ4_MAGIC = b"LZ4Block"
_SNAPPY_MAGIC = b"\x82SNAPPY\x00"
_GZIP_MAGIC = b"\x1f\x8b"
_READ_BYTES = 1 << 20
_LARGEST_BLOCK = 1 << 26  # lz4-java's limit is half of it; Spark's default 32 KiB
_LARGEST_WINDOW = 1 << 27  # of a zstd frame: what decoders accept unless they are told otherwise
_SNAPPY_GAIN = 22  # a snappy copy of three bytes stands for 64
_LONGEST_LINE = 1 << 28  # the longest that were seen, with texts of plans, are a quarter of it


class UnreadableLogError(Exception):
    """A file that is no event log or spool, that is damaged from its start, or that claims sizes
    that none of its writers uses."""


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


_SPOOL = re.compile(r"(?P<stem>.+?)(?:-[0-9a-f]{8})?\.ndjson")


def find_logs(
    paths: Iterable[str | Path], unreadable: Callable[[Path, OSError], None] | None = None
) -> list[LogSource]:
    """The logs in ``paths``: files, rolling directories, or directories of either.

    The parts of a rolled log, and the spool files of one application, are one log; a part that is
    named alone stands for all of it. Hidden files and Hadoop's ``_SUCCESS`` and checksums are
    passed over. ``unreadable`` is told of each path that does not exist or cannot be listed;
    without it ``OSError`` is raised.
    """
    found: list[LogSource] = []
    spools: dict[tuple[Path, str], list[Path]] = {}
    rolled: set[tuple[Path, str]] = set()

    def visit(path: Path) -> None:
        try:
            look(path)
        except OSError as error:
            if unreadable is None:
                raise
            unreadable(path, error)

    def look(path: Path) -> None:
        if path.is_dir():
            files, folders = _listed(path)
            parts = parts_of(files)
            take_parts(path, parts)
            if path.name.startswith(FOLDER):
                if not parts:
                    found.append(LogSource(path, (), "eventlog"))
                return
            taken = {name for mine in parts.values() for name in mine}
            for name in sorted({*files, *folders} - taken):
                visit(path / name)
        elif not path.exists():
            raise FileNotFoundError(ENOENT, "no such file or directory", str(path))
        elif spool := _SPOOL.fullmatch(path.name):
            spools.setdefault((path.parent, spool.group("stem")), []).append(path)
        elif is_part(path.name):
            parts = parts_of(_listed(path.parent)[0])
            take_parts(path.parent, {k: mine for k, mine in parts.items() if path.name in mine})
        else:
            found.append(LogSource(path, (path,), "eventlog"))

    def take_parts(folder: Path, parts: Mapping[str, Sequence[str]]) -> None:
        for called, names in parts.items():
            if (folder, called) not in rolled:
                rolled.add((folder, called))
                found.extend(_rolled(folder, names))

    for given in paths:
        visit(Path(given).expanduser())
    for files in spools.values():
        ordered = tuple(sorted(files, key=lambda path: (path.stat().st_mtime_ns, path.name)))
        found.append(LogSource(ordered[0], ordered, "spool"))
    return found


def _listed(folder: Path) -> tuple[list[str], list[str]]:
    """Names of files and of folders, without hidden ones. Raises ``OSError``."""
    files: list[str] = []
    folders: list[str] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if not entry.name.startswith((".", "_")):
                (folders if entry.is_dir() else files).append(entry.name)
    return files, folders


def _rolled(folder: Path, names: Sequence[str]) -> Iterator[LogSource]:
    """The logs that are written in these parts: one, but for folders that several clusters used."""
    heads = {name: head for name in names if (head := _databricks_head(folder / name))}
    contexts = {str(head.get("SparkContext Id")) for head in heads.values()}
    for context in sorted(contexts) or [""]:
        mine = [
            n for n in names if str(heads.get(n, {}).get("SparkContext Id", context)) == context
        ]
        part = in_order(mine, heads)
        missing = dict(part.missing)
        for copy, kept in part.copies:
            if not _same_lines(folder / copy, folder / kept):
                text = f"two files have one number, {kept} was read and {copy} was not"
                missing.setdefault(part.names.index(kept), text)
        files = tuple(folder / name for name in part.names)
        alone = len(files) == 1 or len(contexts) > 1 or not _is_databricks(names)
        yield LogSource(
            files[0] if files and alone and not folder.name.startswith(FOLDER) else folder,
            files,
            "eventlog",
            missing=missing,
            late=part.late,
            over=part.over,
            application=application_of(folder),
        )


def _is_databricks(names: Iterable[str]) -> bool:
    return all(name.startswith("eventlog") for name in names)


def _databricks_head(path: Path) -> Mapping[str, Any] | None:
    """The event by which Databricks begins each of a log's files."""
    if not _is_databricks([path.name]):
        return None
    try:
        with path.open("rb") as raw:
            first = next(_chunks(raw), b"").partition(b"\n")[0]
        head = orjson.loads(first)
    except (*_TORN, OSError, UnreadableLogError, orjson.JSONDecodeError):
        return None  # reading it will say what is wrong
    known = isinstance(head, dict) and head.get("Event") == "DBCEventLoggingListenerMetadata"
    return head if known else None


def _same_lines(one: Path, other: Path) -> bool:
    """Whether two files hold the same, perhaps compressed otherwise."""
    readers = [EventReader(LogSource(path, (path,), "eventlog")) for path in (one, other)]
    try:
        with one.open("rb") as first, other.open("rb") as second:
            lines = zip_longest(readers[0].raw_lines(first), readers[1].raw_lines(second))
            return all(a == b for a, b in lines) and not any(reader.torn for reader in readers)
    except (OSError, UnreadableLogError):
        return False


def kind_of(name: str) -> LogKind:
    """What a file of this name holds."""
    return "spool" if _SPOOL.fullmatch(name) else "eventlog"


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
                self._charset = _charset_in(line)
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
        if line.isascii() or _is_utf8(line):
            return self._decode(line)
        failed: orjson.JSONDecodeError | None = None
        for text in _readings(line, self._charset):
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
            yield from _chunks(raw)
        except _TORN as error:
            if "too much memory" in str(error):
                raise UnreadableLogError("a zstd frame of it claims too much memory") from error
            self.torn = True


_CHARSET = re.compile(rb'"file\.encoding":"([\w.:-]+)"')
_GUESSES = ("cp1252", "latin-1", "gb18030", "cp932", "big5", "cp949")


def _charset_in(environment: bytes) -> str | None:
    """The driver's charset, by Python's name, as its properties tell it."""
    found = _CHARSET.search(environment)
    try:
        name = codecs.lookup(found[1].decode()).name if found else None
        if name is not None:
            b"\xe9".decode(name, "replace")  # Python has codecs that are no charsets
    except (LookupError, UnicodeError):
        return None
    return None if name == "ascii" else name  # as ASCII, nothing else can have been written


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


def _readings(line: bytes, charset: str | None) -> Iterator[str]:
    """What a line that is not UTF-8 may say, the likeliest first.

    UTF-8 with a few broken characters keeps the others. A charset with bytes that are also JSON's
    own signs (a backslash, a bracket) is found by the reading that is JSON.
    """
    if charset is not None:
        yield line.decode(charset, "replace")
    text = line.decode(errors="replace")
    if 2 * text.count("\ufffd") < len(text) - len(text.encode("ascii", "ignore")):
        yield text
    for guess in _GUESSES:
        try:
            yield line.decode(guess)
        except UnicodeDecodeError:
            continue


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
        decompressor = zstandard.ZstdDecompressor(max_window_size=_LARGEST_WINDOW)
        reader = decompressor.stream_reader(raw, read_across_frames=True)
        return _zstd_blocks(reader, raw)
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


def _zstd_blocks(reader: _Readable, raw: IO[bytes]) -> Iterator[bytes]:
    """The decompressor takes a file's end for a frame's: a cut between two of its blocks, which may
    also be one between two lines, is told by the blocks' headers (RFC 8878, 3.1.1)."""
    yield from _blocks(reader)
    raw.seek(0)
    while head := raw.read(18):
        if head[1:4] == b"\x2a\x4d\x18":  # a frame to be skipped, of other compressors
            raw.seek(8 + int.from_bytes(head[4:8], "little") - len(head), os.SEEK_CUR)
            continue
        raw.seek(zstandard.frame_header_size(head) - len(head), os.SEEK_CUR)
        block = 0
        while not block & 1:
            header = raw.read(3)
            if len(header) < 3:
                raise _CutOffError
            block = int.from_bytes(header, "little")
            run = block >> 1 & 3 == 1
            raw.seek(1 if run else block >> 3, os.SEEK_CUR)
        if zstandard.get_frame_parameters(head).has_checksum:
            raw.seek(4, os.SEEK_CUR)
        if raw.tell() > os.fstat(raw.fileno()).st_size:
            raise _CutOffError


_LZ4_HEADER = struct.Struct("<8sBiiI")


def _lz4_blocks(raw: IO[bytes]) -> Iterator[bytes]:
    """lz4-java's ``LZ4BlockOutputStream``: per block a header of magic, token (method and level),
    compressed and decompressed length and checksum, little-endian. A length of 0 ends a stream;
    streams may follow each other."""
    ended = True
    while header := raw.read(_LZ4_HEADER.size):
        if len(header) < _LZ4_HEADER.size:
            raise _CutOffError
        magic, token, compressed, size, _checksum = _LZ4_HEADER.unpack(header)
        if magic != _LZ4_MAGIC or size < 0 or compressed < 0:
            raise _CutOffError
        _believe(max(size, compressed), "lz4")
        ended = size == 0
        data = raw.read(compressed)
        if len(data) < compressed:
            raise _CutOffError
        if token & 0xF0 == 0x10:  # stored as it is
            yield data
        elif size:
            yield lz4.block.decompress(data, uncompressed_size=size)
    if not ended:  # in progress, or cut off between two blocks
        raise _CutOffError


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
        if size <= 0:
            raise _CutOffError
        _believe(size, "snappy")
        data = raw.read(size)
        if len(data) < size:
            raise _CutOffError
        unpacked = _snappy_size(data)
        _believe(unpacked, "snappy", most=_SNAPPY_GAIN * size)
        try:
            yield pa.decompress(data, unpacked, codec="snappy", asbytes=True)
        except (OSError, ValueError, pa.ArrowException) as error:
            raise _CutOffError from error


def _believe(size: int, codec: str, most: int = _LARGEST_BLOCK) -> None:
    """Before memory is taken for a block of this size, in bytes."""
    if size > min(most, _LARGEST_BLOCK):
        raise UnreadableLogError(f"a {codec} block of it claims {size} bytes: it is damaged")


def _snappy_size(data: bytes) -> int:
    """The decompressed length at the start of a raw snappy block, a little-endian base-128."""
    size = shift = 0
    for byte in data[:5]:
        size |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            break
    return size
