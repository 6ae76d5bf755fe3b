"""Samples the bytes of shuffle files under executors' local directories while something runs.

What is counted is what users see fill up: ``shuffle_*.data`` and ``.index`` files that are in
place (not a task's scratch files), by their lengths, at short intervals. A file with several names
(an upload keeps one of its own) counts once, as long as any of them is there. What else fills these
directories is sampled apart: spilled rows and scratch files, and cached blocks.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import TracebackType

_SHUFFLE, _SPILL, _CACHED = "shuffle", "spill", "cached"
_NAMES = {
    _SHUFFLE: ("shuffle_", "phoebe-upload-shuffle_"),
    _SPILL: ("temp_local_", "temp_shuffle_"),
    _CACHED: ("rdd_",),
}
_FileId = tuple[int, int, int]
"""Device, inode and modification time: inodes are used again."""
_MAX_DEPTH = 4  # <local dir>/spark-<uuid>/executor-<uuid>/blockmgr-<uuid>


def _block_directories(root: Path, depth: int = 0) -> Iterator[str]:
    try:
        with os.scandir(root) as entries:
            for entry in entries:
                if not entry.is_dir(follow_symlinks=False):
                    continue
                if entry.name.startswith("blockmgr-"):
                    yield entry.path
                elif depth < _MAX_DEPTH:
                    yield from _block_directories(Path(entry.path), depth + 1)
    except FileNotFoundError:  # an executor is just cleaning up
        return


def shuffle_bytes(roots: Iterable[Path]) -> int:
    """Bytes of the shuffle data and index files now under ``roots``."""
    return sum(_files(roots)[_SHUFFLE].values())


def _kind(name: str) -> str | None:
    """What a file in a block directory holds; None: nothing that is counted."""
    found = next((kind for kind, starts in _NAMES.items() if name.startswith(starts)), None)
    return None if found == _SHUFFLE and not name.endswith((".data", ".index")) else found


def _files(roots: Iterable[Path]) -> dict[str, dict[_FileId, int]]:
    """Bytes of each file by kind, whatever its names."""
    files: dict[str, dict[_FileId, int]] = {kind: {} for kind in _NAMES}
    for root in roots:
        for block_directory in _block_directories(root):
            for level in _entries(block_directory):
                if not level.is_dir(follow_symlinks=False):
                    continue
                for file in _entries(level.path):
                    kind = _kind(file.name)
                    if kind is not None:
                        try:
                            stat = os.stat(file.path, follow_symlinks=False)
                        except FileNotFoundError:
                            continue
                        files[kind][stat.st_dev, stat.st_ino, stat.st_mtime_ns] = stat.st_size
    return files


def _entries(path: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(path) as entries:
            return list(entries)
    except FileNotFoundError:
        return []


@dataclass(frozen=True, slots=True)
class Usage:
    """Samples of (seconds since the epoch, bytes), in order of time."""

    samples: tuple[tuple[float, int], ...]

    @property
    def peak_bytes(self) -> int:
        return max((b for _, b in self.samples), default=0)

    @property
    def byte_seconds(self) -> float:
        """The area under the samples (trapezoids)."""
        pairs = pairwise(self.samples)
        return sum((t2 - t1) * (b1 + b2) / 2 for (t1, b1), (t2, b2) in pairs)

    def between(self, start: float, end: float) -> Usage:
        """The samples of a window (seconds since the epoch)."""
        return Usage(tuple((t, b) for t, b in self.samples if start <= t <= end))


@dataclass(frozen=True, slots=True)
class _Gone:
    """A file's life, in seconds since the epoch, and its bytes."""

    came: float
    went: float
    size: int


class DiskSampler:
    """Samples in a thread of its own until the ``with`` block ends; then ``usage`` is complete, and
    so are ``spill``, ``cached`` and ``removed``.

    >>> with DiskSampler([local_dir]) as sampler:
    ...     app.wait()
    >>> sampler.usage.byte_seconds
    """

    def __init__(self, roots: Iterable[Path], interval_s: float = 0.05) -> None:
        self._roots = tuple(roots)
        self._interval_s = interval_s
        self._samples: dict[str, list[tuple[float, int]]] = {kind: [] for kind in _NAMES}
        self._there: dict[_FileId, tuple[float, int]] = {}
        self._gone: list[_Gone] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="disk-sampler", daemon=True)

    def __enter__(self) -> DiskSampler:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def usage(self) -> Usage:
        """Of shuffle files."""
        return Usage(tuple(self._samples[_SHUFFLE]))

    @property
    def spill(self) -> Usage:
        """Of spilled rows and of files that tasks are still writing."""
        return Usage(tuple(self._samples[_SPILL]))

    @property
    def cached(self) -> Usage:
        """Of cached blocks on disk."""
        return Usage(tuple(self._samples[_CACHED]))

    def removed(self, start: float, end: float) -> float:
        """Byte-seconds, until ``end``, of files that came and went in a window (seconds since the
        epoch)."""
        return sum(
            gone.size * (end - gone.went)
            for gone in self._gone
            if start <= gone.came and gone.went <= end
        )

    def _run(self) -> None:
        while True:
            started = time.monotonic()
            self._sample()
            if self._stop.wait(max(0.0, self._interval_s - (time.monotonic() - started))):
                self._sample()
                return

    def _sample(self) -> None:
        found, now = _files(self._roots), time.time()
        for kind, sizes in found.items():
            self._samples[kind].append((now, sum(sizes.values())))
        files = found[_SHUFFLE]
        for file in self._there.keys() - files.keys():
            came, size = self._there.pop(file)
            self._gone.append(_Gone(came, now, size))
        for file, size in files.items():
            self._there.setdefault(file, (now, size))
