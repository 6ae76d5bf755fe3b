"""The plugin as users switch it on, through ``spark.plugins``: what it stores, and bad input.

In every case the job's result is right, and the driver's log has one line that says what happened.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson
import psutil
import pytest

from phoebe_spark.tables.deltalake import Tables
from tests.support import in_turn, s3
from tests.support.apps import RunningApp, submit
from tests.support.waiting import until

APP = Path(__file__).with_name("app.py")
RESULT = "RESULT 499500"


class Job:
    """The application with the plugin, a home of its own, and ``conf``."""

    def __init__(self, folder: Path, jvm: in_turn.Jvm) -> None:
        self.folder = folder
        self.home = folder / "home"
        self._jvm = jvm

    def _conf(self, conf: Mapping[str, str]) -> dict[str, str]:
        return {
            key if key.startswith("spark.") else f"spark.phoebe.{key}": value
            for key, value in {"home": str(self.home), **conf}.items()
        }

    def start(self, *arguments: str, shipping: Any = "jars", **conf: str) -> RunningApp:
        """Submits it: what kills a process, or is about how the plugin comes there."""
        return submit(
            APP,
            arguments,
            folder=self.folder / "app",
            conf=self._conf(conf),
            plugin=shipping,
            with_event_log=False,
        )

    def run(self, *arguments: str, **conf: str) -> str:
        """Runs it in the process of other ones; returns its part of the log."""
        argument = self.folder / "arguments"
        argument.write_text("\n".join(arguments))
        before = len(self._log)
        self._jvm.run(
            self.folder / "app", "tests.spark.plugin.app", argument, self._conf(conf), timeout_s=120
        )
        log = self._log[before:]
        assert RESULT in log
        return log

    @property
    def _log(self) -> str:
        return (self._jvm.folder / "driver.log").read_text(errors="replace")

    def rows(self, table: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = Tables(self.home).read(table).to_pylist()
        return found

    @property
    def spooled(self) -> list[dict[str, Any]]:
        (file,) = (self.home / "spool").glob("[!.]*")  # Hadoop's checksums are hidden
        return [orjson.loads(line) for line in file.read_bytes().splitlines()]


@pytest.fixture(scope="module")
def jvm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[in_turn.Jvm]:
    with in_turn.Jvm(tmp_path_factory.mktemp("jvm"), with_event_log=False) as found:
        yield found


@pytest.fixture
def job(tmp_path: Path, jvm: in_turn.Jvm) -> Job:
    return Job(tmp_path, jvm)


def ingest(paths: list[Path], home: Path) -> Any:
    from phoebe_spark.ingest.run import ingest as run

    return run(paths, home)


def said(log: str) -> list[str]:
    """Warnings and errors of ours in a driver's log."""
    return re.findall(r"\d \S+ (?:WARN|ERROR) \w+: (phoebe: .*)$", log, re.MULTILINE)


def seconds_to_stop(log: str) -> float:
    """How long the driver took from the application's end to its own."""
    marks = ("SparkContext is stopping", "Successfully stopped SparkContext")
    ends = [
        datetime.strptime(found.group(1), "%y/%m/%d %H:%M:%S")
        for mark in marks
        if (found := re.search(rf"(../../.. \S+) INFO SparkContext: {mark}", log))
    ]
    return (ends[1] - ends[0]).total_seconds()


def script(folder: Path, text: str) -> str:
    """An executable that stands in for Python."""
    path = folder / "fake-python"
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(0o755)
    return str(path)


def test_a_run_lands_in_the_tables(job: Job) -> None:
    log = job.run(
        "--off",
        **{"spark.sql.extensions": "com.acme.Missing", "spark.phoebe.hme": "/misspelt"},
    )
    assert said(log) == [
        "phoebe: spark.phoebe.hme is not a setting and has no effect, see docs/settings.md"
    ]
    assert "EXTENSIONS com.acme.Missing,phoebe.PhoebeExtensions" in log
    (application,) = job.rows("applications")
    assert application["app_name"] == "plugin-test"
    assert (application["status"], application["complete"]) == ("finished", True)
    assert application["plugin_version"] == "0.1.0"
    # The second query ran in mode off: it is not there.
    (execution,) = job.rows("executions")
    assert (execution["status"], execution["complete"]) == ("succeeded", True)
    boundaries = job.rows("boundaries")
    assert sorted(row["boundary_id"] for row in boundaries) == ["e0", "e1"]
    ran = {row["boundary_id"]: row for row in job.rows("stages") if row["boundary_id"]}
    assert set(ran) == {"e0", "e1"}
    assert ran["e1"]["task_count"] == 2
    assert ran["e1"]["shuffle_write_rows"] == 20  # ten groups in each of two tasks
    assert not (job.home / "spool").exists()


def test_shipped_on_the_class_path_it_does_the_same(job: Job) -> None:
    with job.start(shipping="classpath") as app:
        log = app.wait(120).check().log
    assert RESULT in log
    assert said(log) == []
    assert [row["status"] for row in job.rows("applications")] == ["finished"]


def test_mode_off_starts_nothing(job: Job) -> None:
    log = job.run(mode="off")
    assert said(log) == []
    assert not job.home.exists()


def test_a_bad_setting_turns_the_plugin_off_with_one_line(job: Job) -> None:
    log = job.run(max_cuts="lots")
    assert said(log) == [
        "phoebe: turned off, the job runs without it: "
        "spark.phoebe.max_cuts='lots': accepts a whole number from 1 to 16"
    ]
    assert "phoebe.PhoebeExtensions" not in log
    assert not job.home.exists()


