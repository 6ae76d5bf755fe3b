"""The model bundle (docs/bundle.md): written at promotion, verified whole before it is used.

Files in, files out: models are LightGBM's own text, everything else is JSON, nothing is unpickled.
A version directory is complete before ``current`` names it, so a reader sees the old bundle or the
new one; ``current`` also holds the checksum of the metadata, which holds those of all other files.
What the files mean is `phoebe_spark.predict.predictor`'s business.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from phoebe_spark.errors import (
    BundleDamaged,
    BundleFormat,
    BundleMissing,
    BundleRemote,
    ForeignFileError,
)

FORMAT = 2
METADATA = "metadata.json"
SHAPES = "shapes.json"
HISTORY = "history.sqlite"
"""Large, and of which a driver needs a few rows: verified like the others, never read whole."""
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z_.-]{0,127}")


@dataclass(frozen=True, slots=True)
class Bundle:
    """A verified bundle: ``metadata`` decoded, ``files`` the bytes of every other file by path, but
    for the history, which stays on disk (``history``)."""

    version: str
    path: Path
    metadata: dict[str, Any]
    files: dict[str, bytes]

    @property
    def history(self) -> Path:
        return self.path / HISTORY


def local_home(home: str | Path) -> Path:
    """``home`` as a directory of this machine; ``~`` and ``file:`` are understood.

    Raises `BundleRemote` for any other URI: tables may live there, models may not yet.
    """
    text = str(home)
    if text.startswith("file:"):
        text = "/" + text.removeprefix("file:").lstrip("/")
    if _SCHEME.match(text):
        raise BundleRemote(
            f"{text} is not a local directory: tables may live there, but models are trained and "
            "loaded under a local home only"
        )
    return Path(text).expanduser()


def bundle_root(home: str | Path) -> Path:
    """Raises `BundleRemote` unless ``home`` is local."""
    return local_home(home) / "bundle"


def _current(home: str | Path) -> tuple[str, str]:
    """The promoted version's name, and the sha256 of its metadata."""
    pointer = _pointer(home)
    try:
        text = pointer.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise BundleMissing(f"no models were promoted under {home}: run `phoebe train`") from None
    except (OSError, UnicodeDecodeError) as error:
        raise BundleDamaged(f"{pointer} cannot be read: {error}") from error
    named = _named(text)
    if named is None:
        raise BundleDamaged(f"{pointer} does not hold the name of a version and a sha256")
    return named


def _pointer(home: str | Path) -> Path:
    return bundle_root(home) / "current"


def _named(pointer: str) -> tuple[str, str] | None:
    version, _, digest = pointer.removesuffix("\n").partition(" ")
    if not _VERSION.fullmatch(version) or not _DIGEST.fullmatch(digest):
        return None
    return version, digest


def check_pointer(home: str | Path) -> None:
    """Whether a promotion may replace what is promoted under ``home``, of whatever version it is.

    Raises `ForeignFileError` where ``bundle/current`` is none that `write_bundle` has written, and
    `BundleRemote`.
    """
    pointer = _pointer(home)
    try:
        ours = not pointer.is_symlink() and _named(pointer.read_text(encoding="utf-8")) is not None
    except FileNotFoundError:
        return
    except (IsADirectoryError, UnicodeDecodeError):
        ours = False
    if not ours:
        raise ForeignFileError(
            f"{pointer} is a file that phoebe_spark has not made, or a damaged one: move it away, "
            "or name another home"
        )


def read_bundle(home: str | Path) -> Bundle:
    """The promoted bundle, every file checked against its size and sha256.

    Raises `BundleMissing`, `BundleDamaged`, `BundleFormat` or `BundleRemote`.
    """
    version, digest = _current(home)
    path = bundle_root(home) / version
    metadata = _read_metadata(path, digest)
    files: dict[str, bytes] = {}
    for name, told in metadata["files"].items():
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise BundleDamaged(f"{path / METADATA} names a file outside the bundle: {name}")
        if name == HISTORY:
            size, digest = _measure(path / name)
        else:
            files[name] = _read(path / name)
            size, digest = len(files[name]), _sha256(files[name])
        if size != told["bytes"] or digest != told["sha256"]:
            raise BundleDamaged(
                f"{path / name} is not what was written (sha256 differs): "
                "train again or restore the file"
            )
    return Bundle(version, path, metadata, files)


