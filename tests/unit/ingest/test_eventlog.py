"""Event logs on disk: every codec that Spark writes, rolling directories, logs that stop short."""

from __future__ import annotations

import gzip
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import lz4.block
import pyarrow as pa
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from phoebe_spark.errors import UnreadableLogError
from phoebe_spark.ingest import compression, eventlog
from phoebe_spark.ingest.eventlog import EventReader, LogSource
from phoebe_spark.ingest.finding import find_logs

LINES = [b'{"Event":"SparkListenerX","n":%d,"text":"%s"}' % (n, b"abc" * 50) for n in range(2000)]
PLAIN = b"\n".join(LINES) + b"\n"


def lz4_block(data: bytes, block: int = 1 << 15, *, stored: bool = False) -> bytes:
    """What lz4-java's LZ4BlockOutputStream writes (its checksums are not looked at)."""
    made = b""
    for start in range(0, len(data), block):
        piece = data[start : start + block]
        packed = piece if stored else lz4.block.compress(piece, store_size=False)
        token = (0x10 if stored else 0x20) | 5
        made += struct.pack("<8sBiiI", b"LZ4Block", token, len(packed), len(piece), 0) + packed
    return made + struct.pack("<8sBiiI", b"LZ4Block", 0x15, 0, 0, 0)


def snappy(data: bytes, block: int = 1 << 15) -> bytes:
    """What xerial's SnappyOutputStream writes."""
    made = b"\x82SNAPPY\x00" + struct.pack(">ii", 1, 1)
    for start in range(0, len(data), block):
        packed = pa.compress(data[start : start + block], codec="snappy", asbytes=True)
        made += struct.pack(">i", len(packed)) + packed
    return made


CODECS = {
    "plain": lambda data: data,
    "zstd": lambda data: zstandard.ZstdCompressor().compress(data),
    "zstd frames": lambda data: b"".join(
        zstandard.ZstdCompressor().compress(part) for part in (data[:1000], data[1000:])
    ),
    "zstd with a frame to skip": lambda data: (
        zstandard.ZstdCompressor(write_checksum=True).compress(data[:1000])
        + b"\x51\x2a\x4d\x18\x02\0\0\0xx"
        + zstandard.ZstdCompressor().compress(data[1000:])
    ),
    "lz4": lz4_block,
    "lz4 stored": lambda data: lz4_block(data, stored=True),
    "lz4 streams": lambda data: lz4_block(data[:1000]) + lz4_block(data[1000:]),
    "snappy": snappy,
    "snappy streams": lambda data: snappy(data[:1000]) + snappy(data[1000:]),
    "gzip": gzip.compress,
}


def read(*files: Path) -> tuple[list[int], EventReader]:
    reader = EventReader(LogSource(files[0], files, "eventlog"))
    return [event["n"] for event in reader], reader


@pytest.mark.parametrize("codec", CODECS)
def test_codecs(tmp_path: Path, codec: str) -> None:
    path = tmp_path / "app-1"
    path.write_bytes(CODECS[codec](PLAIN))
    numbers, reader = read(path)
    assert numbers == list(range(2000))
    assert (reader.lines, reader.bad_lines, reader.torn) == (2000, 0, False)


@pytest.mark.parametrize("codec", CODECS)
@given(share=st.floats(0.05, 0.99))
def test_a_log_cut_off_gives_its_whole_lines(
    tmp_path_factory: pytest.TempPathFactory, codec: str, share: float
) -> None:
    path = tmp_path_factory.mktemp("cut") / "app-1.inprogress"
    packed = CODECS[codec](PLAIN)
    path.write_bytes(packed[: int(len(packed) * share)])
    numbers, reader = read(path)
    assert numbers == list(range(len(numbers)))
    assert reader.torn or len(numbers) < 2000
    assert reader.bad_lines == 0


def _half_zstd() -> bytes:
    """A frame that is cut off between two blocks, just where a line ends."""
    frame = zstandard.ZstdCompressor().compressobj()
    return frame.compress(b"\n".join(LINES[:9]) + b"\n") + frame.flush(
        zstandard.COMPRESSOBJ_FLUSH_BLOCK
    )


