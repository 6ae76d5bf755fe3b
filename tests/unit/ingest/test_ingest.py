"""``phoebe ingest``: real logs into tables, twice, cut off, damaged."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import orjson
import pytest
import zstandard
from deltalake import DeltaTable

from phoebe_spark import nested_json
from phoebe_spark.harvest import Harvest
from phoebe_spark.ingest.eventlog import EventReader
from phoebe_spark.ingest.finding import find_logs
from phoebe_spark.ingest.run import ingest
from phoebe_spark.ingest.summary import IngestProgress
from phoebe_spark.plan.nodes import parse_plan
from phoebe_spark.plan.templates import exchanges
from phoebe_spark.tables.deltalake import Tables

LOGS = Path(__file__).parents[2] / "data" / "eventlogs"
TPCH = LOGS / "01-tpch-sf0.1-p8.zstd"


@pytest.fixture(scope="module")
def lines() -> list[bytes]:
    (source,) = find_logs([TPCH])
    return [orjson.dumps(event) for event in EventReader(source)]


def status(home: Path) -> list[tuple[str, bool]]:
    rows = Tables(home).read("applications").to_pylist()
    return [(row["status"], row["complete"]) for row in rows]


def test_a_log_is_taken_in_once(tmp_path: Path) -> None:
    seen: list[IngestProgress] = []
    first = ingest([TPCH], tmp_path, seen.append)
    assert (first.files, first.applications, first.executions, first.stages) == (1, 1, 30, 148)
    assert (first.skipped, first.aborted, first.bad_lines, first.errors) == (0, 0, 0, ())
    assert status(tmp_path) == [("finished", True)]
    assert seen[-1].events == first.events > 1000
    tables = Tables(tmp_path)
    assert tables.read("stages").num_rows == 148
    assert tables.read("boundaries").num_rows > 40
    versions = tables.read("stages", latest=False).num_rows

    again = ingest([TPCH], tmp_path)
    assert (again.applications, again.skipped, again.rows) == (0, 1, 0)
    assert tables.read("stages", latest=False).num_rows == versions


def test_a_log_cut_off_is_aborted_and_read_again_when_it_has_grown(
    tmp_path: Path, lines: list[bytes]
) -> None:
    home, log = tmp_path / "home", tmp_path / "app.inprogress"
    half = lines[: len(lines) // 2]
    log.write_bytes(b"\n".join(half) + b"\n" + lines[len(half)][:30])
    first = ingest([log], home)
    assert (first.applications, first.aborted) == (1, 1)
    assert status(home) == [("aborted", False)]
    assert 0 < first.stages < 148

    assert ingest([log], home).skipped == 1

    log.write_bytes(b"\n".join(lines) + b"\n")
    grown = ingest([log], home)
    assert (grown.applications, grown.skipped) == (1, 0)
    assert status(home) == [("finished", True)]
    assert Tables(home).read("stages").num_rows == 148


def test_lost_lines_make_the_application_incomplete(tmp_path: Path, lines: list[bytes]) -> None:
    log = tmp_path / "app"
    spoiled = [b"\x00garbage" if n == 700 else line for n, line in enumerate(lines)]
    log.write_bytes(b"\n".join(spoiled) + b"\n")
    summary = ingest([log], tmp_path / "home")
    assert (summary.applications, summary.bad_lines) == (1, 1)
    assert status(tmp_path / "home") == [("finished", False)]
    rows = Tables(tmp_path / "home").read("executions").to_pylist()
    assert 0 < sum(row["complete"] for row in rows) < len(rows), "those that were over are whole"


def test_what_cannot_be_read_does_not_stop_the_rest(tmp_path: Path, lines: list[bytes]) -> None:
    logs = tmp_path / "logs"
    logs.mkdir()
    (logs / "a-note.txt").write_text("not a log\n")
    (logs / "b-other.json").write_text('{"some": "json"}\n')
    (logs / "c-empty").touch()
    (logs / "d-app.zstd").write_bytes(
        zstandard.ZstdCompressor().compress(b"\n".join(lines) + b"\n")
    )
    summary = ingest([logs], tmp_path / "home")
    assert (summary.files, summary.applications) == (4, 1)
    assert {Path(error.path).name for error in summary.errors} == {
        "a-note.txt", "b-other.json", "c-empty",
    }  # fmt: skip
    assert all(error.reason for error in summary.errors)


def test_a_spool_has_what_an_event_log_has_not_and_is_kept(
    tmp_path: Path, lines: list[bytes]
) -> None:
    home, spool = tmp_path / "home", tmp_path / "local-1.ndjson"
    app_id = next(event["App ID"] for event in map(orjson.loads, lines) if "App ID" in event)
    hello = {"type": "hello", "protocol": 1, "app_id": app_id, "app_attempt": "",
             "app_name": "tpch", "mode": "observe", "slots": 2, "time": 1795211603812}  # fmt: skip
    body = [orjson.dumps(hello), *lines, orjson.dumps({"type": "end", "time": 1})]
    spool.write_bytes(b"\n".join(body) + b"\n")
    assert ingest([spool], home).applications == 1
    assert Tables(home).read("applications").to_pylist()[0]["source"] == "spool"
    # The same application's event log knows less: it must not hide what the plugin said.
    assert ingest([TPCH], home).skipped == 1


def spool_lines(lines: list[bytes], **changes: object) -> list[bytes]:
    """A spool of the same application, in which the plugin decided on every boundary."""
    app_id = next(event["App ID"] for event in map(orjson.loads, lines) if "App ID" in event)
    hello = {"type": "hello", "protocol": 1, "app_id": app_id, "app_attempt": "",
             "app_name": "tpch", "mode": "apply", "slots": 2, "time": 1795211603812,
             **changes}  # fmt: skip
    found = [orjson.dumps(hello)]
    for line in lines:
        event = orjson.loads(line)
        found.append(line)
        if event["Event"].endswith("SQLExecutionStart"):
            for exchange in exchanges(parse_plan(event["sparkPlanInfo"])):
                message = {"type": "boundary", "execution_id": event["executionId"],
                           "acc_id": exchange.node.shuffle_acc_id, "decision": "skip",
                           "fingerprint": f"f-{exchange.boundary_id}",
                           "reason": {"code": "no_gain", "args": {}, "message": "no"}}  # fmt: skip
                found.append(orjson.dumps(message))
    return [*found, orjson.dumps({"type": "end", "time": 1})]


def facts(home: Path) -> tuple[object, ...]:
    """What the tables say in the end, whatever was read in which order."""
    tables = Tables(home)
    (application,) = tables.read("applications").to_pylist()
    boundaries = tables.read("boundaries").to_pylist()
    executions = tables.read("executions").to_pylist()
    return (
        (application["status"], application["complete"], application["mode"]),
        sum(row["complete"] for row in executions),
        sum(row["decision"] == "skip" for row in boundaries),
        sum(row["stage_id"] is not None for row in boundaries),
        len(boundaries),
    )


def test_a_log_and_a_lossy_spool_settle_whichever_comes_first(
    tmp_path: Path, lines: list[bytes]
) -> None:
    spool = tmp_path / "local-1.ndjson"
    spool.write_bytes(b"\n".join(spool_lines(lines, continued=True)) + b"\n")
    found = []
    for name, order in (("a", [TPCH, spool]), ("b", [spool, TPCH])):
        home = tmp_path / name
        assert [ingest([log], home).applications for log in order] == [1, 1]
        versions = [Tables(home).read(t, latest=False).num_rows for t in ("stages", "boundaries")]
        again = ingest(order, home)
        assert (again.skipped, again.rows) == (2, 0)
        assert versions == [
            Tables(home).read(t, latest=False).num_rows for t in ("stages", "boundaries")
        ]
        found.append(facts(home))
    assert found[0] == found[1]
    (status_, complete, decided, tied, boundaries) = found[0]
    assert status_ == ("finished", True, "apply")
    assert (complete, decided) == (30, boundaries)
    assert 0 < tied <= boundaries


def test_a_spool_goes_on_where_a_live_run_was_cut(tmp_path: Path, lines: list[bytes]) -> None:
    """The companion died: what it stored and what was spooled then are parts of one run."""
    said = spool_lines(lines)
    half = len(said) // 2
    harvest = Harvest(source="live")
    tables = Tables(tmp_path)
    tables.append([row for line in said[:half] for row in harvest.consume(orjson.loads(line))])
    before = {row["execution_id"] for row in tables.read("executions").to_pylist()}
    spool = tmp_path / "local-1.ndjson"
    spool.write_bytes(b"\n".join([spool_lines(lines, continued=True)[0], *said[half:]]) + b"\n")
    assert ingest([spool], tmp_path).applications == 1
    after = {row["execution_id"] for row in tables.read("executions").to_pylist()}
    assert before < after
    assert len(after) == 30
    assert status(tmp_path) == [("finished", False)]
    assert ingest([spool], tmp_path).skipped == 1


def test_a_file_cut_off_in_the_middle_of_a_log_is_a_loss(
    tmp_path: Path, lines: list[bytes]
) -> None:
    log = tmp_path / "eventlog_v2_app"
    log.mkdir()
    half = len(lines) // 2
    (log / "events_1_app").write_bytes(b"\n".join(lines[:half]) + b"\n" + lines[half][:30])
    (log / "events_2_app").write_bytes(b"\n".join(lines[half + 1 :]) + b"\n")
    ingest([log], tmp_path / "home")
    (application,) = Tables(tmp_path / "home").read("applications").to_pylist()
    assert (application["status"], application["complete"]) == ("finished", False)
    assert application["events_dropped"] == 1
    executions = Tables(tmp_path / "home").read("executions").to_pylist()
    assert 0 < sum(row["complete"] for row in executions) < len(executions)


def test_a_home_that_cannot_be_written_raises(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.write_text("a file")
    with pytest.raises(Exception, match=r"(?i)not a directory|exists|file|directory"):
        ingest([TPCH], home)


# --- what is odd, old or double ------------------------------------------------------------------


def changed(lines: list[bytes], **fields: object) -> bytes:
    """The log with fields of its application's start, or of its first line, replaced."""
    found = []
    for line in lines:
        event = orjson.loads(line)
        if event["Event"] == "SparkListenerApplicationStart":
            event |= {name: value for name, value in fields.items() if name in event}
        if event["Event"] == "SparkListenerLogStart" and "version" in fields:
            event["Spark Version"] = fields["version"]
        found.append(orjson.dumps(event))
    return b"\n".join(found) + b"\n"


