"""Who may restore a checkpoint, from where, and what the command line says of a store.

One application leaves checkpoints, as user ann; what follows reads them in its own way.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from phoebe_spark.checkpoints.catalogue import collect, look
from phoebe_spark.cli import app as phoebe
from phoebe_spark.errors import CheckpointStoreError
from tests.support import apps, home, in_turn, queries, store, stored_job, tpc
from tests.support.compare import compare_results


def _user(name: str) -> dict[str, str]:
    """The environment of an application of his: a JVM has one user."""
    return {"HADOOP_USER_NAME": name, "SPARK_USER": name}


@pytest.fixture(scope="module")
def ann(tmp_path_factory: pytest.TempPathFactory) -> Iterator[in_turn.Jvm]:
    folder = tmp_path_factory.mktemp("ann")
    with in_turn.Jvm(folder, environment=_user("ann")) as found:
        yield found


def _settings(home_: Path, conf: Mapping[str, str]) -> dict[str, str]:
    settings = {**stored_job.KEPT, "spark.phoebe.home": str(home_)}
    return settings | {key.replace("__", "."): value for key, value in conf.items()}


def _run(jvm: in_turn.Jvm, folder: Path, home_: Path, **conf: str) -> apps.FinishedApp:
    spec = queries.write_spec([stored_job.item()], folder)
    return jvm.run(folder, "tests.support.query_app", spec, _settings(home_, conf))


def _run_as(user: str, folder: Path, home_: Path, **conf: str) -> None:
    with queries.submit_queries(
        [stored_job.item()],
        folder=folder,
        conf=_settings(home_, conf),
        plugin="jars",
        environment=_user(user),
    ) as app:
        app.wait().check()


def _events(home_: Path, folder: Path) -> Mapping[str, int]:
    return home.checkpoint_events(home_, apps.app_id(folder))


def _reasons(home_: Path, folder: Path) -> set[str]:
    rows = home.records(home_, "boundaries", apps.app_id(folder))
    return {str(row["reason_code"]) for row in rows}


def _same(one: Path, other: Path) -> None:
    assert not compare_results(queries.output(one, "daily"), queries.output(other, "daily"))


def _phoebe(home_: Path, *arguments: str) -> tuple[int, list[dict[str, Any]]]:
    ran = CliRunner().invoke(
        phoebe, ["checkpoints", *arguments, "--home", str(home_), "--json"], catch_exceptions=False
    )
    return ran.exit_code, json.loads(ran.stdout)


@pytest.fixture(scope="module")
def written(ann: in_turn.Jvm, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folder and home of the application that wrote."""
    base = tmp_path_factory.mktemp("written")
    _run(ann, base / "app", base / "home")
    assert _events(base / "home", base / "app")["committed"] == 3
    return base / "app", base / "home"


@pytest.fixture
def copied(written: tuple[Path, Path], tmp_path: Path) -> Path:
    """A home of one's own with the same checkpoints."""
    shutil.copytree(written[1], tmp_path / "home")
    return tmp_path / "home"


