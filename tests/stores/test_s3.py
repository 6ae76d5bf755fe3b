"""Checkpoints on a real S3-compatible server over s3a, where nothing can be renamed in one step."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from phoebe_spark.checkpoints import look
from tests.support import apps, home, places, queries, stored_job
from tests.support.compare import compare_results

JARS = places.BUILD / "stores-s3"
GATEWAY = JARS / "versitygw"
BUCKET = "bucket"


@pytest.fixture(scope="module")
def conf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A server over a directory; the Spark settings that reach it."""
    if not GATEWAY.exists():
        pytest.skip("no S3 server is there: make test-stores")
    folder = tmp_path_factory.mktemp("s3")
    (folder / BUCKET).mkdir()
    port = places.free_port()
    options = ["--port", f"127.0.0.1:{port}", "--access", "ann", "--secret", "secret-of-ann"]
    with (folder / "server.log").open("wb") as log:
        server = subprocess.Popen(
            [str(GATEWAY), *options, "posix", str(folder)], stdout=log, stderr=log
        )
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert time.monotonic() < deadline, (folder / "server.log").read_text()
                time.sleep(0.1)
        yield {
            "spark.hadoop.fs.s3a.endpoint": f"http://127.0.0.1:{port}",
            "spark.hadoop.fs.s3a.endpoint.region": "us-east-1",
            "spark.hadoop.fs.s3a.path.style.access": "true",
            "spark.hadoop.fs.s3a.access.key": "ann",
            "spark.hadoop.fs.s3a.secret.key": "secret-of-ann",
        }
    finally:
        server.kill()
        server.wait()


def test_a_killed_job_resumes_from_s3(
    conf: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = f"s3a://{BUCKET}/phoebe"
    home_ = tmp_path / "home"
    gate = tmp_path / "gate"
    jars = sorted(JARS.glob("*.jar"))
    # The command line takes the settings from where jobs do.
    defaults = {**conf, "spark.jars": ",".join(map(str, jars))}
    (tmp_path / "spark-defaults.conf").write_text(
        "".join(f"{key} {value}\n" for key, value in defaults.items())
    )
    monkeypatch.setenv("SPARK_CONF_DIR", str(tmp_path))
    with stored_job.submit(tmp_path / "first", home_, store, gate, conf, jars) as app:
        app.wait_for(gate.with_name("gate.reached"))
        deadline = time.monotonic() + 120
        while [c.state for c in look("list", store)].count("committed") < 3:
            assert time.monotonic() < deadline, "three checkpoints are committed"
        app.kill_driver()
    gate.touch()
    with stored_job.submit(tmp_path / "second", home_, store, gate, conf, jars) as app:
        finished = app.wait().check()
    outputs = [queries.output(tmp_path / folder, "daily") for folder in ("first", "second")]
    assert not compare_results(*outputs)
    assert home.checkpoint_events(home_, apps.app_id(finished.folder))["restored"] == 1
    assert {checkpoint.state for checkpoint in look("verify", store)} == {"committed"}
    assert all(checkpoint.remove for checkpoint in look("gc", store, [None, 0]))
    assert look("list", store) == []
