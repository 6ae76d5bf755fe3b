"""One kind of writer for a home on S3, over requests to an S3 of ours."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path

import orjson
import pytest

from phoebe_spark import doctor
from phoebe_spark.errors import ForeignTableError, OtherWriterError
from phoebe_spark.tables.deltalake import Tables
from phoebe_spark.tables.ownership import _first_commit, claim, kind_of
from phoebe_spark.tables.records import ApplicationRecord
from tests.support import s3

HOME = "s3a://bucket/home"
MARKER = "/bucket/home/writer/_delta_log/00000000000000000000.json"
ROW = ApplicationRecord(
    date=date(2026, 1, 2), app_id="a", app_attempt="", source="live",
    written_at=datetime(2026, 1, 2, tzinfo=UTC),
)  # fmt: skip


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[s3.Running]:
    with s3.running() as found:
        told = {
            "fs.s3a.access.key": "AK",
            "fs.s3a.secret.key": "s3cr3t",
            "fs.s3a.session.token": "token",
            "fs.s3a.endpoint": found.endpoint,
            "fs.s3a.connection.ssl.enabled": "false",
            "fs.s3a.path.style.access": "true",
        }
        monkeypatch.setenv("PHOEBE_HADOOP_SETTINGS", orjson.dumps(told).decode())
        yield found


def test_tables_on_s3_by_hadoops_settings(store: s3.Running) -> None:
    Tables(HOME).append([ROW])
    Tables(HOME).append([ROW])
    assert Tables(HOME).read("applications", latest=False).num_rows == 2
    state = store.state()
    commits = {key for key in state["objects"] if "/_delta_log/" in key and key.endswith(".json")}
    assert MARKER in commits
    assert len(commits) >= 3
    assert commits <= set(state["conditional"]), "no commit may take another's place"
    assert all("Credential=AK/" in headers["authorization"] for headers in state["headers"])
    assert all(headers["x-amz-security-token"] == "token" for headers in state["headers"])
    check = doctor.check_writer(HOME)
    assert (check.status, check.found) == ("ok", "deltalake alone")


def test_another_kind_is_refused_and_told_what_to_do(store: s3.Running) -> None:
    assert doctor.check_writer(HOME).found.startswith("none yet")
    store.put(MARKER, _first_commit())  # as delta-spark leaves it
    with pytest.raises(OtherWriterError, match=r"--writer delta-spark.*sink=spool.*delete s3a://"):
        Tables(HOME).append([ROW])
    assert store.state()["objects"] == [MARKER], "nothing was written"
    check = doctor.check_writer(HOME)
    assert (check.status, "delta-spark" in check.found) == ("warning", True)


def test_a_table_that_we_did_not_make_is_no_marker(store: s3.Running) -> None:
    store.put(MARKER, _first_commit().replace(b"phoebe_spark writer: delta-spark", b"authors"))
    with pytest.raises(ForeignTableError, match="writer is a table that phoebe_spark has not made"):
        Tables(HOME).append([ROW])
    assert store.state()["objects"] == [MARKER], "nothing was written"
    assert doctor.check_writer(HOME).status == "error"


def test_the_first_of_many_has_it(tmp_path: Path) -> None:
    home = str(tmp_path)
    errors: list[Exception] = []

    def one() -> None:
        try:
            claim(home)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=one) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (kind_of(home), errors) == ("deltalake", [])


def test_a_local_home_needs_none(tmp_path: Path) -> None:
    Tables(tmp_path).append([ROW])
    assert not (tmp_path / "writer").exists()
    assert doctor.check_writer(str(tmp_path)).status == "skipped"
