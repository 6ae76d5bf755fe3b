"""Event logs on disk: every codec that Spark writes, rolling directories, logs that stop short."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import lz4.block
import pyarrow as pa
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from phoebe_spark.eventlog import EventReader, LogSource, UnreadableLogError, find_logs

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
