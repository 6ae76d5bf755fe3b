"""Checkpoints that are damaged, cannot be written, or are written by two drivers at once.

Whatever happens to the store, results are those of the plain run. What cannot be read once it is in
a plan has its own tests (``test_unreadable_checkpoints``).
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.support import apps, home, in_turn, places, queries, store, stored_job, tpc
from tests.support.compare import compare_results
from tests.support.waiting import until

SQL = """
select o_orderpriority, count(*) as n, sum(total) as total
from (
  select o_orderkey, o_orderpriority, sum(l_quantity) as total
  from orders join lineitem on o_orderkey = l_orderkey
  where l_linenumber <= {most}
  group by o_orderkey, o_orderpriority
)
group by o_orderpriority
"""


def _item(most: int, name: str = "", data: Path | None = None, **how: object) -> queries.Item:
    data = data or tpc.data("tpch", 0.01)
    return queries.Item(name or f"q{most}", data, sql=SQL.format(most=most), **how)  # type: ignore[arg-type]


def _settings(home_: Path, conf: Mapping[str, str]) -> dict[str, str]:
    settings = {**stored_job.KEPT, "spark.phoebe.home": str(home_)}
    return settings | {key.replace("__", "."): value for key, value in conf.items()}


def _submit(
    items: list[queries.Item], folder: Path, home_: Path, *jars: Path, **conf: str
) -> apps.RunningApp:
    return queries.submit_queries(
        items,
        folder=folder,
        conf=_settings(home_, conf),
        plugin="jars",
        packages_jars=jars,
        allow_failures=True,
    )


def _run(
    jvm: in_turn.Jvm, items: list[queries.Item], folder: Path, home_: Path, **conf: str
) -> apps.FinishedApp:
    """An application beside which nothing happens."""
    spec = queries.write_spec(items, folder, allow_failures=True)
    return jvm.run(folder, "tests.support.query_app", spec, _settings(home_, conf))


def _events(home_: Path, folder: Path, event: str) -> set[str]:
    """Names of the queries of the application in ``folder`` that had such a checkpoint event."""
    app_id = apps.app_id(folder)
    executions = {
        r["execution_id"]: str(r["description"]) for r in home.records(home_, "executions", app_id)
    }
    return {
        executions[r["execution_id"]]
        for r in home.records(home_, "checkpoints", app_id)
        if r["event"] == event
    }


@pytest.fixture(scope="module")
def jvm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[in_turn.Jvm]:
    with in_turn.Jvm(tmp_path_factory.mktemp("jvm")) as found:
        yield found


@pytest.fixture(scope="module")
def written(jvm: in_turn.Jvm, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folder and home of an application that wrote checkpoints of four queries."""
    base = tmp_path_factory.mktemp("written")
    _run(jvm, [_item(most) for most in (1, 2, 3, 4)], base / "app", base / "home")
    assert _events(base / "home", base / "app", "committed") == {"q1", "q2", "q3", "q4"}
    return base / "app", base / "home"


@pytest.fixture
def copied(written: tuple[Path, Path], tmp_path: Path) -> Path:
    """A home of one's own with the same checkpoints."""
    shutil.copytree(written[1], tmp_path / "home")
    return tmp_path / "home"


def _topmost(home_: Path, folder: Path, name: str) -> Path:
    """The checkpoint nearest to the result of a query: the one with the fewest bytes."""
    app_id = apps.app_id(folder)
    executions = {
        r["execution_id"]
        for r in home.records(home_, "executions", app_id)
        if r["description"] == name
    }
    found = [
        r
        for r in home.records(home_, "checkpoints", app_id)
        if r["event"] == "committed" and r["execution_id"] in executions
    ]
    smallest = min(found, key=lambda r: r["bytes"])
    name = Path(smallest["path"]).name
    return home_ / "checkpoints" / "data" / str(smallest["fingerprint"]) / name


def _data_file(checkpoint: Path) -> Path:
    return max(checkpoint.glob("*.pack"), key=lambda f: f.stat().st_size)


def _truncate(checkpoint: Path) -> None:
    file = _data_file(checkpoint)
    file.write_bytes(file.read_bytes()[:-1])


def _flip(checkpoint: Path) -> None:
    file = _data_file(checkpoint)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def _lose(checkpoint: Path) -> None:
    _data_file(checkpoint).unlink()


def _same(expected: Path, actual: Path, *names: str) -> None:
    for name in names:
        difference = compare_results(queries.output(expected, name), queries.output(actual, name))
        assert not difference, f"{name}: {difference}"


def test_damage_before_a_restore_is_computed_around(
    jvm: in_turn.Jvm, written: tuple[Path, Path], copied: Path, tmp_path: Path
) -> None:
    first, _ = written
    harm: dict[str, Callable[[Path], None]] = {"q1": _truncate, "q2": _flip, "q3": _lose}
    damaged = {name: _topmost(copied, first, name) for name in harm}
    for name, damage in harm.items():
        damage(damaged[name])
    again = _run(jvm, [_item(most) for most in (1, 2, 3, 4)], tmp_path / "app", copied)
    _same(first, tmp_path / "app", "q1", "q2", "q3", "q4")
    for name, checkpoint in damaged.items():
        assert store.in_catalog(checkpoint, "damaged").exists(), name
        # A file that is as long as it was is found out as it is read.
        what = "the restored checkpoint" if name == "q2" else "the checkpoint"
        said = [line for line in again.log.splitlines() if " WARN " in line and "phoebe: " in line]
        place = checkpoint.as_uri().replace("///", "/")
        assert sum(f"{what} {place}" in line for line in said) == 1, name
    assert _events(copied, tmp_path / "app", "damaged") == {"q2"}
    # The boundary below the damaged one was still whole, and was restored in its stead.
    assert _events(copied, tmp_path / "app", "restored") == {"q1", "q2", "q3", "q4"}


