"""The bundle on disk: whole or refused."""

from __future__ import annotations

import errno
import hashlib
from pathlib import Path

import orjson
import pytest

from phoebe_spark.errors import (
    BundleDamaged,
    BundleError,
    BundleFormat,
    BundleMissing,
    BundleRemote,
    ForeignFileError,
)
from phoebe_spark.predict.bundle import (
    bundle_root,
    long_shapes,
    read_bundle,
    write_bundle,
)
from phoebe_spark.predict.history_file import HistoryFile, history_file

HISTORY = history_file([], [("t", [2.0])])
SHAPES = orjson.dumps({"aa": 90_000.0, "bb": 10.0})
FILES = {"shapes.json": SHAPES, "task_time/general.txt": b"tree\n"}
WHOLE = {**FILES, "history.sqlite": HISTORY}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    write_bundle(tmp_path, "v1", WHOLE, {"created_at": "2026-01-01"})
    return tmp_path


def test_what_was_written_is_read(home: Path) -> None:
    bundle = read_bundle(home)
    assert bundle.version == "v1"
    assert bundle.files == FILES, "the history stays on disk"
    assert HistoryFile(bundle.history).task_times_ms("t") == [2.0]
    assert bundle.metadata["created_at"] == "2026-01-01"
    told = bundle.metadata["files"]["history.sqlite"]
    assert told == {"bytes": len(HISTORY), "sha256": hashlib.sha256(HISTORY).hexdigest()}


def test_promotion_replaces_the_pointer_and_keeps_the_old_version(home: Path) -> None:
    write_bundle(home, "v2", WHOLE, {})
    assert read_bundle(home).version == "v2"
    assert sorted(p.name for p in bundle_root(home).iterdir()) == ["current", "v1", "v2"]


@pytest.mark.parametrize("name", ["history.sqlite", "task_time/general.txt", "metadata.json"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_damage_is_refused(home: Path, name: str, damage: str) -> None:
    file = bundle_root(home) / "v1" / name
    content = bytearray(file.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    elif damage == "truncate":
        file.write_bytes(content[:-1])
    else:
        file.unlink()
    with pytest.raises(BundleDamaged, match=name.rsplit("/", 1)[-1]):
        read_bundle(home)


def test_a_changed_byte_anywhere_is_noticed(home: Path) -> None:
    files = [p for p in bundle_root(home).rglob("*") if p.is_file()]
    assert len(files) == 5
    for file in files:
        content = file.read_bytes()
        for at in range(0, len(content), 7):
            file.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
            with pytest.raises(BundleDamaged):
                read_bundle(home)
        file.write_bytes(content)
    assert read_bundle(home).version == "v1"


@pytest.mark.parametrize("home", ["s3://bucket/phoebe", Path("s3://bucket/phoebe"), "hdfs:///p"])
def test_a_home_elsewhere_is_refused(home: str | Path) -> None:
    for use in (read_bundle, lambda h: long_shapes(h, 1), lambda h: write_bundle(h, "v1", {}, {})):
        with pytest.raises(BundleRemote, match="not a local directory"):
            use(home)
    assert not Path(str(home).split("/")[0]).exists()


def test_a_file_uri_is_a_local_home(home: Path) -> None:
    assert read_bundle(home.as_uri()).version == "v1"


def test_nothing_promoted(tmp_path: Path) -> None:
    with pytest.raises(BundleMissing, match="phoebe train"):
        read_bundle(tmp_path)


@pytest.mark.parametrize(
    "pointer", [b"../../etc", b"", b"\xff\xfe", b"v1", b"gone " + b"0" * 64, b"v1 " + b"0" * 64]
)
def test_a_pointer_that_names_nothing(home: Path, pointer: bytes) -> None:
    (bundle_root(home) / "current").write_bytes(pointer)
    with pytest.raises(BundleDamaged):
        read_bundle(home)


@pytest.mark.parametrize(
    ("metadata", "error"),
    [
        (b"{", BundleDamaged),
        (b'{"format": 99}', BundleFormat),
        (b'{"format": 1, "files": {}}', BundleFormat),  # held all of its history in one JSON file
        (b"[]", BundleFormat),
        (b'{"format": 2}', BundleDamaged),
        (b'{"format": 2, "files": {"../current": {"bytes": 3, "sha256": ""}}}', BundleDamaged),
    ],
)
def test_metadata_that_cannot_be_used(
    home: Path, metadata: bytes, error: type[BundleError]
) -> None:
    (bundle_root(home) / "v1" / "metadata.json").write_bytes(metadata)
    digest = hashlib.sha256(metadata).hexdigest()
    (bundle_root(home) / "current").write_text(f"v1 {digest}\n")
    with pytest.raises(error):
        read_bundle(home)


def test_a_version_is_never_overwritten(home: Path) -> None:
    with pytest.raises(FileExistsError):
        write_bundle(home, "v1", {}, {})
    assert read_bundle(home).files == FILES


@pytest.mark.parametrize("kind", ["text", "bytes", "link", "folder"])
def test_another_programs_pointer_is_left_as_it_is(home: Path, kind: str) -> None:
    current = bundle_root(home) / "current"
    ours = current.read_bytes()
    current.unlink()
    if kind == "link":
        (home / "elsewhere").write_bytes(ours)
        current.symlink_to(home / "elsewhere")
    elif kind == "folder":
        current.mkdir()
    else:
        current.write_bytes(b"release-7\n" if kind == "text" else b"\xff\xfe")
    with pytest.raises(ForeignFileError, match="bundle/current is a file that phoebe_spark has"):
        write_bundle(home, "v2", WHOLE, {})
    assert sorted(p.name for p in bundle_root(home).iterdir()) == ["current", "v1"]
    assert current.is_symlink() == (kind == "link")
    assert kind == "folder" or current.read_bytes() in (ours, b"release-7\n", b"\xff\xfe")


def test_a_failed_write_leaves_the_old_bundle(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path), len(content))

    monkeypatch.setattr("phoebe_spark.predict.bundle._write", full)
    with pytest.raises(OSError, match="No space left"):
        write_bundle(home, "v2", WHOLE, {})
    assert read_bundle(home).version == "v1"
    assert sorted(p.name for p in bundle_root(home).iterdir()) == ["current", "v1"]


def test_what_fails_before_promotion_leaves_the_old_bundle(home: Path) -> None:
    def fail() -> None:
        assert (bundle_root(home) / "v2" / "metadata.json").exists()
        raise ConnectionError("the registry is away")

    with pytest.raises(ConnectionError):
        write_bundle(home, "v2", FILES, {}, fail)
    assert read_bundle(home).version == "v1"
    assert sorted(p.name for p in bundle_root(home).iterdir()) == ["current", "v1"]

    def put_and_fail() -> None:
        (bundle_root(home) / "v2" / "notes.txt").write_text("mine")
        fail()

    with pytest.raises(ConnectionError):
        write_bundle(home, "v2", FILES, {}, put_and_fail)
    left = [str(p.relative_to(bundle_root(home))) for p in (bundle_root(home) / "v2").rglob("*")]
    assert left == ["v2/notes.txt"], "what another one put there stays"


def test_long_shapes_reads_the_shapes_alone(home: Path) -> None:
    for name in ("task_time/general.txt", "history.sqlite"):
        (bundle_root(home) / "v1" / name).unlink()
    assert long_shapes(home, 60_000) == ["aa"]
    assert long_shapes(home, 1) == ["aa", "bb"]
    (bundle_root(home) / "v1" / "shapes.json").write_bytes(b"{}")
    with pytest.raises(BundleDamaged):
        long_shapes(home, 1)
