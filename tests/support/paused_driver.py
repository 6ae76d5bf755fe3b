"""A driver that is stopped (SIGSTOP) for longer than its lease, and goes on when another has taken
over: it may commit nothing and remove nothing any more, and its queries end as they would have."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tests.support import apps, queries, stored_job, tpc
from tests.support.compare import compare_results
from tests.support.waiting import until

LEASE_MS = 6000  # a driver on a busy machine may stand still for seconds, too
_SECOND = "select l_returnflag, count(*) as n from lineitem group by l_returnflag"


def run(
    folder: Path,
    store: str,
    catalog: Callable[[], set[str]],
    conf: Mapping[str, str] | None = None,
    jars: Sequence[Path] = (),
) -> None:
    """``catalog`` gives the names in the catalogue; ``conf`` and ``jars`` reach the store."""

    def submit(name: str, retain: str) -> apps.RunningApp:
        items = [
            queries.Item(
                "first", tpc.data("tpch", 0.1), sql=stored_job.SQL, pause_after=folder / name
            ),
            queries.Item("second", tpc.data("tpch", 0.1), sql=_SECOND),
        ]
        settings = {
            **stored_job.CONF,
            "spark.phoebe.home": str(folder / "home"),
            "spark.phoebe.checkpoint.dir": store,
            "spark.phoebe.checkpoint.retain": retain,
            "spark.phoebe.lease_ms": str(LEASE_MS),
            **(conf or {}),
        }
        return queries.submit_queries(
            items, folder=folder / f"app-{name}", conf=settings, plugin="jars", packages_jars=jars
        )

    def manifests() -> set[str]:
        return {name for name in catalog() if name.endswith(".manifest")}

    # Its end would remove all that it has written.
    with submit("paused", "failure") as paused:
        paused.wait_for(folder / "paused.reached")
        until(lambda: len(manifests()) == 3, "three checkpoints are committed", 120)
        (owner,) = {name.rsplit("-", 1)[1][:16] for name in manifests()}
        os.kill(paused.pid, signal.SIGSTOP)
        try:
            with submit("successor", "always") as successor:
                successor.wait_for(folder / "successor.reached")
                until(
                    lambda: f"{owner}.fenced" in catalog(), "the successor counts it for dead", 120
                )
                (folder / "successor").touch()
                successor.wait().check()
            read = {name.partition(".")[0] for name in catalog() if ".reader-" in name}
            assert any(f"-{owner}" in stem for stem in read), "what it had committed is restored"
            before = manifests()
        finally:
            os.kill(paused.pid, signal.SIGCONT)
        (folder / "paused").touch()
        ended = paused.wait().check()
    assert manifests() == before
    # Once by the store; an upload that was under way says in its own line why it was given up.
    assert ended.log.count("CheckpointStore: phoebe: this application's lease in") == 1
    assert "phoebe: failed" not in ended.log
    for name in ("first", "second"):
        one, other = (queries.output(folder / f"app-{n}", name) for n in ("paused", "successor"))
        assert not compare_results(one, other)