@pytest.mark.parametrize(
    "first", [_half_zstd(), lz4_block(b"\n".join(LINES[:9]) + b"\n")[:-21]], ids=["zstd", "lz4"]
)
def test_a_file_cut_off_between_two_blocks_is_not_whole(tmp_path: Path, first: bytes) -> None:
    """Its lines are, so only the codec's own end tells that a piece is missing."""
    (tmp_path / "a").write_bytes(first)
    (tmp_path / "b").write_bytes(b"\n".join(LINES[12:]) + b"\n")
    numbers, reader = read(tmp_path / "a", tmp_path / "b")
    assert numbers == [*range(9), *range(12, 2000)]
    assert reader.missing == ["a stops in the middle"]


def test_the_last_line_may_lack_its_newline(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b'{"n":0}\n{"n":1}')
    numbers, reader = read(path)
    assert (numbers, reader.torn) == ([0, 1], False)
    path.write_bytes(b'{"n":0}\n{"n":')
    numbers, reader = read(path)
    assert (numbers, reader.torn) == ([0], True)


def test_bad_lines_are_counted_and_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b'{"n":0}\n\xff\xfe not json\n[1]\n\n{"n":1}\n')
    numbers, reader = read(path)
    assert (numbers, reader.bad_lines, reader.lines) == ([0, 1], 2, 4)


@pytest.mark.parametrize("content", [b"hello\nworld\n", bytes(range(256)) * 10 + b"\n"])
def test_a_file_that_is_no_log_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a"
    path.write_bytes(content)
    with pytest.raises(UnreadableLogError, match="first line"):
        read(path)


def _said(path: Path) -> list[str]:
    return [event["text"] for event in EventReader(LogSource(path, (path,), "eventlog"))]


_TOLD = (
    b'{"Event":"SparkListenerEnvironmentUpdate","text":"",'
    b'"System Properties":{"file.encoding":"%s"}}'
)


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize(
    ("charset", "text"),
    [
        ("latin-1", "résumé of the façade"),
        ("windows-1252", "“totals”: 5 €"),
        ("gbk", "夜间 总计"),
        ("shift_jis", "表の合計ソ"),  # their second bytes are backslashes
        ("big5", "功許蓋"),
        ("euc-kr", "야간 합계"),
    ],
)
def test_a_log_in_the_drivers_own_charset(
    tmp_path: Path, charset: str, text: str, told: bool
) -> None:
    path = tmp_path / "app"
    first = _TOLD % charset.encode() if told else b'{"text":""}'
    lines = ['{"text":"plain"}', f'{{"text":"{text}"}}', '{"text":"ünïcode"}']
    encoded = [line.encode(charset if n < 2 else "utf-8") for n, line in enumerate(lines)]
    path.write_bytes(b"\n".join([first, *encoded]))
    found = _said(path)
    assert (found[:2], found[3], len(found)) == (["", "plain"], "ünïcode", 4)
    if told or charset in ("latin-1", "windows-1252"):
        assert found[2] == text


def test_a_few_broken_characters_leave_the_others(tmp_path: Path) -> None:
    path = tmp_path / "app"
    path.write_bytes('\ufeff{"text":"übergröße"}\n'.encode().replace("ß".encode(), b"\xc3"))
    assert _said(path) == ["übergrö\ufffde"]


