"""Submits the demo's job as a user would, and measures it from outside.

A submission is ``spark-submit`` with the project's ``conf/spark-defaults.conf``, the jar and
``spark.plugins``; "without" leaves out both. Temp storage is sampled from the local directory's
files; wall and processor time are those of the whole command, start-up and companion included.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.demo.days import Day
from tests.support import apps
from tests.support.cpu import ProcessMeter
from tests.support.disk import DiskSampler, Usage
from tests.support.places import ROOT

PIPELINE = Path(__file__).with_name("pipeline.py")
DEFAULTS = ROOT / "conf" / "spark-defaults.conf"

JOB_CONF: Mapping[str, str] = {
    # What the job's owner set, with or without the plugin: shuffles as at scale, on small data,
    # and Spark's own clean-up of shuffle files when a query ends.
    "spark.sql.shuffle.partitions": "32",
    "spark.sql.autoBroadcastJoinThreshold": "1MB",
    "spark.sql.classic.shuffleDependency.fileCleanup.enabled": "true",
}


@dataclass(frozen=True, slots=True)
class Submission:
    """One run of the job. Times in seconds, sizes in bytes; ``cpu_s`` of all of its processes."""

    name: str
    folder: Path
    results: Path
    exit_code: int
    wall_s: float
    cpu_s: float
    usage: Usage
    started_at: float  # seconds since the epoch
    reports: dict[str, float] = field(default_factory=dict)  # report to seconds, those that ended

    @property
    def mean_temp_bytes(self) -> float:
        """Temp storage over the run, on average: a machine that is slow all through does not
        change it."""
        return self.usage.byte_seconds / self.wall_s


def _reports(log: str) -> dict[str, float]:
    return {name: float(s) for name, s in re.findall(r"^REPORT (\S+) (\S+)$", log, re.MULTILINE)}


@dataclass(frozen=True, slots=True)
class Job:
    """The job and where it lives; ``run`` is one submission of it."""

    work: Path
    home: Path
    queries: Path

    def conf(self, mode: str) -> dict[str, str]:
        """The demo's few settings beside the job's own: where the home is, the mode, and that
        queries of seconds count as long (the default is a minute)."""
        return {
            "spark.phoebe.home": str(self.home),
            "spark.phoebe.mode": mode,
            "spark.phoebe.min_duration_ms": "500",
        }

    @contextmanager
    def start(self, name: str, day: Day, mode: str | None) -> Iterator[apps.RunningApp]:
        """Submits; ``mode`` None is "without": no jar, no plugin."""
        folder = self.work / name
        results = folder / "results"
        plugged = mode is not None
        with apps.submit(
            PIPELINE,
            ["--data", str(day.folder), "--queries", str(self.queries), "--out", str(results)],
            folder=folder,
            conf={**JOB_CONF, **(self.conf(mode) if mode is not None else {})},
            plugin="jars" if plugged else "none",
            properties_file=DEFAULTS if plugged else None,
            driver_memory="2g",
            with_event_log=False,
        ) as app:
            yield app

    def run(self, name: str, day: Day, mode: str | None) -> Submission:
        """One run to its end; raises ``AppFailedError`` when the job fails."""
        started_at = time.time()
        with (
            self.start(name, day, mode) as app,
            ProcessMeter(app.pid) as meter,
            DiskSampler([app.folder / "local"]) as sampler,
        ):
            finished = app.wait().check()
        return Submission(
            name=name,
            folder=app.folder,
            results=app.folder / "results",
            exit_code=finished.exit_code,
            wall_s=finished.wall_s,
            cpu_s=meter.cpu_s,
            usage=sampler.usage,
            started_at=started_at,
            reports=_reports(finished.log),
        )

    def run_and_kill(self, name: str, day: Day, mode: str, like: Submission) -> Submission:
        """A run whose driver gets SIGKILL late: half-way through its last report.

        ``like`` is an earlier run of the job; its report times say when half-way is.
        """
        started_at = time.time()
        *_, last = like.reports
        with self.start(name, day, mode) as app:
            log = app.folder / "driver.log"
            while len(_reports(log.read_text(errors="replace"))) < len(like.reports) - 1:
                if not app.running:
                    raise apps.AppFailedError(f"the job ended before the kill, see {log}")
                time.sleep(0.05)
            time.sleep(like.reports[last] / 2)
            killed = app.kill_driver()
        return Submission(
            name=name,
            folder=app.folder,
            results=app.folder / "results",
            exit_code=killed.exit_code,
            wall_s=killed.wall_s,
            cpu_s=float("nan"),
            usage=Usage(()),
            started_at=started_at,
            reports=_reports(killed.log),
        )
