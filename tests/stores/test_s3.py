"""Checkpoints on a real S3-compatible server over s3a, where nothing can be renamed in one step.

Executors are processes of their own (a standalone cluster), and get the credentials as Spark's
settings, as the driver does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from phoebe_spark.checkpoints.catalogue import collect, look
from tests.support import (
    apps,
    eventlog,
    halves,
    home,
    paused_driver,
    queries,
    stored_job,
    tpc,
    versity,
)
from tests.support.cluster import Cluster, standalone
from tests.support.compare import compare_results
from tests.support.store import committed, read_manifest, wait_for_commits


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[versity.Server]:
    if not versity.GATEWAY.exists():
        pytest.fail("no S3 server is there: make test-stores")
    with versity.running(tmp_path_factory.mktemp("s3")) as found:
        yield found


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with standalone(tmp_path_factory.mktemp("cluster")) as found:
        yield found


@pytest.fixture
def jars(server: versity.Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """S3a's jars; the command line takes them, and the settings, from where jobs do."""
    found = sorted(versity.JARS.glob("*.jar"))
    defaults = {**server.conf(), "spark.jars": ",".join(map(str, found))}
    (tmp_path / "spark-defaults.conf").write_text(
        "".join(f"{key} {value}\n" for key, value in defaults.items())
    )
    monkeypatch.setenv("SPARK_CONF_DIR", str(tmp_path))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    return found


def _rows(folder: Path) -> Path:
    return queries.output(folder, "daily")


def _writers(folder: Path) -> set[str]:
    """The executors that ran tasks."""
    return {
        event["Task Info"]["Executor ID"]
        for event in eventlog.events(apps.event_log(folder))
        if event["Event"] == "SparkListenerTaskEnd"
    }


def test_a_killed_job_resumes_from_s3(
    server: versity.Server, cluster: Cluster, jars: list[Path], tmp_path: Path
) -> None:
    store = f"s3a://{versity.BUCKET}/resumed"
    home_, gate = tmp_path / "home", tmp_path / "gate"

    def submit(name: str) -> apps.RunningApp:
        return stored_job.submit(
            tmp_path / name, home_, store, gate, server.conf(), jars, cluster.master
        )

    with submit("first") as app:
        app.wait_for(gate.with_name("gate.reached"))
        wait_for_commits(server.objects("resumed"), 3, timeout_s=120)
        app.kill_driver()
    assert [c.state for c in look(store)] == ["committed"] * 3
    assert "driver" not in _writers(tmp_path / "first"), "executors are processes of their own"
    gate.touch()
    with submit("second") as app:
        finished = app.wait().check()
    assert not compare_results(_rows(tmp_path / "first"), _rows(tmp_path / "second"))
    assert home.checkpoint_events(home_, apps.app_id(finished.folder))["restored"] == 1
    assert {checkpoint.state for checkpoint in look(store, verify=True)} == {"committed"}
    assert all(checkpoint.remove for checkpoint in collect(store, max_store_bytes=0))
    assert look(store) == []


def test_a_driver_killed_half_way_through_a_manifest(
    server: versity.Server, jars: list[Path], tmp_path: Path
) -> None:
    store = f"s3a://{versity.BUCKET}/halved"
    home_, gate = tmp_path / "home", tmp_path / "gate"

    def submit(name: str, port: int | None = None) -> apps.RunningApp:
        return stored_job.submit(tmp_path / name, home_, store, gate, server.conf(port), jars)

    path = rf"/{versity.BUCKET}/halved/catalog/\S+\.manifest"
    with halves.Proxy(server.port, "PUT", path) as proxy, submit("first", proxy.port) as app:
        while not proxy.reached.wait(1):
            assert app.running, f"no manifest was being written, see {app.folder}/driver.log"
        app.wait_for(gate.with_name("gate.reached"))  # the query waits for no commit
        wait_for_commits(server.objects("halved"), 2, timeout_s=60)
        app.kill_driver()
    halved = {"committed": 2, "uncommitted": 1}
    assert Counter(c.state for c in look(store, verify=True)) == halved
    gate.touch()
    with submit("second") as app:
        finished = app.wait().check()
    with stored_job.submit(
        tmp_path / "plain", home_, store, gate, {"spark.phoebe.mode": "off"}
    ) as app:
        app.wait().check()
    assert not compare_results(_rows(tmp_path / "plain"), _rows(tmp_path / "second"))
    assert home.checkpoint_events(home_, apps.app_id(finished.folder))["restored"] >= 1
    found = Counter(c.state for c in look(store, verify=True))
    assert set(found) <= {"committed", "uncommitted"}, "what was left is still its dead writer's"
    assert found["uncommitted"] == 1


