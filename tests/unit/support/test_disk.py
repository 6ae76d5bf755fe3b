"""Bytes of shuffle files over time."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.support.disk import DiskSampler, Usage, shuffle_bytes


def test_counts_shuffle_files_only(tmp_path: Path) -> None:
    level = tmp_path / "spark-1" / "executor-2" / "blockmgr-3" / "0a"
    level.mkdir(parents=True)
    (level / "shuffle_0_1_0.data").write_bytes(b"x" * 100)
    (level / "shuffle_0_1_0.index").write_bytes(b"x" * 8)
    (level / "rdd_0_1").write_bytes(b"x" * 1000)
    (level / "temp_shuffle_77").write_bytes(b"x" * 1000)
    assert shuffle_bytes([tmp_path, tmp_path / "absent"]) == 108


def test_spill_and_cached_blocks_are_counted_apart(tmp_path: Path) -> None:
    level = tmp_path / "blockmgr-3" / "0a"
    level.mkdir(parents=True)
    for name, size in (
        ("shuffle_0_1_0.data", 100),
        ("phoebe-upload-shuffle_0_2_0.data", 10),
        ("shuffle_0_1_0.checksum.ADLER32", 16),
        ("temp_local_77", 200),
        ("temp_shuffle_78", 30),
        ("rdd_0_1", 1000),
    ):
        (level / name).write_bytes(b"x" * size)
    with DiskSampler([tmp_path], interval_s=0.01) as sampler:
        time.sleep(0.02)
    found = (sampler.usage.peak_bytes, sampler.spill.peak_bytes, sampler.cached.peak_bytes)
    assert found == (110, 230, 1000)


def test_area_and_peak() -> None:
    usage = Usage(((0.0, 0), (1.0, 10), (3.0, 10), (3.5, 0)))
    assert usage.byte_seconds == pytest.approx(5 + 20 + 2.5)
    assert usage.peak_bytes == 10
    assert usage.between(1.0, 3.0).byte_seconds == pytest.approx(20)


def test_samples_what_happens(tmp_path: Path) -> None:
    level = tmp_path / "blockmgr-3" / "0a"
    level.mkdir(parents=True)
    with DiskSampler([tmp_path], interval_s=0.01) as sampler:
        time.sleep(0.05)
        (level / "shuffle_0_1_0.data").write_bytes(b"x" * 500)
        time.sleep(0.2)
        (level / "shuffle_0_1_0.data").unlink()
        time.sleep(0.1)
        (level / "shuffle_0_2_0.data").write_bytes(b"x" * 70)  # perhaps the same inode again
        time.sleep(0.1)
    began, ended = (sampler.usage.samples[i][0] for i in (0, -1))
    assert sampler.removed(began, ended + 1) == pytest.approx(500 * 1.2, rel=0.15)
    assert sampler.removed(began + 0.15, ended) == 0, "what was there before is not counted"
    assert sampler.usage.samples[-1][1] == 70
    assert sampler.usage.samples[0][1] == 0
    assert sampler.usage.peak_bytes == 500
    assert 50 < sampler.usage.byte_seconds < 500