def test_the_store_is_private_to_its_owner(written: tuple[Path, Path]) -> None:
    root = written[1] / "checkpoints"
    for folder in (root, root / "catalog", root / "data"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_names_in_a_store_are_hashes_and_numbers(written: tuple[Path, Path]) -> None:
    """Nothing there tells of tables, columns, applications or users: others may list it."""
    root = written[1] / "checkpoints"
    told = {str(path.relative_to(root)) for path in root.rglob("*")}
    names = re.compile(
        r"data(/[0-9a-f]{32,64}(/[0-9a-f]{32}(/m\d+-\d+\.pack)?)?)?|catalog"
        r"|catalog/([0-9a-f]{32,64}-[0-9a-f]{32}\.(manifest|damaged|reader-[0-9a-f]{16})"
        r"|[0-9a-f]{16}\.(lease|fenced)|collected)|phoebe-store\.json"
    )
    assert {name for name in told if not names.fullmatch(name)} == set()
    assert sum(name.endswith(".pack") for name in told) >= 3


def test_a_lake_with_a_data_directory_of_its_own_is_refused(
    ann: in_turn.Jvm, written: tuple[Path, Path], tmp_path: Path
) -> None:
    part = tmp_path / "lake" / "data" / "sales" / "year=2024" / "part-0.csv"
    part.parent.mkdir(parents=True)
    part.write_text("1,100\n")
    for path in (part, *part.parents[:4]):
        os.utime(path, (1, 1))
    home_ = tmp_path / "home"
    lake = {"spark__phoebe__checkpoint__dir": str(tmp_path / "lake")}
    finished = _run(ann, tmp_path / "app", home_, **lake)
    (line,) = [line for line in finished.log.splitlines() if "no checkpoints, the job" in line]
    assert "name a new or an empty directory" in line
    assert _reasons(home_, tmp_path / "app") == {"store_refused"}
    assert "phoebe: failed" not in finished.log
    _same(written[0], tmp_path / "app")
    for command in (look, collect):
        with pytest.raises(CheckpointStoreError, match="not a checkpoint store"):
            command(str(tmp_path / "lake"))
    left = [str(path.relative_to(tmp_path / "lake")) for path in (tmp_path / "lake").rglob("*")]
    assert sorted(left) == sorted(
        ["data", "data/sales", "data/sales/year=2024", "data/sales/year=2024/part-0.csv"]
    )


def test_another_users_checkpoint_is_restored_only_where_users_share(
    written: tuple[Path, Path], copied: Path, tmp_path: Path
) -> None:
    _run_as("bob", tmp_path / "bob", copied)
    assert "restored" not in _events(copied, tmp_path / "bob")
    assert "another user's (ann)" in (tmp_path / "bob" / "driver.log").read_text()
    _run_as("eve", tmp_path / "eve", copied, spark__phoebe__checkpoint__sharing="all")
    assert _events(copied, tmp_path / "eve")["restored"] == 1
    for folder in ("bob", "eve"):
        _same(written[0], tmp_path / folder)


def test_a_restore_needs_no_companion(
    ann: in_turn.Jvm, written: tuple[Path, Path], copied: Path, tmp_path: Path
) -> None:
    finished = _run(ann, tmp_path / "app", copied, spark__phoebe__python="/nonexistent/python")
    assert "no companion" in finished.log
    _same(written[0], tmp_path / "app")
    (row,) = [row for row in _phoebe(copied, "list")[1] if row["hits"]]
    assert row["hits"] == 1


def test_encrypted_applications_need_a_store_that_is_declared_encrypted(
    ann: in_turn.Jvm, written: tuple[Path, Path], tmp_path: Path
) -> None:
    home_ = tmp_path / "home"
    _run(ann, tmp_path / "refused", home_, spark__io__encryption__enabled="true")
    assert _reasons(home_, tmp_path / "refused") == {"io_encryption"}
    assert not store.attempts(home_ / "checkpoints")
    declared = {"spark__phoebe__checkpoint__encryption": "store"}
    _run(ann, tmp_path / "first", home_, spark__io__encryption__enabled="true", **declared)
    assert _events(home_, tmp_path / "first")["committed"] == 3
    # Without a key, which would be another one anyway: what the store holds is not encrypted by it.
    _run(ann, tmp_path / "second", home_)
    assert _events(home_, tmp_path / "second")["restored"] == 1
    for folder in ("refused", "first", "second"):
        _same(written[0], tmp_path / folder)


def test_a_driver_removes_what_nobody_has_used_for_a_week(copied: Path, tmp_path: Path) -> None:
    root = copied / "checkpoints"
    old, *fresh = store.committed(root)
    then = time.time() - 8 * 24 * 3600
    os.utime(old, (then, then))
    (root / "catalog" / "collected").unlink(missing_ok=True)  # its writer may have done so
    gate = tmp_path / "gate"
    other = queries.Item(
        "other",
        tpc.data("tpch", 0.01),
        sql="select n_regionkey, count(*) from nation group by n_regionkey",
        pause_after=gate,
    )
    conf = {**stored_job.KEPT, "spark.phoebe.home": str(copied), "spark.phoebe.force": "none"}
    with queries.submit_queries(
        [other], folder=tmp_path / "app", conf=conf, plugin="jars", environment=_user("ann")
    ) as app:
        app.wait_for(root / "catalog" / "collected")
        deadline = time.monotonic() + 120
        while store.data_of(old).exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        gate.touch()
        app.wait().check()
    assert store.committed(root) == fresh
    assert sorted(store.attempts(root)) == sorted(map(store.data_of, fresh))


def test_the_command_line_lists_verifies_and_collects(copied: Path) -> None:
    code, rows = _phoebe(copied, "list")
    assert code == 0
    assert len(rows) == 3
    for row in rows:
        assert (row["state"], row["user"], row["hits"], row["in_use"]) == (
            "committed",
            "ann",
            0,
            False,
        )
        assert row["work_ms"] > 0
        assert row["stored_bytes"] >= row["bytes"] > 0
    code, verified = _phoebe(copied, "verify")
    assert code == 0
    assert {row["state"] for row in verified} == {"committed"}
    harmed = store.committed(copied / "checkpoints")[0]
    pack = next(store.data_of(harmed).glob("*.pack"))
    content = bytearray(pack.read_bytes())
    content[len(content) // 2] ^= 1
    pack.write_bytes(content)
    assert _phoebe(copied, "list")[0] == 0  # lengths are right
    code, verified = _phoebe(copied, "verify")
    assert code == 1
    (damaged,) = [row for row in verified if row["state"] == "damaged"]
    assert pack.name in damaged["problem"]

    code, planned = _phoebe(copied, "gc", "--max-store-bytes", "1", "--dry-run")
    assert {row["reason_code"] for row in planned} == {"over_budget"}
    assert len(store.committed(copied / "checkpoints")) == 3
    code, collected = _phoebe(copied, "gc", "--max-age-hours", "1", "--max-store-bytes", "1")
    assert code == 0
    assert all(row["remove"] for row in collected)
    assert not store.attempts(copied / "checkpoints")
    assert [path.name for path in (copied / "checkpoints" / "catalog").iterdir()] == ["collected"]
