"""The companion's memory in `observe`, whatever the job: long stages, many stages, many queries.

Driven through its standard input with the plugin's own lines (docs/protocol.md), without Spark.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import zstandard

from phoebe_spark.tables.deltalake import Tables

ROOT = Path(__file__).resolve().parents[3]
LOG = ROOT / "tests" / "data" / "eventlogs" / "12-tpcds-sf1-p32.zstd"
SQL = "org.apache.spark.sql.execution.ui.SparkListener"
LIMIT_MB = 120
AS_STARTED = {
    "PYTHONSAFEPATH": "1",
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": "100000",
    "MALLOC_TRIM_THRESHOLD_": "100000",
}
"""The environment that the plugin gives its companion."""


def peak_mb(process: subprocess.Popen[bytes]) -> float:
    """The largest resident set until the process ends, megabytes; its end is waited for."""
    peak = 0.0
    while process.poll() is None:
        for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                peak = max(peak, int(line.split()[1]) * 1024 / 1e6)
        time.sleep(0.002)
    return peak


def harvested(home: Path, lines: Iterable[bytes], **settings: str) -> float:
    """Feeds one companion; returns its largest resident set, megabytes, and checks that it ended
    well, with everything stored."""
    process = subprocess.Popen(
        [sys.executable, "-m", "phoebe_spark.companion"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        env={**os.environ, **AS_STARTED, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdin is not None
    hello = {
        "type": "hello", "protocol": 1, "app_id": "app-1", "app_attempt": "", "app_name": "a",
        "home": str(home), "mode": "observe", "time": 1_795_000_000_000,
        "settings": {f"spark.phoebe.{k}": v for k, v in settings.items()},
    }  # fmt: skip
    for line in (orjson.dumps(hello), *lines):
        process.stdin.write(line + b"\n")
    process.stdin.write(b'{"type":"end","time":1795000900000}\n')
    process.stdin.close()
    peak = peak_mb(process)
    assert process.returncode == 0
    return peak


def stage(stage_id: int, tasks: int, **more: Any) -> dict[str, Any]:
    return {
        "Stage ID": stage_id, "Stage Name": "collect", "Number of Tasks": tasks,
        "RDD Info": [{"RDD ID": stage_id}], "Parent IDs": [], "Submission Time": 1_795_000_000_100,
        **more,
    }  # fmt: skip


def job(job_id: int, execution_id: int, stages: Iterable[dict[str, Any]]) -> bytes:
    return orjson.dumps(
        {
            "Event": "SparkListenerJobStart",
            "Job ID": job_id,
            "Stage Infos": list(stages),
            "Submission Time": 1_795_000_000_050,
            "Properties": {"spark.sql.execution.id": str(execution_id)},
        }
    )


def job_end(job_id: int) -> bytes:
    return orjson.dumps(
        {
            "Event": "SparkListenerJobEnd",
            "Job ID": job_id,
            "Completion Time": 1_795_000_800_000,
            "Job Result": {"Result": "JobSucceeded"},
        }
    )


def ran(stage_id: int, tasks: int) -> Iterator[bytes]:
    """A stage from its start to its end."""
    yield orjson.dumps(
        {"Event": "SparkListenerStageSubmitted", "Stage Info": stage(stage_id, tasks)}
    )
    for n in range(tasks):
        yield (
            b'{"Event":"SparkListenerTaskEnd","Stage ID":%d,"Task Type":"ShuffleMapTask",'
            b'"Task End Reason":{"Reason":"Success"},"Task Info":{"Index":%d,'
            b'"Launch Time":1795000000200,"Finish Time":1795000000900,"Executor ID":"17",'
            b'"Host":"worker-17.example"},"Task Metrics":{"Executor Run Time":%d,'
            b'"Executor CPU Time":400000000,"Shuffle Write Metrics":{"Shuffle Bytes Written":1000,'
            b'"Shuffle Records Written":10},"Input Metrics":{"Bytes Read":5000}}}'
        ) % (stage_id, n, 100 + n % 500)
    done = stage(stage_id, tasks, **{"Completion Time": 1_795_000_700_000})
    yield orjson.dumps({"Event": "SparkListenerStageCompleted", "Stage Info": done})


def start(execution_id: int, plan: Any = None) -> bytes:
    plan = plan or {"nodeName": "Range", "simpleString": "Range (0, 1)"}
    return orjson.dumps(
        {
            "Event": f"{SQL}SQLExecutionStart",
            "executionId": execution_id,
            "description": "q",
            "time": 1_795_000_000_000,
            "sparkPlanInfo": plan,
        }
    )


def end(execution_id: int) -> bytes:
    return orjson.dumps(
        {"Event": f"{SQL}SQLExecutionEnd", "executionId": execution_id, "time": 1_795_000_850_000}
    )


_MANY = pytest.mark.nightly(
    guarded_by="tests/unit/companion/test_memory.py::test_one_stage_of_very_many_tasks[100000]"
)


@pytest.mark.parametrize("tasks", [100_000, pytest.param(1_000_000, marks=_MANY)])
def test_one_stage_of_very_many_tasks(tmp_path: Path, tasks: int) -> None:
    lines = [start(0), job(0, 0, [stage(0, tasks)])]
    peak = harvested(tmp_path, (*lines, *ran(0, tasks), job_end(0), end(0)))
    (row,) = Tables(tmp_path).read("stages").to_pylist()
    assert (row["tasks_succeeded"], row["complete"]) == (tasks, True)
    assert row["shuffle_write_bytes"] == 1000 * tasks
    assert peak < LIMIT_MB


def test_ten_thousand_stages(tmp_path: Path) -> None:
    def lines() -> Iterator[bytes]:
        for execution_id in range(10):
            yield start(execution_id)
            first = execution_id * 1000
            yield job(execution_id, execution_id, (stage(first + n, 5) for n in range(1000)))
            for n in range(1000):
                yield from ran(first + n, 5)
            yield job_end(execution_id)
            yield end(execution_id)

    peak = harvested(tmp_path, lines(), **{"harvest.flush_interval_ms": "1000"})
    rows = Tables(tmp_path).read("stages", columns=["complete"]).to_pylist()
    assert [row["complete"] for row in rows] == [True] * 10_000
    # 113 to 130 MB, the more the busier the machine: rows gather while a commit takes its time.
    assert peak < LIMIT_MB + 40


def test_a_hundred_queries_at_once(tmp_path: Path) -> None:
    """Real plans: TPC-DS, with all of their versions, in turns."""
    with LOG.open("rb") as raw:
        text = zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True).read()
    versions: dict[int, list[Any]] = {}
    for line in text.split(b"\n"):
        if b"SQLExecutionStart" in line[:90] or b"SQLAdaptiveExecutionUpdate" in line[:90]:
            event = orjson.loads(line)
            versions.setdefault(event["executionId"], []).append(event["sparkPlanInfo"])
    del text
    plans = sorted(versions.values(), key=len)[-100:]

    def lines() -> Iterator[bytes]:
        for n, found in enumerate(plans):
            yield start(n, found[0])
            yield job(n, n, [stage(n, 2)])
        for turn in range(1, max(map(len, plans))):
            for n, found in enumerate(plans):
                if turn < len(found):
                    yield orjson.dumps(
                        {
                            "Event": f"{SQL}SQLAdaptiveExecutionUpdate",
                            "executionId": n,
                            "sparkPlanInfo": found[turn],
                        }
                    )
        for n in range(len(plans)):
            yield from ran(n, 2)
            yield job_end(n)
        yield from map(end, range(len(plans)))

    peak = harvested(tmp_path, lines())
    rows = Tables(tmp_path).read("executions").to_pylist()
    assert [row["complete"] for row in rows] == [True] * len(plans)
    assert peak < LIMIT_MB