def test_a_line_of_many_megabytes_is_put_together_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not timed: the bytes that are handed on are counted, in pieces a thousandth of the line."""
    path = tmp_path / "app"
    long = b'{"n":1,"text":"%s"}' % (b"x" * (1 << 20))
    path.write_bytes(b'{"n":0}\n' + long + b'\n{"n":2}\n')
    monkeypatch.setattr(compression, "_READ_BYTES", 1 << 10)
    split = 0

    class Counted(bytes):
        def split(self, *args: Any) -> list[bytes]:  # type: ignore[override]
            nonlocal split
            split += len(self)
            return super().split(*args)

        def removeprefix(self, prefix: Any) -> Counted:
            return Counted(super().removeprefix(prefix))

        def __radd__(self, other: bytes) -> Counted:
            return Counted(other + bytes(self))

    chunks = eventlog.chunks
    monkeypatch.setattr(eventlog, "chunks", lambda raw: map(Counted, chunks(raw)))
    numbers, reader = read(path)
    assert (numbers, reader.lines) == ([0, 1, 2], 3)
    assert split < 2 * len(long)


def _varint(number: int) -> bytes:
    made = b""
    while number >= 0x80:
        made, number = made + bytes([number & 0x7F | 0x80]), number >> 7
    return made + bytes([number])


def _claims() -> dict[str, bytes]:
    window = zstandard.ZstdCompressionParameters(window_log=31, compression_level=1)
    frame = zstandard.ZstdCompressor(compression_params=window).compressobj()
    lie = _varint((32 << 30) - 1) + b"\x00x"
    small_lie = _varint(1 << 20) + b"\x00x"
    head = b"\x82SNAPPY\x00" + struct.pack(">ii", 1, 1)
    return {
        "snappy, 32 GiB in a block": head + struct.pack(">i", len(lie)) + lie,
        "snappy, more than copies can make": head + struct.pack(">i", len(small_lie)) + small_lie,
        "snappy, a block of 1 GiB": head + struct.pack(">i", 1 << 30) + b"x",
        "lz4, 1 GiB": struct.pack("<8sBiiI", b"LZ4Block", 0x25, 10, 1 << 30, 0) + b"x" * 10,
        "lz4, 1 GiB packed": struct.pack("<8sBiiI", b"LZ4Block", 0x25, 1 << 30, 10, 0) + b"x" * 10,
        "zstd, a window of 2 GiB": frame.compress(PLAIN) + frame.flush(),
        "gzip, zeros": gzip.compress(bytes(64 << 20)),
        "gzip, one endless line": gzip.compress(b'{"a":"' + b"x" * (32 << 20)),
    }


@pytest.mark.parametrize("name", _claims())
def test_memory_is_not_taken_on_a_files_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(eventlog, "_LONGEST_LINE", 8 << 20)
    (tmp_path / "app-1").write_bytes(_claims()[name])
    (tmp_path / "app-2").write_bytes(PLAIN)
    bad, good = find_logs([tmp_path])
    tracemalloc.start()
    try:
        with pytest.raises(UnreadableLogError):
            list(EventReader(bad))
        assert tracemalloc.get_traced_memory()[1] < 60 << 20
    finally:
        tracemalloc.stop()
    assert len(list(EventReader(good))) == 2000


def test_rolling_directories_are_read_in_order(tmp_path: Path) -> None:
    rolled = tmp_path / "eventlog_v2_app-7"
    rolled.mkdir()
    for number, part in enumerate((LINES[:5], LINES[5:9], LINES[9:12]), start=9):
        (rolled / f"events_{number}_app-7.zstd").write_bytes(
            CODECS["zstd"](b"\n".join(part) + b"\n")
        )
    (rolled / "appstatus_app-7.inprogress").touch()
    (source,) = find_logs([tmp_path])
    assert source.path == rolled
    assert [event["n"] for event in EventReader(source)] == list(range(12))


def test_a_compacted_file_stands_for_what_came_before(tmp_path: Path) -> None:
    rolled = tmp_path / "eventlog_v2_app-7"
    rolled.mkdir()
    for name in ("events_1_app-7", "events_2_app-7", "events_2_app-7.compact", "events_10_app-7"):
        (rolled / name).write_bytes(b"{}\n")
    (source,) = find_logs([rolled])
    assert [path.name for path in source.files] == ["events_2_app-7.compact", "events_10_app-7"]


def test_spool_files_of_one_application_are_one_log(tmp_path: Path) -> None:
    for name in ("app-1.ndjson", "app-1-0a1b2c3d.ndjson", "app-2.ndjson", ".hidden", "_SUCCESS"):
        (tmp_path / name).write_bytes(b"{}\n")
    found = find_logs([tmp_path])
    assert [(source.kind, len(source.files)) for source in found] == [("spool", 2), ("spool", 1)]


def test_a_path_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such file"):
        find_logs([tmp_path / "nothing"])
