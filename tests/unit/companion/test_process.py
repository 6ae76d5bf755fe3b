"""The companion as a process: what the plugin starts, fed through a real pipe."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import orjson
import pytest

from phoebe_spark.tables.deltalake import Tables
from tests.support.waiting import until

ROOT = Path(__file__).resolve().parents[3]


class Running:
    def __init__(self, home: Path | str, mode: str = "observe", **settings: str) -> None:
        self.home = home
        self.process = subprocess.Popen(
            [sys.executable, "-m", "phoebe_spark.companion"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1"},
        )
        self.hello = {
            "type": "hello",
            "protocol": 1,
            "app_id": "app-1",
            "app_attempt": "",
            "app_name": "daily",
            "home": str(home),
            "mode": mode,
            "settings": {f"spark.phoebe.{k}": v for k, v in settings.items()},
            "time": 1_795_000_000_000,
        }

    def send(self, *messages: dict[str, Any] | bytes) -> None:
        assert self.process.stdin is not None
        for message in messages:
            line = message if isinstance(message, bytes) else orjson.dumps(message)
            self.process.stdin.write(line + b"\n")
        self.process.stdin.flush()

    def receive(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        message: dict[str, Any] = orjson.loads(self.process.stdout.readline())
        return message

    def receive_advice(self) -> dict[str, Any]:
        """The answer to a question, past whatever else is said before it."""
        message = self.receive()
        while message["type"] != "advice":
            message = self.receive()
        return message

    def finish(self) -> tuple[int, bytes, bytes]:
        out, err = self.process.communicate(timeout=15)
        return self.process.returncode, out, err

    def status(self) -> str:
        (row,) = Tables(self.home).read("applications").to_pylist()
        return str(row["status"])


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def test_a_store_that_only_hadoop_reaches_is_named_without_its_secrets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told = {"fs.s3a.access.key": "AK", "fs.s3a.secret.key": "s3cr3t"}
    told["fs.s3a.aws.credentials.provider"] = "org.acme.Vault"
    monkeypatch.setenv("PHOEBE_HADOOP_SETTINGS", orjson.dumps(told).decode())
    running = Running("s3a://bucket/home")
    running.send(running.hello)
    code, out, error = running.finish()
    assert (code, out) == (2, b""), "the plugin then spools"
    assert b"fs.s3a.aws.credentials.provider=Vault" in error
    assert b"s3cr3t" not in error


def test_ready_then_rows_then_finished(home: Path) -> None:
    running = Running(home)
    running.send(running.hello)
    ready = running.receive()
    assert (ready["type"], ready["protocol"]) == ("ready", 1)
    assert ready["pid"] == running.process.pid
    running.send({"type": "end", "time": 1})
    code, out, _ = running.finish()
    assert (code, out) == (0, b"")
    assert running.status() == "finished"


def test_end_of_file_marks_the_application_aborted(home: Path) -> None:
    running = Running(home)
    running.send(running.hello)
    running.receive()
    began = time.monotonic()
    assert running.finish()[0] == 0
    assert time.monotonic() - began < 10
    assert running.status() == "aborted"


def test_garbage_costs_completeness_and_nothing_else(home: Path) -> None:
    running = Running(home)
    running.send(running.hello, b"\xff\xfe not json", b"[1, 2]", b"", {"type": "from the future"})
    running.send({"type": "end", "time": 1})
    assert running.finish()[0] == 0
    (row,) = Tables(home).read("applications").to_pylist()
    assert row["status"] == "finished"
    assert not row["complete"]


def test_questions_are_answered_in_every_mode_without_models(home: Path) -> None:
    running = Running(home)
    running.send(running.hello)
    running.receive()
    plan = {"nodeName": "Range", "simpleString": "Range", "children": [], "metrics": []}
    running.send(
        {
            "type": "plan",
            "request_id": 7,
            "execution_id": 0,
            "slots": 2,
            "plan": plan,
            "boundaries": [{"node": 3, "partitions": 8}],
        }
    )
    boundary = {"node": 3, "fingerprint": "f", "eligible": True, "reason": None}
    running.send({"type": "advise", "request_id": 7, "boundaries": [boundary]})
    message = running.receive_advice()
    assert message["request_id"] == 7
    (decision,) = message["decisions"]
    assert (decision["node"], decision["checkpoint"]) == (3, False)
    running.finish()


def test_apply_without_a_bundle_is_said_once_and_answered_with_no_model(home: Path) -> None:
    running = Running(home, mode="apply")
    running.send(running.hello)
    assert running.receive()["type"] == "ready"
    told = running.receive()
    assert (told["type"], told["level"]) == ("log", "warning")
    assert "no query gets a checkpoint" in told["message"]
    again = running.receive()
    assert (again["type"], again["model_version"]) == ("ready", None)
    boundary = {"node": 0, "fingerprint": "f", "eligible": True, "reason": None}
    running.send({"type": "advise", "request_id": 1, "boundaries": [boundary]})
    advice = running.receive()
    assert advice["decisions"][0]["reason"]["code"] == "no_model"
    running.send({"type": "end", "time": 1})
    code, out, _ = running.finish()
    assert (code, out) == (0, b"")


@pytest.mark.parametrize(
    ("first", "complaint"),
    [
        (b"hello?", b"expected a hello"),
        (b'{"type":"hello","protocol":99,"app_id":"a","home":"/x"}', b"same version"),
        (b'{"type":"hello","protocol":1}', b"hello lacks app_id, home"),
    ],
)
def test_a_first_line_that_is_no_hello_is_refused_with_what_to_do(
    home: Path, first: bytes, complaint: bytes
) -> None:
    running = Running(home)
    running.send(first)
    code, out, err = running.finish()
    assert (code, out) == (2, b"")
    assert complaint in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_the_process_group_does_not_end_it_before_its_input(
    home: Path, number: signal.Signals
) -> None:
    running = Running(home)
    running.send(running.hello)
    running.receive()
    running.process.send_signal(number)
    running.send({"type": "advise", "request_id": 1, "boundaries": []})
    assert running.receive_advice()["request_id"] == 1
    running.send({"type": "end", "time": 1})
    assert running.finish()[0] == 0
    assert running.status() == "finished"


def test_what_a_library_prints_does_not_reach_the_pipe(home: Path, tmp_path: Path) -> None:
    begins, done = tmp_path / "begins", tmp_path / "done"
    noisy = tmp_path / "sitecustomize.py"
    noisy.write_text(
        "import os, threading, time\n"
        "def noise():\n"
        f"    while not os.path.exists({str(begins)!r}): time.sleep(0.01)\n"
        "    print('from python', flush=True); os.write(1, b'from native code\\n')\n"
        f"    open({str(done)!r}, 'w').close()\n"
        "threading.Thread(target=noise, daemon=True).start()\n"
    )
    running = Running(home)
    running.finish()
    running.process = subprocess.Popen(
        [sys.executable, "-m", "phoebe_spark.companion"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
    )
    running.send(running.hello)
    running.receive()
    begins.touch()
    until(done.exists, "it has printed")
    running.send({"type": "end", "time": 1})
    code, out, err = running.finish()
    assert (code, out) == (0, b"")
    assert b"from python" in err
    assert b"from native code" in err
