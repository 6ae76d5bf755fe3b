"""Harvest against the event logs of real runs, and against what no real run writes."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import orjson
import pyarrow as pa
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from phoebe_spark.harvest import Harvest
from phoebe_spark.harvest._rows import error_class, harmless, job_name
from phoebe_spark.harvest._state import ExecutionState
from phoebe_spark.ingest.eventlog import EventReader
from phoebe_spark.ingest.finding import find_logs
from phoebe_spark.plan.nodes import parse_plan
from phoebe_spark.plan.templates import exchanges
from phoebe_spark.tables.records import (
    ApplicationRecord,
    BoundaryRecord,
    CheckpointRecord,
    ExecutionRecord,
    ExecutorRecord,
    Record,
    StageRecord,
    TempStorageRecord,
)
from phoebe_spark.tables.rows import last_of_key, to_arrow

LOGS = Path(__file__).parents[2] / "data" / "eventlogs"
TPCH, TPCDS = "11-tpch-sf1-p32", "12-tpcds-sf1-p32"
SQL = "org.apache.spark.sql.execution.ui.SparkListener"

Event = dict[str, Any]


@cache
def events(log: str) -> tuple[Event, ...]:
    (source,) = find_logs([LOGS / f"{log}.zstd"])
    return tuple(EventReader(source))


def run(stream: Any, source: str = "eventlog", aborted: bool | None = None) -> list[Record]:
    harvest = Harvest(source=source)
    found = [row for event in stream for row in harvest.consume(event)]
    return found + harvest.close(aborted=aborted)


@cache
def records(log: str) -> tuple[Record, ...]:
    return tuple(run(events(log)))


_Row = TypeVar("_Row", bound=Record)


def of(rows: Any, kind: type[_Row]) -> list[_Row]:
    return [row for row in rows if isinstance(row, kind)]


def one_execution(log: str, name: str) -> list[Event]:
    """The events of one query, with the application's around them; the caller's own copy."""
    copied: list[Event] = orjson.loads(_encoded_execution(log, name))
    return copied


@cache
def _encoded_execution(log: str, name: str) -> bytes:
    return orjson.dumps(_one_execution(log, name))


def _one_execution(log: str, name: str) -> list[Event]:
    found: list[Event] = []
    wanted: int | None = None
    stages: set[int] = set()
    for event in events(log):
        kind = event["Event"]
        if kind in ("SparkListenerApplicationStart", "SparkListenerExecutorAdded",
                    "SparkListenerApplicationEnd"):  # fmt: skip
            found.append(event)
        elif kind.startswith(SQL):
            if event.get("description") == name and kind.endswith("SQLExecutionStart"):
                wanted = event["executionId"]
            if event.get("executionId") == wanted and wanted is not None:
                found.append(event)
        elif kind == "SparkListenerJobStart":
            if event["Properties"].get("spark.sql.execution.id") == str(wanted):
                stages.update(event["Stage IDs"])
                found.append(event)
        elif kind in ("SparkListenerStageSubmitted", "SparkListenerStageCompleted"):
            if event["Stage Info"]["Stage ID"] in stages:
                found.append(event)
        elif (kind == "SparkListenerTaskEnd" and event["Stage ID"] in stages) or (
            kind == "SparkListenerJobEnd"
        ):
            found.append(event)
    return found


# The figures of the design: shuffle-writing stages, and those tied to an exchange. The
# others are the shuffles inside TakeOrderedAndProject, which have no exchange node.
@pytest.mark.parametrize(
    ("log", "stages", "tasks", "executions", "boundaries", "writing", "tied"),
    [(TPCH, 183, 272, 30, 96, 98, 95), (TPCDS, 1048, 1511, 128, 614, 472, 462)],
)
def test_a_real_log(
    log: str, stages: int, tasks: int, executions: int, boundaries: int, writing: int, tied: int
) -> None:
    rows = records(log)
    found = of(rows, StageRecord)
    assert len(found) == stages
    assert sum(stage.tasks_succeeded for stage in found) == tasks
    assert all(stage.complete and stage.status == "succeeded" for stage in found)
    writers = [stage for stage in found if stage.shuffle_write_bytes > 0]
    assert len(writers) == writing
    assert sum(stage.boundary_id is not None for stage in writers) == tied
    for stage in writers:
        if stage.boundary_id is None:
            assert stage.operators is not None
            assert "TakeOrderedAndProject" in stage.operators
            assert stage.template is not None
            assert stage.template.endswith("+map")
    assert len(of(rows, ExecutionRecord)) == executions
    # In the initial plans, reused subqueries' repeated exchanges (1 and 11) not counted twice.
    assert len(of(rows, BoundaryRecord)) == boundaries


@pytest.mark.parametrize("log", [TPCH, TPCDS])
def test_a_stage_and_its_boundary_name_each_other(log: str) -> None:
    boundaries = {(b.execution_id, b.boundary_id): b for b in of(records(log), BoundaryRecord)}
    for stage in of(records(log), StageRecord):
        if stage.boundary_id is not None:
            boundary = boundaries[stage.execution_id or 0, stage.boundary_id]
            assert boundary.stage_id == stage.stage_id
            assert boundary.template == stage.template


@pytest.mark.parametrize("log", [TPCH, TPCDS])
def test_parents_wrote_what_their_readers_read(log: str) -> None:
    """Rows read against rows written by the parents that harvest names. They may differ where a
    stage reads one shuffle twice, or a sort-merge join stops early."""
    stages = {stage.stage_id: stage for stage in of(records(log), StageRecord)}
    readers = [s for s in stages.values() if s.execution_id is not None and s.shuffle_read_rows]
    equal = sum(
        reader.shuffle_read_rows
        == sum(stages[parent].shuffle_write_rows for parent in reader.parents or ())
        for reader in readers
    )
    assert len(readers) > 80
    assert equal / len(readers) > 0.98


@pytest.mark.parametrize("log", [TPCH, TPCDS])
def test_executions_are_graphs_of_their_stages(log: str) -> None:
    by_execution = defaultdict(set)
    for stage in of(records(log), StageRecord):
        by_execution[stage.execution_id].add(stage.stage_id)
    for execution in of(records(log), ExecutionRecord):
        parents = {int(k): v for k, v in json.loads(execution.stage_parents or "{}").items()}
        assert set(parents) == by_execution[execution.execution_id]
        assert all(p < stage for stage, above in parents.items() for p in above)
        # One stage that nobody reads, except in failed queries and commands without jobs.
        ends = set(parents) - {p for above in parents.values() for p in above}
        if execution.status == "succeeded" and execution.boundary_count:
            assert max(parents) in ends


def test_times_are_relative_and_never_negative() -> None:
    durations = {e.execution_id: e for e in of(records(TPCH), ExecutionRecord)}
    for stage in of(records(TPCH), StageRecord):
        if stage.execution_id is None:
            assert stage.start_ms is None
            continue
        total = durations[stage.execution_id].duration_ms
        assert stage.start_ms is not None
        assert stage.end_ms is not None
        assert total is not None
        assert 0 <= stage.start_ms <= stage.end_ms <= total
        assert stage.ttl_ms == total - stage.end_ms
        assert stage.task_ms_p50 is not None
        assert stage.task_ms_max is not None
        assert stage.task_ms_p50 <= stage.task_ms_max <= stage.task_time_ms


def test_the_application_and_its_executor() -> None:
    application = of(records(TPCH), ApplicationRecord)[-1]
    assert (application.app_name, application.job, application.slots) == ("tpch", "tpch", 2)
    assert (application.status, application.complete) == ("finished", True)
    assert application.spark_version == "4.2.0"
    (executor,) = of(records(TPCH), ExecutorRecord)
    assert (executor.executor_id, executor.cores) == ("driver", 2)
    written = [row.written_at for row in records(TPCH)]
    assert len(set(written)) == len(written), "the last row of a key must be told by its time"


def test_templates_recur_from_run_to_run() -> None:
    """Scale factor 0.1 and 8 partitions against 1 and 32, another broadcast threshold."""
    small = {e.description: e for e in of(run(events("01-tpch-sf0.1-p8")), ExecutionRecord)}
    large = {e.description: e for e in of(records(TPCH), ExecutionRecord)}
    queries = [name for name in large if name and name.startswith("tpch/q")]
    assert len(queries) == 22
    same = [name for name in queries if small[name].template == large[name].template]
    assert len(same) >= 20


def test_stages_inside_of_an_operator_are_told_apart() -> None:
    """The two sides of an inner shuffle share their plan nodes, and so does a sampling job with the
    stage that it samples: each has a template of its own, named by the stage that it serves."""
    stages = [s for s in of(records(TPCH), StageRecord) if s.execution_id is not None]
    inner = Counter((s.template or "").partition("+")[2] for s in stages)
    assert inner == {"": 159, "sample": 13, "map": 3}
    by_id = {s.stage_id: s for s in stages}
    for stage in stages:
        host, _, kind = (stage.template or "").partition("+")
        if kind == "map":
            assert stage.shuffle_write_bytes
            assert stage.boundary_id is None
            (reader,) = (s for s in stages if stage.stage_id in (s.parents or ()))
            assert reader.template == host
        elif kind == "sample":
            later = [s for s in stages if s.execution_id == stage.execution_id
                     and s.template == host and s.stage_id > stage.stage_id]  # fmt: skip
            assert [s.boundary_id is not None for s in later] == [True]
            read = set(by_id[stage.stage_id].parents or ())
            assert set(later[0].parents or ()) == read | {stage.stage_id}, "it waits for the bounds"


def _raw(log: str, kind: str) -> list[Event]:
    """The log's events as Spark wrote them: what harvest's reader leaves out is there."""
    with zstandard.open(LOGS / f"{log}.zstd", "rt") as lines:
        return [event for line in lines if (event := json.loads(line))["Event"].endswith(kind)]


def test_the_largest_task_of_a_stage_shows_skew() -> None:
    largest: dict[int, Counter[str]] = defaultdict(Counter)
    for event in _raw(TPCH, "TaskEnd"):
        metrics = event["Task Metrics"]
        read, write = metrics["Shuffle Read Metrics"], metrics["Shuffle Write Metrics"]
        for name, value in {
            "read": read["Remote Bytes Read"] + read["Local Bytes Read"],
            "write": write["Shuffle Bytes Written"],
            "spill": metrics["Disk Bytes Spilled"],
        }.items():
            largest[event["Stage ID"]][name] = max(largest[event["Stage ID"]][name], value)
    stages = of(records(TPCH), StageRecord)
    assert any(s.shuffle_write_bytes_max < s.shuffle_write_bytes for s in stages)
    for stage in stages:
        told = (stage.shuffle_read_bytes_max, stage.shuffle_write_bytes_max)
        assert told == (largest[stage.stage_id]["read"], largest[stage.stage_id]["write"])
        assert stage.spill_disk_bytes_max == largest[stage.stage_id]["spill"]


def test_temp_storage_adds_up_per_host() -> None:
    rows = {r.execution_id: r for r in of(records(TPCH), TempStorageRecord)}
    executions = {e.execution_id: e for e in of(records(TPCH), ExecutionRecord)}
    written: Counter[int] = Counter()
    alive: Counter[int] = Counter()  # byte milliseconds, stage by stage
    finished: dict[int, int] = defaultdict(int)
    for event in _raw(TPCH, "TaskEnd"):
        at = event["Task Info"]["Finish Time"]
        finished[event["Stage ID"]] = max(finished[event["Stage ID"]], at)
    for stage in of(records(TPCH), StageRecord):
        if stage.execution_id is not None and stage.shuffle_write_bytes:
            written[stage.execution_id] += stage.shuffle_write_bytes
            ended = executions[stage.execution_id].ended_at
            assert ended is not None
            left = round(ended.timestamp() * 1000) - finished[stage.stage_id]
            alive[stage.execution_id] += stage.shuffle_write_bytes * left
    assert {i: r.peak_bytes for i, r in rows.items()} == written
    for execution_id, row in rows.items():
        assert row.byte_seconds == pytest.approx(alive[execution_id] / 1000)
        points = json.loads(row.series or "[]")
        assert points == sorted(points), "grows until the end: nothing was freed"
        assert points[-1][1] == row.peak_bytes
        assert row.host == "localhost"


def test_what_a_checkpoint_frees_is_alive_no_more() -> None:
    stream = one_execution(TPCH, "tpch/q10")
    start = next(e for e in stream if e["Event"].endswith("SQLExecutionStart"))
    end = next(e for e in stream if e["Event"].endswith("SQLExecutionEnd"))
    (plain,) = of(run(stream), TempStorageRecord)
    freed = {
        "type": "checkpoint",
        "event": "freed",
        "execution_id": start["executionId"],
        "fingerprint": "f" * 64,
        "path": "data/f/1",
        "freed_bytes": 1_000_000,
        "time": end["time"] - 100,
    }
    more = {**freed, "freed_bytes": 1_500_000, "time": end["time"] - 50}  # so far, as the first
    other = {**freed, "fingerprint": "e" * 64, "path": "data/e/1", "time": end["time"] - 50}
    messages = [freed, more, other]
    found = run([*stream[: stream.index(end)], *messages, *stream[stream.index(end) :]])
    (row,) = of(found, TempStorageRecord)
    last, last_plain = json.loads(row.series or "[]")[-1], json.loads(plain.series or "[]")[-1]
    assert last[1] == last_plain[1] - 2_500_000
    less = 1_000_000 * 0.1 + 1_500_000 * 0.05
    assert plain.byte_seconds - row.byte_seconds == pytest.approx(less)
    # Of two rows of one key the table's readers get the last.
    rows = of(found, CheckpointRecord)
    read = last_of_key(pa.table(to_arrow(CheckpointRecord, rows)), CheckpointRecord.KEY)
    assert read["freed_bytes"].to_pylist() == [1_500_000, 1_000_000]


def test_skipped_stages_name_the_stage_that_ran() -> None:
    started = {e["Stage Info"]["Stage ID"] for e in _raw(TPCH, "StageSubmitted")}
    rdd = {}
    listed: dict[int, set[int]] = defaultdict(set)
    for event in _raw(TPCH, "JobStart"):
        execution_id = event["Properties"].get("spark.sql.execution.id")
        for info in event["Stage Infos"]:
            rdd[info["Stage ID"]] = info["RDD Info"][0]["RDD ID"]
            if execution_id is not None:
                listed[int(execution_id)].add(info["Stage ID"])
    for row in of(records(TPCH), ExecutionRecord):
        skipped = json.loads(row.skipped_stages or "{}")
        assert {int(s) for s in skipped} == listed[row.execution_id] - started
        assert row.stages_skipped == len(skipped)
        assert all(ran in started and rdd[int(s)] == rdd[ran] for s, ran in skipped.items())
    assert sum(row.stages_skipped for row in of(records(TPCH), ExecutionRecord)) > 100


def test_the_plan_is_there_with_its_connectors() -> None:
    by_name = {e.description: e for e in of(records(TPCH), ExecutionRecord)}
    stages = json.loads(by_name["tpch/q12"].plan or "")
    assert [s["boundary"] for s in stages] == ["e2", "e3", "e1", "e0", None]
    assert stages[-1]["operators"] == ["OverwriteByExpression", "Sort"]
    assert stages[-1]["reads"] == [[3, "range"]]
    assert stages[3]["reads"] == [[2, "hash"]]
    assert stages[2]["reads"] == [[0, "hash"], [1, "hash"]]
    assert "BroadcastExchange" in str(by_name["tpch/q2"].plan)
    assert '"replicate"' in str(by_name["tpch/q2"].plan)


def test_failures_keep_their_class_and_nothing_else() -> None:
    failed = [e for e in of(records(TPCDS), ExecutionRecord) if e.status == "failed"]
    assert [(e.description, e.error_class) for e in failed] == [
        ("tpcds/q30", "UNRESOLVED_COLUMN.WITH_SUGGESTION")
    ]
    assert not failed[0].complete


def test_plain_jobs_have_no_execution() -> None:
    plain = [stage for stage in of(records(TPCH), StageRecord) if stage.execution_id is None]
    assert len(plain) == 8
    assert all(stage.duration_ms is not None and stage.job_id is not None for stage in plain)


def test_nothing_is_remembered_of_what_has_ended() -> None:
    harvest = Harvest(source="eventlog")
    running = 0
    for event in events(TPCH):
        harvest.consume(event)
        running = max(running, len(harvest._executions))
    assert running == 1
    executions, jobs = harvest._executions, harvest._jobs
    held = {
        "running": executions._running,
        "early": executions._early,
        "waiting": executions.waiting,
        "stages": jobs._ran.stages,
        "jobs": jobs._ran.jobs,
        "stage_jobs": jobs._stage_jobs,
    }
    assert {name: len(kept) for name, kept in held.items() if kept} == {}


def test_missing_tasks_make_a_stage_and_its_execution_incomplete() -> None:
    stream = one_execution(TPCH, "tpch/q18")
    lost = next(i for i, e in enumerate(stream) if e["Event"] == "SparkListenerTaskEnd")
    stage_id = stream.pop(lost)["Stage ID"]
    rows = run(stream)
    incomplete = [s.stage_id for s in of(rows, StageRecord) if not s.complete]
    assert incomplete == [stage_id]
    (execution,) = of(rows, ExecutionRecord)
    assert (execution.status, execution.complete) == ("succeeded", False)


def test_dropped_events_make_what_ran_incomplete() -> None:
    stream = one_execution(TPCH, "tpch/q18")
    middle = len(stream) // 2
    rows = run([*stream[:middle], {"type": "dropped", "events": 3, "time": 1}, *stream[middle:]])
    assert [e.complete for e in of(rows, ExecutionRecord)] == [False]
    application = of(rows, ApplicationRecord)[-1]
    assert (application.events_dropped, application.complete) == (3, False)
    assert [e.complete for e in of(run(stream), ExecutionRecord)] == [True]


def test_a_driver_that_dies_leaves_aborted_rows() -> None:
    stream = one_execution(TPCH, "tpch/q18")
    rows = run(stream[: len(stream) // 2], source="live")
    assert of(rows, ApplicationRecord)[-1].status == "aborted"
    execution = of(rows, ExecutionRecord)[-1]
    assert (execution.status, execution.complete, execution.ended_at) == ("aborted", False, None)
    assert any(s.status == "succeeded" for s in of(rows, StageRecord))
    assert {s.status for s in of(rows, StageRecord)} <= {"succeeded", "aborted"}


def test_a_live_execution_has_a_row_when_it_starts() -> None:
    started = of(run(one_execution(TPCH, "tpch/q18"), source="live"), ExecutionRecord)
    assert [(e.status, e.complete) for e in started] == [("running", False), ("succeeded", True)]


def test_our_own_jobs_are_not_harvested() -> None:
    stream = one_execution(TPCH, "tpch/q18")
    job = next(e for e in stream if e["Event"] == "SparkListenerJobStart")
    job["Properties"]["spark.phoebe.internal"] = "true"
    own = set(job["Stage IDs"])
    rows = run(stream)
    assert own
    assert not own & {s.stage_id for s in of(rows, StageRecord)}


def test_copies_are_told_apart_from_work() -> None:
    stream = one_execution(TPCH, "tpch/q18")
    before = {s.stage_id: s for s in of(run(stream), StageRecord)}
    for event in stream:
        if event["Event"] == "SparkListenerTaskEnd" and event["Stage ID"] == 143:
            event["Task Info"]["Accumulables"] += [
                {"ID": 90001, "Name": "checkpoint copy time", "Update": "40", "Value": "80",
                 "Internal": True, "Metadata": "sql"},
                {"ID": 90002, "Name": "checkpoint bytes copied", "Update": "1000", "Value": "2000",
                 "Internal": True, "Metadata": "sql"},
            ]  # fmt: skip
    rows = run(stream)
    after = {s.stage_id: s for s in of(rows, StageRecord)}
    tasks = after[143].tasks_succeeded
    assert (after[143].copy_ms, after[143].copied_bytes) == (40 * tasks, 1000 * tasks)
    assert after[143].task_time_ms == before[143].task_time_ms - 40 * tasks
    assert of(rows, ExecutionRecord)[0].copy_ms == 40 * tasks
    assert after[144] == _but(before[144], written_at=after[144].written_at)


def _but(row: StageRecord, **changes: Any) -> StageRecord:
    return StageRecord(**{**{f.name: getattr(row, f.name) for f in fields(row)}, **changes})


def test_the_plugins_messages_reach_their_boundaries() -> None:
    stream = one_execution(TPCH, "tpch/q18")
    start = next(i for i, e in enumerate(stream) if e["Event"].endswith("SQLExecutionStart"))
    execution_id = stream[start]["executionId"]
    plan = exchanges(parse_plan(stream[start]["sparkPlanInfo"]))
    said = [
        {"type": "boundary", "execution_id": execution_id, "acc_id": e.node.shuffle_acc_id,
         "fingerprint": f"f{e.boundary_id}", "partitions": 32, "catalyst_bytes": 1000 + n,
         "catalyst_rows": None, "decision": "skip",
         "reason": {"code": "no_gain", "args": {"bytes": n}, "message": "not worth it"},
         "predicted": {"output_bytes": 5.5, "task_time_ms": 1, "start_ms": 2, "end_ms": 3,
                       "ttl_ms": 4}, "model_version": "v1", "time": 1}
        for n, e in enumerate(plan)
    ]  # fmt: skip
    checkpoint = {"type": "checkpoint", "execution_id": execution_id, "fingerprint": "fe0",
                  "event": "committed", "path": "/c/fe0", "bytes": 10, "rows": 2, "map_count": 2,
                  "partitions": 32, "copy_ms": 7, "freed_bytes": None, "from_app_id": None,
                  "reason": None, "stage_id": 154, "time": 1795213041000}  # fmt: skip
    hello = {"type": "hello", "protocol": 1, "app_id": "local-1795213006931", "app_attempt": "",
             "app_name": "nightly 2026-01-31", "user": "u", "spark_version": "4.2.0",
             "plugin_version": "0.1.0", "mode": "apply", "slots": 4, "time": 1795213006000,
             "home": "h", "settings": {}}  # fmt: skip
    # The hook plans before Spark says that the execution starts.
    rows = run([hello, *stream[:start], *reversed(said), *stream[start:-2], checkpoint,
                *stream[-2:]], source="live")  # fmt: skip
    boundaries = of(rows, BoundaryRecord)
    assert [b.boundary_id for b in boundaries] == [f"e{n}" for n in range(7)]
    assert [b.fingerprint for b in boundaries] == [f"fe{n}" for n in range(7)]
    assert [b.catalyst_bytes for b in boundaries] == [1000 + n for n in range(7)]
    first = boundaries[0]
    assert (first.decision, first.reason_code) == ("skip", "no_gain")
    assert first.reason_args == '{"bytes": 0}'
    assert (first.predicted_output_bytes, first.predicted_ttl_ms) == (5.5, 4.0)
    assert "log_catalyst_bytes" in json.loads(first.features or "{}")
    (row,) = of(rows, CheckpointRecord)
    assert (row.event, row.bytes, row.copy_ms, row.path) == ("committed", 10, 7, "/c/fe0")
    application = of(rows, ApplicationRecord)[-1]
    assert (application.mode, application.slots, application.job) == ("apply", 4, "tpch")
    assert application.app_attempt == ""
    assert not of(rows, ExecutionRecord)[-1].restored


def test_a_restored_execution_is_marked() -> None:
    stream = one_execution(TPCH, "tpch/q18")
    start = next(i for i, e in enumerate(stream) if e["Event"].endswith("SQLExecutionStart"))
    restored = {"type": "checkpoint", "event": "restored", "fingerprint": "f", "time": 5,
                "execution_id": stream[start]["executionId"], "from_app_id": "before"}  # fmt: skip
    rows = run([*stream[: start + 1], restored, *stream[start + 1 :]])
    assert [e.restored for e in of(rows, ExecutionRecord)] == [True]
    assert of(rows, CheckpointRecord)[0].from_app_id == "before"


def test_a_restored_execution_is_told_by_its_plan_too() -> None:
    """Of an event log, which has no messages of the plugin."""
    stream = one_execution(TPCH, "tpch/q18")
    update = next(e for e in stream if e["Event"].endswith("SQLAdaptiveExecutionUpdate"))
    node = update["sparkPlanInfo"]
    while node["children"]:
        node = node["children"][0]
    node["nodeName"] = "RestoredCheckpoint"
    assert [e.restored for e in of(run(stream), ExecutionRecord)] == [True]


def test_boundaries_that_the_plan_has_not_are_rows_all_the_same() -> None:
    stream = one_execution(TPCH, "tpch/q18")
    start = next(i for i, e in enumerate(stream) if e["Event"].endswith("SQLExecutionStart"))
    said = [
        {"type": "boundary", "execution_id": stream[start]["executionId"], "acc_id": -1,
         "fingerprint": fingerprint, "decision": decision, "catalyst_bytes": 5,
         "reason": {"code": "x", "args": {}, "message": "m"}}
        for fingerprint, decision in (("0123456789abcdef", "restore"), (None, "refuse"))
    ]  # fmt: skip
    rows = of(run([*stream[: start + 1], *said, *stream[start + 1 :]]), BoundaryRecord)
    assert [b.boundary_id for b in rows] == [f"e{n}" for n in range(7)] + ["f-0123456789ab", "u1"]
    assert [b.decision for b in rows] == [None] * 7 + ["restore", "refuse"]
    assert [b.stage_id for b in rows[7:]] == [None, None]


def test_a_stage_of_which_only_the_end_was_told_is_a_loss() -> None:
    """Spark drops events without a word: nothing else says of which execution the stage was."""
    stream = one_execution(TPCH, "tpch/q18")
    job = next(e for e in stream if e["Event"] == "SparkListenerJobStart")
    told = [
        e
        for e in stream
        if e is not job
        and (
            e["Event"] != "SparkListenerStageSubmitted"
            or e["Stage Info"]["Stage ID"] not in job["Stage IDs"]
        )
    ]
    assert len(told) < len(stream) - 1
    rows = run(told)
    assert [e.complete for e in of(rows, ExecutionRecord)] == [False]
    assert of(rows, ApplicationRecord)[-1].events_dropped == 1
    assert of(run(stream), ApplicationRecord)[-1].events_dropped == 0


def test_executions_that_wait_are_not_all_looked_at_for_each_event(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks = 0
    settled = ExecutionState.settled.fget
    assert settled is not None

    def counted(execution: ExecutionState) -> bool:
        nonlocal looks
        looks += 1
        return bool(settled(execution))

    monkeypatch.setattr(ExecutionState, "settled", property(counted))
    harvest = Harvest(source="eventlog")
    harvest.consume({"Event": "SparkListenerApplicationStart", "App ID": "a", "Timestamp": 1})
    for n in range(300):  # each has a job that never ends
        told = {"spark.sql.execution.id": str(n)}
        harvest.consume({"Event": f"{SQL}SQLExecutionStart", "executionId": n, "time": 1 + n})
        harvest.consume({"Event": "SparkListenerJobStart", "Job ID": n, "Properties": told})
        harvest.consume({"Event": f"{SQL}SQLExecutionEnd", "executionId": n, "time": 2 + n})
    assert len(harvest._executions) == 300
    for _ in range(1_000):
        harvest.consume({"Event": "SparkListenerTaskEnd", "Stage ID": 1})
    assert looks <= 300
    harvest.consume({"Event": "SparkListenerJobEnd", "Job ID": 7})
    assert len(harvest._executions) == 299
    for _ in range(5_000):
        harvest.consume({"Event": "SparkListenerTaskEnd", "Stage ID": 1})
    assert len(harvest._executions) == 0, "patience has an end"


def test_a_query_whose_start_is_missing_costs_no_other() -> None:
    """Before Spark had no limit to the depth of its own log's lines, the start of a query with 500
    operators above each other was not written."""
    stream = one_execution(TPCH, "tpch/q18")
    missing = [e for e in stream if not e["Event"].endswith("SQLExecutionStart")]
    rows = run(missing)
    assert [e.complete for e in of(rows, ExecutionRecord)] == [False]
    application = of(rows, ApplicationRecord)[-1]
    assert (application.complete, application.events_dropped) == (True, 0)


def test_a_loss_counts_for_all_that_ends_after_it() -> None:
    """The plugin tells of a loss while older events still wait in its queue."""
    stream = one_execution(TPCH, "tpch/q18")
    start = next(i for i, e in enumerate(stream) if e["Event"].endswith("SQLExecutionStart"))
    harvest = Harvest(source="live")
    rows = [row for event in stream[:start] for row in harvest.consume(event)]
    (told,) = harvest.consume({"type": "dropped", "events": 2, "time": 1})
    assert isinstance(told, ApplicationRecord)
    assert told.events_dropped == 2
    assert harvest.lost(1) == harvest.consume({"type": "dropped", "events": 2}) == []
    rows += [row for event in stream[start:] for row in harvest.consume(event)]
    assert [e.complete for e in of(rows, ExecutionRecord) if e.status == "succeeded"] == [False]
    assert of(harvest.close(), ApplicationRecord)[-1].events_dropped == 3


def test_equal_boundaries_are_run_by_one_stage() -> None:
    rows = run(one_execution(TPCH, "tpch/q18"))
    ran = Counter(b.stage_id for b in of(rows, BoundaryRecord))
    assert sorted(ran.values()) == [1, 1, 1, 1, 1, 2]
    twice = [b for b in of(rows, BoundaryRecord) if ran[b.stage_id] == 2]
    assert [b.reused for b in twice] == [False, True]
    assert sum(b.reused for b in of(rows, BoundaryRecord)) == 1


@pytest.mark.parametrize(
    ("description", "stored"),
    [
        ("tpch/q18", "tpch/q18"),
        ("collect at job.py:12", "collect at job.py:12"),
        ("select * from people where name = 'Ann'", None),
        ("SELECT secret FROM t", None),
        ("pin='1234'", None),
        ("x" * 500, None),
        (None, None),
    ],
)
def test_descriptions_are_stored_only_when_harmless(
    description: str | None, stored: str | None
) -> None:
    assert harmless(description) == stored


@pytest.mark.parametrize(
    ("name", "job"),
    [
        ("daily-sales 2026-01-31", "daily-sales"),
        ("etl_20260131_eu", "etl-eu"),
        ("tpch", "tpch"),
        ("2026", "2026"),
        (None, None),
    ],
)
def test_job_names_recur(name: str | None, job: str | None) -> None:
    assert job_name(name) == job


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("[DIVIDE_BY_ZERO] Division by zero: secret", "DIVIDE_BY_ZERO"),
        ("java.io.IOException: No space left on device", "java.io.IOException"),
        ("something else", "UNKNOWN"),
        ("", None),
        (None, None),
    ],
)
def test_error_classes(message: str | None, expected: str | None) -> None:
    assert error_class(message) == expected


# --- what no real run writes ----------------------------------------------------------------------


def assert_sound(rows: list[Record]) -> None:
    for row in rows:
        assert row.app_id
        for field in fields(row):
            value = getattr(row, field.name)
            if isinstance(value, int) and field.name.endswith(("_ms", "_bytes", "_rows")):
                assert value >= 0, (row.TABLE, field.name)
    for stage in of(rows, StageRecord):
        if stage.start_ms is not None and stage.end_ms is not None:
            assert stage.start_ms <= stage.end_ms


@settings(max_examples=40)
@given(st.data())
def test_any_cut_of_a_log_is_harvested(data: st.DataObject) -> None:
    stream = one_execution(TPCH, "tpch/q3")
    stop = data.draw(st.integers(0, len(stream)))
    rows = run(stream[:stop], source="live")
    assert_sound(rows)
    if stop < len(stream) - 1 and rows:
        assert not of(rows, ApplicationRecord)[-1].complete


@settings(max_examples=60)
@given(st.data())
def test_lost_and_reordered_events_never_crash(data: st.DataObject) -> None:
    stream = one_execution(TPCH, "tpch/q3")
    whole = len(of(run(stream), StageRecord))
    lost = data.draw(st.sets(st.integers(0, len(stream) - 1), max_size=20))
    stream = [event for i, event in enumerate(stream) if i not in lost]
    for _ in range(data.draw(st.integers(0, 10))):
        a = data.draw(st.integers(0, len(stream) - 1))
        b = data.draw(st.integers(0, len(stream) - 1))
        stream[a], stream[b] = stream[b], stream[a]
    rows = run(stream)
    assert_sound(rows)
    assert len(of(rows, StageRecord)) <= whole


_JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)


def _paths(value: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [here] if here else []
    if isinstance(value, (dict, list)):
        keys: Any = value.keys() if isinstance(value, dict) else range(len(value))
        for key in list(keys)[:40]:
            found += _paths(value[key], (*here, key))
    return found


def _spoil(event: Event, path: tuple[Any, ...], junk: Any) -> None:
    target: Any = event
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = junk


@settings(max_examples=150)
@given(st.data())
def test_fields_of_any_type_never_crash(data: st.DataObject) -> None:
    stream = one_execution(TPCH, "tpch/q6")
    for _ in range(data.draw(st.integers(1, 4))):
        event = stream[data.draw(st.integers(0, len(stream) - 1))]
        paths = [p for p in _paths(event) if p != ("Event",)]
        _spoil(event, data.draw(st.sampled_from(paths)), data.draw(_JUNK))
    assert_sound(run(stream))


@settings(max_examples=100)
@given(st.lists(_JUNK | st.fixed_dictionaries(
    {"type": st.sampled_from(["hello", "boundary", "checkpoint", "dropped", "end", "?"])},
    optional=dict.fromkeys(["execution_id", "app_id", "acc_id", "reason", "predicted", "time",
                            "events", "fingerprint", "event"], _JUNK),
), max_size=8))  # fmt: skip
def test_messages_of_any_type_never_crash(messages: list[Any]) -> None:
    stream = one_execution(TPCH, "tpch/q6")
    assert_sound(run([*stream[:4], *messages, *stream[4:]]))


def test_a_stream_without_an_application_gives_nothing() -> None:
    assert run([]) == []
    assert run([{"Event": "SparkListenerTaskEnd"}, {"nothing": 1}, 3, None]) == []