def write_bundle(
    home: str | Path,
    version: str,
    files: Mapping[str, bytes],
    metadata: Mapping[str, Any],
    before_promotion: Callable[[], None] = lambda: None,
) -> Path:
    """Write a version directory and promote it; returns the directory.

    ``metadata`` gains ``format``, ``version`` and ``files`` (size and sha256 of each);
    ``before_promotion`` is called when all is on disk and nothing names it yet. Raises
    ``FileExistsError`` when the version is there already, `ForeignFileError` as `check_pointer`
    does, ``OSError`` when it cannot be written, and what ``before_promotion`` raises; what was
    promoted before stays in place then.
    """
    if not _VERSION.fullmatch(version):
        raise ValueError(f"not a version name: {version!r}")
    check_pointer(home)
    root = bundle_root(home)
    root.mkdir(parents=True, exist_ok=True)
    target = root / version
    if target.exists():
        raise FileExistsError(f"bundle version {version} exists already: {target}")
    whole = {
        **metadata,
        "format": FORMAT,
        "version": version,
        "files": {
            name: {"bytes": len(content), "sha256": _sha256(content)}
            for name, content in sorted(files.items())
        },
    }
    described = orjson.dumps(whole, option=orjson.OPT_INDENT_2)
    work = Path(tempfile.mkdtemp(prefix=".new-", dir=root))
    try:
        for name, content in files.items():
            _write(work / name, content)
        _write(work / METADATA, described)
        work.chmod(0o755)
        work.rename(target)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    pointer = _new_file(root)
    try:
        _write(pointer, f"{version} {_sha256(described)}\n".encode())
        before_promotion()
        pointer.chmod(0o644)
        pointer.replace(_pointer(home))
    except BaseException:
        pointer.unlink(missing_ok=True)
        _remove(target, [*files, METADATA])
        raise
    _sync(root)
    return target


def long_shapes(home: str | Path, min_duration_ms: float) -> list[str]:
    """Plan shapes whose median duration in the past was at least ``min_duration_ms``.

    Cheap: reads and verifies the metadata and ``shapes.json`` only, imports no models. Raises
    `BundleMissing`, `BundleDamaged`, `BundleFormat` or `BundleRemote`.
    """
    version, digest = _current(home)
    path = bundle_root(home) / version
    told = _read_metadata(path, digest)["files"].get(SHAPES)
    content = _read(path / SHAPES)
    if told is None or _sha256(content) != told["sha256"]:
        raise BundleDamaged(f"{path / SHAPES} is not what was written (sha256 differs)")
    shapes: dict[str, float] = orjson.loads(content)
    return sorted(shape for shape, ms in shapes.items() if ms >= min_duration_ms)


def _remove(folder: Path, names: Iterable[str]) -> None:
    """Files that this process has written, and the directories that are then empty."""
    for name in names:
        with contextlib.suppress(OSError):
            (folder / name).unlink()
    folders = {above for name in names for above in (folder / name).parents}
    inside = [f for f in folders if f == folder or folder in f.parents]
    for each in sorted(inside, key=lambda f: len(f.parts), reverse=True):
        with contextlib.suppress(OSError):
            each.rmdir()


def _read_metadata(path: Path, digest: str) -> dict[str, Any]:
    content = _read(path / METADATA)
    if _sha256(content) != digest:
        raise BundleDamaged(
            f"{path / METADATA} is not what was written (sha256 differs): "
            "train again or restore the file"
        )
    try:
        metadata = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise BundleDamaged(f"{path / METADATA} is not JSON: {error}") from error
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
        found = metadata.get("format") if isinstance(metadata, dict) else None
        raise BundleFormat(
            f"{path} has format {found!r}, this version reads {FORMAT}: run `phoebe train`"
        )
    if not isinstance(metadata.get("files"), dict):
        raise BundleDamaged(f"{path / METADATA} does not list the bundle's files")
    return metadata


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BundleDamaged(f"{path} cannot be read: {error.strerror or error}") from error


def _measure(path: Path) -> tuple[int, str]:
    """Size and sha256 of a file, without holding it in memory."""
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            return file.tell(), digest
    except OSError as error:
        raise BundleDamaged(f"{path} cannot be read: {error.strerror or error}") from error


def _new_file(directory: Path) -> Path:
    """An empty file under a name that nobody has."""
    handle, name = tempfile.mkstemp(prefix=".current-", dir=directory)
    os.close(handle)
    return Path(name)


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