def test_what_is_wrong_is_said_by_name_and_the_rest_is_read(
    tmp_path: Path, lines: list[bytes]
) -> None:
    logs = tmp_path / "logs"
    (logs / "deep" / "eventlog_v2_none").mkdir(parents=True)
    (logs / "deep" / "app").write_bytes(changed(lines))
    (logs / "deep" / "another").write_bytes(changed(lines, Timestamp=1))
    (logs / "image.png").write_bytes(bytes(range(256)) * 100)
    missing = tmp_path / "not-there"
    summary = ingest([missing, logs], tmp_path / "home")
    assert summary.applications == 1
    reasons = {Path(error.path).name: error.reason for error in summary.errors}
    assert set(reasons) == {"not-there", "eventlog_v2_none", "image.png", "app"}
    assert "no such file" in reasons["not-there"]
    assert "no application" in reasons["eventlog_v2_none"]
    assert "not JSON" in reasons["image.png"]
    assert "two applications with one id" in reasons["app"]
    assert summary.files == 4
    assert summary.files - summary.applications == len(summary.errors) - 1, "one path was no file"


def test_a_newer_spark_is_read_as_far_as_it_is_known(tmp_path: Path, lines: list[bytes]) -> None:
    log = tmp_path / "app"
    log.write_bytes(changed(lines, version="5.1.0"))
    summary = ingest([log], tmp_path / "home")
    assert (summary.applications, summary.incomplete) == (1, 0)
    ((path, reason),) = [(warning.path, warning.reason) for warning in summary.warnings]
    assert (path, "Spark 5.1.0, newer than 4.2" in reason) == (str(log), True)