def test_a_home_that_cannot_be_written(job: Job) -> None:
    job.home.touch()
    (line,) = said(job.run(home=str(job.home / "below a file")))
    assert line.startswith("phoebe: harvesting is off, spark.phoebe.home=")
    assert "name a directory that can" in line


def test_without_python_events_are_spooled_and_can_be_ingested(job: Job) -> None:
    (line,) = said(job.run(python="/no/such/python"))
    assert "/no/such/python cannot be started" in line
    assert f"phoebe ingest {job.home}/spool/" in line
    summary = ingest([job.home / "spool"], job.home)
    assert (summary.applications, summary.executions, summary.errors) == (1, 1, ())
    (application,) = job.rows("applications")
    assert (application["status"], application["complete"]) == ("finished", True)
    assert application["source"] == "spool"


def test_a_spool_as_the_sink_needs_no_companion(job: Job) -> None:
    (line,) = said(job.run(**{"harvest.sink": "spool", "python": script(job.folder, "touch ran")}))
    assert "spark.phoebe.harvest.sink=spool; events go to" in line
    assert not list(job.folder.rglob("ran")), "no companion was started"
    summary = ingest([job.home / "spool"], job.home)
    assert (summary.applications, summary.executions, summary.errors) == (1, 1, ())
    (application,) = job.rows("applications")
    assert (application["status"], application["complete"]) == ("finished", True)


def test_a_home_that_only_hadoop_reaches_is_spooled_to(job: Job) -> None:
    mount = "spark.hadoop.fs.viewfs.mounttable.store.link./there"
    job.home.mkdir()
    log = job.run(home="viewfs://store/there", **{mount: job.home.as_uri()})
    (line,) = said(log)
    assert "the deltalake package does not know viewfs://; events go to viewfs://store" in line
    assert job.spooled[-1]["type"] == "end"


def test_a_home_on_s3_by_the_drivers_hadoop_settings(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    with s3.running() as store:
        told = {
            "fs.s3a.access.key": "AK",
            "fs.s3a.secret.key": "s3cr3t",
            "fs.s3a.endpoint": f"http://{store.endpoint}",
            "fs.s3a.path.style.access": "true",
        }
        hadoop = {f"spark.hadoop.{key}": value for key, value in told.items()}
        checkpoints = {"checkpoint.dir": str(job.folder / "checkpoints")}
        log = job.run(home="s3a://bucket/home", **checkpoints, **hadoop)
        assert said(log) == []
        assert "s3cr3t" not in log
        monkeypatch.setenv("PHOEBE_HADOOP_SETTINGS", orjson.dumps(told).decode())
        (row,) = Tables("s3a://bucket/home").read("applications").to_pylist()
    assert (row["status"], row["complete"], row["source"]) == ("finished", True, "live")


@pytest.mark.parametrize(
    ("fake", "complaint"),
    [
        ("echo 'No module named phoebe_spark' >&2; exit 1", "exit code 1: No module named"),
        ("echo Python 2.7; exec cat >/dev/null", "something else than the protocol: Python 2.7"),
        ("exec sleep 1000", "it did not "),
        (
            'echo \'{"type":"ready","protocol":9}\'; exec cat >/dev/null',
            "jar and Python package are of different versions",
        ),
    ],
    ids=["package-missing", "garbage", "hanging", "other-version"],
)
def test_a_companion_that_is_none(job: Job, fake: str, complaint: str) -> None:
    log = job.run(python=script(job.folder, fake))
    (line,) = said(log)
    assert complaint in line
    assert 0 <= seconds_to_stop(log) < 20
    first, *_, last = job.spooled
    assert (first["type"], first["continued"], last["type"]) == ("hello", False, "end")
    ingest([job.home / "spool"], job.home)
    (application,) = job.rows("applications")
    assert (application["status"], application["complete"]) == ("finished", True)


def test_a_companion_killed_in_mid_run(job: Job) -> None:
    go_on = job.folder / "go on"
    with job.start("--hold", str(go_on), **{"harvest.flush_interval_ms": "200"}) as app:
        until(lambda: "HOLDING" in log_of(app), "it runs", 90)
        until(lambda: Tables(job.home).read("executions").num_rows, "a row is written", 20)
        (companion,) = companions(app)
        companion.kill()
        until(lambda: "no companion" in log_of(app), "it is said", 20)
        go_on.touch()
        finished = app.wait(60).check()
    (line,) = said(finished.log)
    assert "it ended with exit code" in line
    assert RESULT in finished.log
    assert "RESULT 1498500" in finished.log
    assert job.spooled[0]["continued"]
    stored = {row["execution_id"] for row in job.rows("executions")}
    assert stored == {0}
    ingest([job.home / "spool"], job.home)
    (application,) = job.rows("applications")
    assert (application["status"], application["complete"]) == ("finished", False)
    assert {row["execution_id"] for row in job.rows("executions")} == {0, 1}


def test_a_driver_killed_in_mid_run_is_aborted_within_ten_seconds(job: Job) -> None:
    with job.start("--hold", str(job.folder / "never")) as app:
        until(lambda: "HOLDING" in log_of(app), "it runs", 90)
        (companion,) = companions(app)
        app.kill_driver()
        began = time.monotonic()
        companion.wait(15)
        assert time.monotonic() - began < 10
    (application,) = job.rows("applications")
    assert (application["status"], application["complete"]) == ("aborted", False)


def log_of(app: RunningApp) -> str:
    return (app.folder / "driver.log").read_text(errors="replace")


def companions(app: RunningApp) -> list[psutil.Process]:
    found = []
    for process in psutil.Process(app.pid).children(recursive=True):
        with contextlib.suppress(psutil.ZombieProcess):
            if "phoebe_spark.companion" in " ".join(process.cmdline()):
                found.append(process)
    return found
