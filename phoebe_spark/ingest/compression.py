"""Compressed streams as Spark writes them, in decompressed pieces, in bounded memory.

Plain, zstd, lz4 (the LZ4Block format of lz4-java, which is not lz4's frame format), snappy
(xerial's stream) and gzip. The codec is told by the first bytes, not by the name: a log in progress
is called ``.inprogress``. A stream that stops in the middle gives what is whole, then raises one of
`TORN`.
"""

from __future__ import annotations

import gzip
import os
import struct
import zlib
from collections.abc import Iterator
from typing import IO, Protocol

import lz4.block
import zstandard

from phoebe_spark.errors import CutOffError, UnreadableLogError

_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_LZ4_MAGIC = b"LZ4Block"
_SNAPPY_MAGIC = b"\x82SNAPPY\x00"
_GZIP_MAGIC = b"\x1f\x8b"
_READ_BYTES = 1 << 20
_LARGEST_BLOCK = 1 << 26  # lz4-java's limit is half of it; Spark's default 32 KiB
_LARGEST_WINDOW = 1 << 27  # of a zstd frame: what decoders accept unless they are told otherwise
_SNAPPY_GAIN = 22  # a snappy copy of three bytes stands for 64


TORN = (
    CutOffError,
    EOFError,
    gzip.BadGzipFile,
    zlib.error,
    zstandard.ZstdError,
    lz4.block.LZ4BlockError,
)


def chunks(raw: IO[bytes]) -> Iterator[bytes]:
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
                raise CutOffError
            block = int.from_bytes(header, "little")
            run = block >> 1 & 3 == 1
            raw.seek(1 if run else block >> 3, os.SEEK_CUR)
        if zstandard.get_frame_parameters(head).has_checksum:
            raw.seek(4, os.SEEK_CUR)
        if raw.tell() > os.fstat(raw.fileno()).st_size:
            raise CutOffError


_LZ4_HEADER = struct.Struct("<8sBiiI")


def _lz4_blocks(raw: IO[bytes]) -> Iterator[bytes]:
    """lz4-java's ``LZ4BlockOutputStream``: per block a header of magic, token (method and level),
    compressed and decompressed length and checksum, little-endian. A length of 0 ends a stream;
    streams may follow each other."""
    ended = True
    while header := raw.read(_LZ4_HEADER.size):
        if len(header) < _LZ4_HEADER.size:
            raise CutOffError
        magic, token, compressed, size, _checksum = _LZ4_HEADER.unpack(header)
        if magic != _LZ4_MAGIC or size < 0 or compressed < 0:
            raise CutOffError
        _believe(max(size, compressed), "lz4")
        ended = size == 0
        data = raw.read(compressed)
        if len(data) < compressed:
            raise CutOffError
        if token & 0xF0 == 0x10:  # stored as it is
            yield data
        elif size:
            yield lz4.block.decompress(data, uncompressed_size=size)
    if not ended:  # in progress, or cut off between two blocks
        raise CutOffError


def _snappy_blocks(raw: IO[bytes]) -> Iterator[bytes]:
    """xerial's ``SnappyOutputStream``: a 16-byte header, then blocks of big-endian length and
    snappy's raw format; headers may occur again where streams follow each other."""
    import pyarrow as pa

    while length := raw.read(4):
        if length == _SNAPPY_MAGIC[:4]:
            raw.read(12)
            continue
        if len(length) < 4:
            raise CutOffError
        (size,) = struct.unpack(">i", length)
        if size <= 0:
            raise CutOffError
        _believe(size, "snappy")
        data = raw.read(size)
        if len(data) < size:
            raise CutOffError
        unpacked = _snappy_size(data)
        _believe(unpacked, "snappy", most=_SNAPPY_GAIN * size)
        try:
            yield pa.decompress(data, unpacked, codec="snappy", asbytes=True)
        except (OSError, ValueError, pa.ArrowException) as error:
            raise CutOffError from error


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
