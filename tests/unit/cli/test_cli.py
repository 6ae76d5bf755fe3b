"""The command line: what it prints, as table and as JSON, and its exit codes."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import phoebe_spark
from phoebe_spark import doctor, jar
from phoebe_spark.checkpoints import catalogue as checkpoints
from phoebe_spark.cli import app, main
from phoebe_spark.cli import train as cli_train
from phoebe_spark.tables.deltalake import Tables
from phoebe_spark.tables.records import (
    ApplicationRecord,
    BoundaryRecord,
    CheckpointRecord,
    StageRecord,
)

ROOT = Path(__file__).resolve().parents[3]
AT = datetime(2024, 11, 20, 12, tzinfo=UTC)
ID: dict[str, Any] = {
    "date": date(2024, 11, 20),
    "app_id": "app-1",
    "app_attempt": "",
    "source": "live",
    "written_at": AT,
}


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def run_json(*arguments: str) -> Any:
    code, output = run(*arguments, "--json")
    assert code == 0, output
    return json.loads(output)


@pytest.fixture
def home(tmp_path: Path) -> str:
    """A home with one application, two boundaries, and a checkpoint of the first."""
    boundary = {
        "execution_id": 0,
        "decision": "skip",
        "reason_code": "not_worth_its_write",
        "reason_args": '{"bytes": 5}',
        "reason_message": "writing costs more than it frees",
    }
    Tables(tmp_path).append(
        [
            ApplicationRecord(
                **ID, app_name="daily", started_at=AT, lease_until=AT + timedelta(minutes=1)
            ),
            BoundaryRecord(**ID, **{**boundary, "boundary_id": "e10"}),
            BoundaryRecord(
                **ID,
                **{**boundary, "decision": "checkpoint", "reason_code": "chosen"},
                boundary_id="e2",
                stage_id=4,
                fingerprint="f1",
                predicted_output_bytes=2048.0,
            ),
            StageRecord(
                **ID,
                stage_id=4,
                stage_attempt=0,
                status="succeeded",
                shuffle_write_bytes=3072,
            ),
            CheckpointRecord(**ID, execution_id=0, fingerprint="f1", event="committed", at=AT),
            CheckpointRecord(
                **ID, execution_id=0, fingerprint="f1", event="freed", at=AT + timedelta(seconds=1)
            ),
        ]
    )
    return str(tmp_path)


def test_help_everywhere() -> None:
    commands = ([], ["jar"], ["doctor"], ["ingest"], ["train"], ["explain"], ["checkpoints"])
    for command in (*commands, ["checkpoints", "list"]):
        code, output = run(*command, "--help")
        assert code == 0
        assert "Usage" in output


def test_version() -> None:
    assert run("--version") == (0, phoebe_spark.__version__ + "\n")


def test_wrong_usage_is_2() -> None:
    assert run("no-such-command")[0] == 2
    assert run("ingest", "x", "--since", "yesterday")[0] == 2


def test_jar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jar, "JARS", tmp_path)
    with pytest.raises(phoebe_spark.MissingJarError):
        run("jar")
    (tmp_path / "phoebe-spark_2.13-0.1.0.jar").touch()
    assert run("jar") == (0, f"{tmp_path}/phoebe-spark_2.13-0.1.0.jar\n")


def test_explain_says_what_was_decided_why_and_what_became_of_it(home: str) -> None:
    rows = run_json("explain", "app-1", "--home", home)
    assert [row["boundary_id"] for row in rows] == ["e2", "e10"]
    assert rows[0]["decision"] == "checkpoint"
    assert rows[0]["output_bytes"] == 3072
    assert rows[0]["checkpoint_events"] == ["committed", "freed"]
    assert rows[1]["reason_args"] == {"bytes": 5}
    code, output = run("explain", "app-1", "--home", home)
    assert code == 0
    assert "writing costs more than it frees [not_worth_its_write]" in output
    assert "2.0 KiB" in output
    assert "3.0 KiB" in output


def test_explain_keeps_the_attempts_of_an_application_apart(home: str) -> None:
    second = ID | {"app_attempt": "2"}
    Tables(home).append(
        [
            BoundaryRecord(
                **second, execution_id=0, boundary_id="e2", stage_id=4, fingerprint="f1"
            ),
            StageRecord(
                **second, stage_id=4, stage_attempt=0, status="succeeded", shuffle_write_bytes=7
            ),
            CheckpointRecord(**second, execution_id=0, fingerprint="f1", event="restored", at=AT),
        ]
    )
    rows = run_json("explain", "app-1", "--home", home)
    assert [
        (r["app_attempt"], r["boundary_id"], r["output_bytes"], r["checkpoint_events"])
        for r in rows
    ] == [
        ("", "e2", 3072, ["committed", "freed"]),
        ("", "e10", None, []),
        ("2", "e2", 7, ["restored"]),
    ]
    assert "attempt" in run("explain", "app-1", "--home", home)[1]


def test_explain_of_one_execution(home: str) -> None:
    assert len(run_json("explain", "app-1", "-e", "0", "--home", home)) == 2
    assert run("explain", "app-1", "-e", "7", "--home", home)[0] == 1


def test_explain_of_an_unknown_application_is_1(home: str) -> None:
    code, output = run("explain", "app-9", "--home", home)
    assert code == 1
    assert "app-9 is not in the tables" in output.replace("\n", " ")


def test_explain_lists_applications_and_an_expired_lease_is_aborted(home: str) -> None:
    (row,) = run_json("explain", "--home", home)
    assert (row["app_id"], row["status"]) == ("app-1", "aborted")


def test_explain_in_an_empty_home(tmp_path: Path) -> None:
    assert run_json("explain", "--home", str(tmp_path / "none")) == []


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, ...]]:
    """A store of two checkpoints, as the JVM side tells of it; returns what was asked."""
    asked: list[tuple[object, ...]] = []
    whole = {
        **{"path": "/s/data/f1/u1", "fingerprint": "f1", "attempt": "u1", "state": "committed"},
        **{"stored_bytes": 1536, "written_at_ms": 1, "last_used_at_ms": 2, "hits": 3},
        **{"in_use": False, "work_ms": 90_000, "user": "ann", "problem": None, "remove": True},
        **{"reason": "not used for long"},
    }
    half = {
        key: whole[key] for key in ("path", "stored_bytes", "last_used_at_ms", "hits", "in_use")
    } | {"fingerprint": "f2", "attempt": "u2", "state": "damaged", "written_at_ms": 5}

    def answer(action: str) -> Callable[..., list[checkpoints.Checkpoint]]:
        def answered(store: str, **how: object) -> list[checkpoints.Checkpoint]:
            asked.append((action, store, how))
            return [checkpoints.from_json(row) for row in (half, whole)]

        return answered

    for action in ("look", "collect"):
        monkeypatch.setattr(f"phoebe_spark.cli.checkpoints.{action}", answer(action))
    return asked


def test_checkpoints_list_and_show(store: list[tuple[object, ...]], tmp_path: Path) -> None:
    rows = run_json("checkpoints", "list", "--home", str(tmp_path))
    assert [(row["fingerprint"], row["saved_s"]) for row in rows] == [("f2", None), ("f1", 270.0)]
    code, output = run("checkpoints", "list", "--checkpoint-dir", "s3a://bucket/x")
    assert code == 0
    for word in ("1.5 KiB", "ann", "4 min", "s3a://bucket/x"):
        assert word in output
    (row,) = run_json("checkpoints", "show", "f1", "--home", str(tmp_path))
    assert row["work_ms"] == 90_000
    assert run("checkpoints", "show", "zz", "--home", str(tmp_path))[0] == 1
    assert store[0] == ("look", str(tmp_path / "checkpoints"), {})
    assert store[1] == ("look", "s3a://bucket/x", {})


def test_checkpoints_verify_says_whether_one_is_damaged(
    store: list[tuple[object, ...]], tmp_path: Path
) -> None:
    assert run("checkpoints", "verify", "--home", str(tmp_path))[0] == 1
    assert [(q[0], q[2]) for q in store] == [("look", {"verify": True})]


def test_checkpoints_gc_says_what_went_and_why(
    store: list[tuple[object, ...]], tmp_path: Path
) -> None:
    home = ("--home", str(tmp_path))
    code, output = run("checkpoints", "gc", *home, "--max-age-hours", "5", "--dry-run")
    assert code == 0
    assert "not used for long" in output
    assert "1 of 2 would be removed, 1.5 KiB" in output
    run("checkpoints", "gc", *home, "--max-store-bytes", "7")
    assert [(q[0], q[2]) for q in store] == [
        ("collect", {"max_age_hours": 5, "max_store_bytes": None, "dry_run": True}),
        ("collect", {"max_age_hours": None, "max_store_bytes": 7, "dry_run": False}),
    ]


def test_doctor_exit_code_says_whether_something_is_in_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(doctor, "check_jar", lambda: doctor.Check("jar", "ok", "there"))
    checks = {c["name"]: c for c in run_json("doctor", "--home", str(tmp_path / "home"))}
    assert set(checks) == {
        "java", "spark", "delta", "jar", "home", "permissions", "sink", "writer", "companion",
        "bundle",
    }  # fmt: skip
    assert checks["companion"]["status"] == "ok"
    assert checks["bundle"]["status"] == "warning"
    file = tmp_path / "file"
    file.touch()
    code, output = run("doctor", "--home", str(file / "home"), "--python", "/no/such/python")
    assert code == 1
    assert "spark.phoebe.home" in output
    assert "spark.phoebe.python" in output


def test_doctor_lists_the_settings() -> None:
    rows = run_json("doctor", "--settings")
    assert "spark.phoebe.mode" in {row["key"] for row in rows}


@pytest.mark.parametrize(
    ("core", "status"),
    [
        ("spark-core_2.13-4.2.0.jar", "ok"),
        ("spark-core_2.13-4.2.7.jar", "ok"),
        ("spark-core_2.13-4.2.0-amzn-1.jar", "warning"),
        ("spark-core_2.13-4.1.0.jar", "warning"),
        ("spark-core_2.12-3.5.4.jar", "error"),
    ],
)
def test_doctor_knows_the_build_by_its_jars(tmp_path: Path, core: str, status: str) -> None:
    (tmp_path / "jars").mkdir()
    (tmp_path / "jars" / core).touch()
    assert doctor.check_spark(tmp_path).status == status


def test_train_without_runs_says_so(tmp_path: Path) -> None:
    assert run("train", "--home", str(tmp_path))[0] == 1


def test_ingest_counts_and_a_file_that_is_no_log_is_1(tmp_path: Path) -> None:
    log = tmp_path / "log"
    events = [
        {"Event": "SparkListenerLogStart", "Spark Version": "4.2.0"},
        {
            "Event": "SparkListenerApplicationStart",
            "App Name": "daily",
            "App ID": "app-7",
            "Timestamp": 1_700_000_000_000,
            "User": "ann",
        },
        {"Event": "SparkListenerApplicationEnd", "Timestamp": 1_700_000_001_000},
    ]
    log.write_text("".join(json.dumps(event) + "\n" for event in events))
    home = str(tmp_path / "home")
    assert run_json("ingest", str(log), "--home", home)["applications"] == 1
    assert run_json("ingest", str(log), "--home", home)["skipped"] == 1
    assert run_json("explain", "--home", home)[0]["status"] == "finished"
    torn = tmp_path / "torn.zstd"
    torn.write_bytes(b"not zstd at all")
    code, output = run("ingest", str(torn), "--home", home)
    assert code == 1
    assert "torn.zstd" in output


def test_train_says_what_is_missing_before_it_trains(
    home: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli_train, "find_spec", lambda name: None if name == "mlflow" else name)
    code, output = run("train", "--home", home)
    assert (code, "training needs mlflow" in output, "[train]" in output) == (3, True, True)


def test_train_refuses_a_home_elsewhere() -> None:
    with pytest.raises(ValueError, match="s3://bucket/phoebe is not a local directory"):
        run("train", "--home", "s3://bucket/phoebe")


def test_foreseen_errors_are_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from deltalake.exceptions import DeltaError
    from mlflow.exceptions import MlflowException

    for error in (
        DeltaError("no log\nfiles"),
        MlflowException("no server"),
        OSError("disk full"),
        sqlite3.OperationalError("locked"),
    ):

        def fail(error: Exception = error) -> None:
            raise error

        monkeypatch.setattr("phoebe_spark.cli.app", fail)
        with pytest.raises(SystemExit, match="3"):
            main()
        assert capsys.readouterr().err.splitlines() == [f"error: {' '.join(str(error).split())}"]
    monkeypatch.setattr("phoebe_spark.cli.app", lambda: [][1])
    with pytest.raises(IndexError):
        main()


@pytest.mark.parametrize(
    ("home", "status", "says"),
    [
        ("/var/lib/phoebe", "ok", "local disk"),
        ("s3a://bucket/phoebe", "ok", "environment"),
        ("hdfs://nn/phoebe", "warning", "hdfs://"),
    ],
)
def test_doctor_says_which_way_events_take(home: str, status: str, says: str) -> None:
    check = doctor.check_sink(home, {})
    assert (check.name, check.status) == ("sink", status)
    assert says in check.found
    assert ("spool" in str(check.to_do)) == ("://" in home)


def test_tables_are_compacted_and_vacuumed(home: str) -> None:
    for n in range(3):
        Tables(home).append([StageRecord(**ID, stage_id=100 + n, stage_attempt=0)])
    before = Tables(home).read("stages").num_rows
    done = {row["table"]: row for row in run_json("tables", "optimize", "--home", home)}
    assert done["stages"]["files_removed"] >= 3
    assert done["stages"]["files_added"] == 1
    kept = run_json("tables", "vacuum", "--home", home)
    assert {row["table"]: row["files"] for row in kept}["stages"] == 0
    arguments = ("tables", "vacuum", "--home", home, "--retention-hours", "0")
    gone = {row["table"]: row["files"] for row in run_json(*arguments)}
    assert gone["stages"] == done["stages"]["files_removed"]
    assert Tables(home).read("stages").num_rows == before