def test_two_drivers_that_commit_the_same_boundaries_at_once(
    server: versity.Server, cluster: Cluster, jars: list[Path], tmp_path: Path
) -> None:
    """The store answers nobody until both have all that they want to commit."""
    store = f"s3a://{versity.BUCKET}/raced"
    objects = server.objects("raced")
    home_, go, end = tmp_path / "home", tmp_path / "go", tmp_path / "end"

    def submit(name: str) -> apps.RunningApp:
        item = queries.Item(
            "daily",
            tpc.data("tpch", 0.1),
            sql=stored_job.SQL,
            pause_before=go.with_name(f"{name}-go"),
            pause_after=end.with_name(f"{name}-end"),
        )
        conf = {
            **stored_job.KEPT,
            **server.conf(),
            "spark.phoebe.home": str(home_),
            "spark.phoebe.checkpoint.dir": store,
            "spark.cores.max": "1",  # room for both
        }
        return queries.submit_queries(
            [item],
            folder=tmp_path / name,
            conf=conf,
            plugin="jars",
            packages_jars=jars,
            master=cluster.master,
        )

    names = ("first", "second")
    with ExitStack() as stack:
        racing = {name: stack.enter_context(submit(name)) for name in names}
        for name, app in racing.items():
            app.wait_for(tmp_path / f"{name}-go.reached")
        server.pause()
        try:
            for name in names:
                (tmp_path / f"{name}-go").touch()
            for name, app in racing.items():
                app.wait_for(tmp_path / f"{name}-end.reached")
            assert not committed(objects)
        finally:
            server.resume()
        wait_for_commits(objects, 6, timeout_s=120)
        for name in names:
            (tmp_path / f"{name}-end").touch()
        for app in racing.values():
            app.wait().check()
    manifests = [read_manifest(m) for m in committed(objects)]
    assert Counter(m["app_id"] for m in manifests) == dict.fromkeys(
        (apps.app_id(tmp_path / name) for name in names), 3
    )
    assert set(Counter(m["fingerprint"] for m in manifests).values()) == {2}
    assert [checkpoint.state for checkpoint in look(store, verify=True)] == ["committed"] * 6

    for gate in ("third-go", "third-end"):
        (tmp_path / gate).touch()
    with submit("third") as app:
        finished = app.wait().check()
    assert home.checkpoint_events(home_, apps.app_id(finished.folder))["restored"] == 1
    with stored_job.submit(
        tmp_path / "plain", home_, store, tmp_path / "third-end", {"spark.phoebe.mode": "off"}
    ) as app:
        app.wait().check()
    for name in (*names, "third"):
        assert not compare_results(_rows(tmp_path / "plain"), _rows(tmp_path / name)), name


def test_a_driver_that_was_paused_commits_and_removes_nothing(
    server: versity.Server, jars: list[Path], tmp_path: Path
) -> None:
    objects = server.objects("paused")
    paused_driver.run(
        tmp_path,
        f"s3a://{versity.BUCKET}/paused",
        lambda: {path.name for path in (objects / "catalog").glob("*")},
        server.conf(),
        jars,
    )


def test_a_foreign_prefix_is_refused(
    server: versity.Server, jars: list[Path], tmp_path: Path
) -> None:
    """Also the root of a bucket, which has other prefixes."""
    part = server.objects("lake") / "data" / "sales" / "part-0.csv"
    part.parent.mkdir(parents=True)
    part.write_text("1,100\n")
    gate = tmp_path / "gate"
    gate.touch()
    for name in ("", "/lake"):
        store = f"s3a://{versity.BUCKET}{name}"
        with stored_job.submit(
            tmp_path / f"app{len(name)}", tmp_path / "home", store, gate, server.conf(), jars
        ) as app:
            finished = app.wait().check()
        assert "phoebe: no checkpoints, the job goes on without" in finished.log
    assert part.exists()
    names = {path.name for path in (server.folder / versity.BUCKET).rglob("*")}
    assert "phoebe-store.json" not in {p.name for p in server.objects("lake").rglob("*")}
    assert not {"catalog", "phoebe-store.json"} & {
        path.name for path in (server.folder / versity.BUCKET).iterdir()
    }, names