def test_a_clock_that_jumps_back_makes_its_executions_incomplete(
    tmp_path: Path, lines: list[bytes]
) -> None:
    found = []
    for line in lines:
        event = orjson.loads(line)
        if event["Event"].endswith("SQLExecutionEnd") and event["executionId"] == 12:
            event["time"] -= 3_600_000
        found.append(orjson.dumps(event))
    log = tmp_path / "app"
    log.write_bytes(b"\n".join(found) + b"\n")
    summary = ingest([log], tmp_path / "home")
    assert [w.path for w in summary.warnings] == [str(log)]
    assert "clock was set back" in summary.warnings[0].reason
    rows = Tables(tmp_path / "home").read("executions").to_pylist()
    assert [row["execution_id"] for row in rows if not row["complete"]] == [12]
    assert all(row["duration_ms"] >= 0 for row in rows)


def deepened(line: bytes, operators: int) -> bytes:
    """The event with that many projections below the root of its plan."""
    event = orjson.loads(line)
    plan = event["sparkPlanInfo"]
    below = plan["children"]
    for _ in range(operators):
        text = "Project [k#1L, v#2L]"
        below = [{"nodeName": "Project", "simpleString": text, "children": below, "metadata": {},
                  "metrics": []}]  # fmt: skip
    return nested_json.dumps(event | {"sparkPlanInfo": {**plan, "children": below}})