def test_damage_after_the_first_reader_is_computed(
    written: tuple[Path, Path], copied: Path, tmp_path: Path
) -> None:
    first, _ = written
    gate = tmp_path / "gate"
    items = [_item(4, pause_after=gate), _item(4, "again"), _item(4, "once more")]
    checkpoint = _topmost(copied, first, "q4")
    with _submit(items, tmp_path / "app", copied) as app:
        app.wait_for(gate.with_name("gate.reached"))
        _flip(checkpoint)
        gate.touch()
        app.wait().check()
    _same(first, tmp_path / "app", "q4")
    for name in ("again", "once more"):
        difference = compare_results(
            queries.output(first, "q4"), queries.output(tmp_path / "app", name)
        )
        assert not difference, f"{name}: {difference}"
    assert _events(copied, tmp_path / "app", "damaged") == {"again"}
    assert store.in_catalog(checkpoint, "damaged").exists()


def test_two_drivers_write_the_same_boundaries_at_once(
    jvm: in_turn.Jvm, written: tuple[Path, Path], tmp_path: Path
) -> None:
    home_ = tmp_path / "home"
    folders = [tmp_path / "one", tmp_path / "two"]
    running = [_submit([_item(2)], folder, home_) for folder in folders]
    for app in running:
        with app:
            app.wait().check()
    for folder in folders:
        _same(written[0], folder, "q2")
        assert _events(home_, folder, "committed") | _events(home_, folder, "restored") == {"q2"}
    for manifest in store.committed(home_ / "checkpoints"):
        for pack in store.read_manifest(manifest)["packs"]:
            assert (store.data_of(manifest) / pack["file"]).stat().st_size == pack["bytes"]
    _run(jvm, [_item(2)], tmp_path / "next", home_)
    _same(written[0], tmp_path / "next", "q2")
    assert _events(home_, tmp_path / "next", "restored") == {"q2"}


def test_an_input_that_changes_before_the_commit_costs_what_read_it(
    written: tuple[Path, Path], tmp_path: Path
) -> None:
    """The query's three boundaries: one table each, and both of them joined."""
    data = shutil.copytree(tpc.data("tpch", 0.01), tmp_path / "data")
    control, gate, place = tmp_path / "control", tmp_path / "gate", tmp_path / "store"
    conf = {
        "spark__phoebe__checkpoint__dir": f"faulty://{place}",
        "spark__hadoop__fs__faulty__impl": "phoebe.testing.FaultyFileSystem",
        "spark__hadoop__fs__faulty__control": str(control),
    }
    # A store that is one already: with no file that can be written none would be made.
    place.mkdir(mode=0o700)
    marker = next(p for folder in written for p in folder.rglob("phoebe-store.json"))
    shutil.copy(marker, place)
    control.write_text("write hang\n")
    items = [_item(3, data=data, pause_after=gate)]
    folder, home_ = tmp_path / "app", tmp_path / "home"
    with _submit(items, folder, home_, places.testing_jar(), **conf) as app:
        app.wait_for(gate.with_name("gate.reached"))
        assert store.attempts(place), "an upload is under way"
        assert not store.committed(place)
        file = data / "lineitem.parquet"
        status = file.stat()
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns + 5_000_000))
        control.unlink()
        log = folder / "driver.log"
        until(lambda: log.read_text().count("phoebe: checkpoint abandoned") == 2, "both abandoned")
        store.wait_for_commits(place, 1)
        gate.touch()
        app.wait().check()
    _same(written[0], folder, "q3")
    events = home.records(home_, "checkpoints", apps.app_id(folder))
    given_up = {r["fingerprint"]: r["reason_code"] for r in events if r["event"] == "abandoned"}
    assert list(given_up.values()) == ["input_changed"] * 2
    (left,) = store.committed(place)
    assert store.attempts(place) == [store.data_of(left)], "something is left of the others"
    orders = pq.read_metadata(data / "orders.parquet").num_rows
    assert store.read_manifest(left)["rows"] == orders


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for a few hundred kilobytes."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("needs the right to mount a tmpfs")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_store_costs_the_checkpoint_only(
    jvm: in_turn.Jvm, written: tuple[Path, Path], full_disk: Path, tmp_path: Path
) -> None:
    place = {"spark__phoebe__checkpoint__dir": str(full_disk / "checkpoints")}
    finished = _run(jvm, [_item(3)], tmp_path / "app", tmp_path / "home", **place)
    _same(written[0], tmp_path / "app", "q3")
    assert "No space left on device" in finished.log
    assert _events(tmp_path / "home", tmp_path / "app", "abandoned") == {"q3"}
    events = home.records(tmp_path / "home", "checkpoints", apps.app_id(tmp_path / "app"))
    assert {r["reason_code"] for r in events if r["event"] == "abandoned"} == {"copy_failed"}
    left = store.attempts(full_disk / "checkpoints")
    assert all(store.in_catalog(a, "manifest").exists() for a in left), "half an attempt is left"