@pytest.mark.parametrize("operators", [130, 600, 2_000])
def test_a_plan_of_any_depth_is_a_query_like_others(
    tmp_path: Path, lines: list[bytes], operators: int
) -> None:
    log, deep = tmp_path / "app", list(lines)
    for n, line in enumerate(lines):
        if b'"sparkPlanInfo"' in line and b'"executionId":20,' in line:
            deep[n] = deepened(line, operators)
    log.write_bytes(b"\n".join(deep) + b"\n")
    summary = ingest([log], tmp_path / "home")
    assert (summary.bad_lines, summary.incomplete, summary.warnings) == (0, 0, ())
    ingest([TPCH], tmp_path / "plain")
    found, plain = (
        {row["execution_id"]: row for row in Tables(home).read("executions").to_pylist()}
        for home in (tmp_path / "home", tmp_path / "plain")
    )
    assert all(row["complete"] for row in found.values())
    told = [(row["boundary_count"], row["stage_count"]) for row in found.values()]
    assert told == [(row["boundary_count"], row["stage_count"]) for row in plain.values()]


def test_a_plan_that_cannot_be_read_costs_its_query_alone(
    tmp_path: Path, lines: list[bytes]
) -> None:
    log, spoiled = tmp_path / "app", list(lines)
    for n, line in enumerate(lines):
        if b'"sparkPlanInfo"' in line and b'"executionId":20,' in line:
            spoiled[n] = line.replace(b'"children":[{', b'"children":[7,{')
    log.write_bytes(b"\n".join(spoiled) + b"\n")
    summary = ingest([log], tmp_path / "home")
    assert (summary.incomplete, len(summary.warnings)) == (0, 1)
    assert "1 queries have plans that no Spark writes" in summary.warnings[0].reason
    rows = Tables(tmp_path / "home").read("executions").to_pylist()
    assert [row["execution_id"] for row in rows if not row["complete"]] == [20]
    assert status(tmp_path / "home") == [("finished", True)]


def test_only_recent_logs(tmp_path: Path, lines: list[bytes]) -> None:
    logs = tmp_path / "logs"
    logs.mkdir()
    for name, written in (("old", 1_700_000_000), ("new", 1_800_000_000)):
        (logs / name).write_bytes(changed(lines, **{"App ID": name}))
        os.utime(logs / name, (written, written))
    since = datetime.fromtimestamp(1_750_000_000, tz=UTC)
    summary = ingest([logs], tmp_path / "home", since=since)
    assert (summary.files, summary.too_old, summary.applications) == (2, 1, 1)
    (row,) = Tables(tmp_path / "home").read("applications").to_pylist()
    assert row["app_id"] == "new"


def test_several_processes_give_what_one_gives(tmp_path: Path, lines: list[bytes]) -> None:
    logs = tmp_path / "logs"
    logs.mkdir()
    for name in ("a", "b", "c"):
        (logs / name).write_bytes(changed(lines, **{"App ID": name}))
    (logs / "copy-of-c").write_bytes(changed(lines, **{"App ID": "c"}))
    (logs / "d.txt").write_text("not a log")
    seen: list[IngestProgress] = []
    summary = ingest([logs], tmp_path / "two", seen.append, parallel=2)
    assert (summary.files, summary.applications, summary.skipped) == (5, 3, 1)
    assert [Path(error.path).name for error in summary.errors] == ["d.txt"]
    assert seen[-1].file == seen[-1].files == 5
    one = ingest([logs], tmp_path / "one")
    assert (one.rows, one.events, one.stages) == (summary.rows, summary.events, summary.stages)
    assert ingest([logs], tmp_path / "two", parallel=2).rows == 0


def test_small_logs_share_their_commits(tmp_path: Path, lines: list[bytes]) -> None:
    logs, home = tmp_path / "logs", tmp_path / "home"
    logs.mkdir()
    for name in ("a", "b", "c"):
        (logs / name).write_bytes(changed(lines, **{"App ID": name}))
    assert ingest([logs], home).applications == 3
    tables = Tables(home)
    assert tables.read("applications").num_rows == 3
    paths = (tables.path(name) for name in ("applications", "executions", "stages"))
    assert {DeltaTable(path).version() for path in paths} == {0}
