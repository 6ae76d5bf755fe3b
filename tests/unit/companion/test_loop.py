"""The companion's work: rows, flushes, leases, what is kept when tables cannot be written."""

from __future__ import annotations

import io
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest
from deltalake import DeltaTable

from phoebe_spark.companion import loop
from phoebe_spark.companion.loop import Companion
from phoebe_spark.companion.protocol import Plugin
from phoebe_spark.harvest import Harvest
from phoebe_spark.tables.deltalake import Tables
from phoebe_spark.tables.records import ApplicationRecord, Record

HELLO = {
    "type": "hello",
    "protocol": 1,
    "app_id": "app-1",
    "app_attempt": "2",
    "app_name": "daily 2026-11-20",
    "user": "ann",
    "mode": "observe",
    "slots": 4,
    "time": 1_795_000_000_000,
}


class Clock:
    def __init__(self) -> None:
        self.now = datetime(2026, 11, 20, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def pass_ms(self, ms: int) -> None:
        self.now += timedelta(milliseconds=ms)


class Memory:
    """Tables that can be told to fail."""

    def __init__(self) -> None:
        self.commits: list[list[Record]] = []
        self.broken = False

    def append(self, records: Iterable[Record]) -> int:
        if self.broken:
            raise OSError("No space left on device")
        self.commits.append(list(records))
        return len(self.commits[-1])

    @property
    def rows(self) -> list[Record]:
        return [record for commit in self.commits for record in commit]


class Setup:
    def __init__(self) -> None:
        self.clock = Clock()
        self.tables = Memory()
        self.pipe = io.BytesIO()
        self.companion = Companion(
            Harvest(clock=self.clock),
            lambda: self.tables,
            Plugin(self.pipe),
            flush_ms=1000,
            lease_ms=3000,
            now=self.clock,
        )

    @property
    def said(self) -> list[dict[str, Any]]:
        return [orjson.loads(line) for line in self.pipe.getvalue().splitlines()]

    @property
    def applications(self) -> list[ApplicationRecord]:
        return [row for row in self.tables.rows if isinstance(row, ApplicationRecord)]


def test_nothing_is_written_before_the_flush_interval_and_all_in_one_commit_then() -> None:
    setup = Setup()
    setup.companion.take(HELLO)
    setup.clock.pass_ms(999)
    setup.companion.tick()
    assert setup.tables.commits == []
    setup.clock.pass_ms(1)
    setup.companion.tick()
    assert len(setup.tables.commits) == 1
    (row,) = setup.applications
    assert (row.app_id, row.app_attempt, row.status) == ("app-1", "2", "running")


def test_the_lease_is_renewed_three_times_in_its_length() -> None:
    setup = Setup()
    setup.companion.take(HELLO)
    for _ in range(9):
        setup.clock.pass_ms(1000)
        setup.companion.tick()
        lease = setup.applications[-1].lease_until
        assert lease is not None
        assert lease - setup.clock.now >= timedelta(milliseconds=2000)
    assert 8 <= len(setup.applications) <= 10


def test_end_of_input_without_an_end_is_an_aborted_application() -> None:
    for end, status, complete in (([], "aborted", False), ([{"type": "end"}], "finished", True)):
        setup = Setup()
        for message in [HELLO, *end]:
            setup.companion.take(message)
        assert setup.companion.close()
        last = setup.applications[-1]
        assert (last.status, last.complete) == (status, complete)


def test_rows_wait_for_tables_that_cannot_be_written_and_the_driver_is_told_once() -> None:
    setup = Setup()
    setup.tables.broken = True
    setup.companion.take(HELLO)
    for _ in range(3):
        setup.clock.pass_ms(1000)
        setup.companion.tick()
    assert setup.companion.waiting >= 1
    assert [m["level"] for m in setup.said] == ["warning"]
    assert "No space left on device" in setup.said[0]["message"]
    setup.tables.broken = False
    assert setup.companion.close()
    assert setup.applications[0].status == "running"
    assert setup.applications[-1].status == "aborted"


def test_rows_that_cannot_be_stored_at_the_end_are_an_error() -> None:
    setup = Setup()
    setup.tables.broken = True
    setup.companion.take(HELLO)
    assert not setup.companion.close()
    assert setup.said[-1]["level"] == "error"


def test_an_unreadable_line_makes_the_run_incomplete() -> None:
    setup = Setup()
    setup.companion.take(HELLO)
    setup.companion.unreadable(b"}{")
    setup.companion.take({"type": "end"})
    setup.companion.close()
    last = setup.applications[-1]
    assert (last.status, last.complete, last.events_dropped) == ("finished", False, 1)


def test_losses_here_and_in_the_plugin_add_up() -> None:
    setup = Setup()
    for message in (HELLO, {"type": "dropped", "events": 5}):
        setup.companion.take(message)
    setup.companion.unreadable(b"}{")
    setup.companion.take({"type": "end"})
    setup.companion.close()
    assert setup.applications[-1].events_dropped == 6


def test_rows_that_found_no_room_make_the_run_incomplete(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "MAX_WAITING_ROWS", 3)
    setup = Setup()
    setup.companion.take(HELLO)
    for number in range(4):
        setup.companion.take(
            {"Event": "SparkListenerExecutorAdded", "Executor ID": str(number),
             "Executor Info": {"Total Cores": 1}}
        )  # fmt: skip
    setup.companion.take({"type": "end"})
    setup.companion.close()
    last = setup.applications[-1]
    assert (last.status, last.complete) == ("finished", False)
    assert last.events_dropped >= 2


def test_a_failure_inside_harvest_does_not_end_the_companion() -> None:
    class Failing(Harvest):
        def consume(self, event: object) -> list[Record]:
            if isinstance(event, dict) and event.get("Event") == "boom":
                raise RuntimeError("boom")
            return super().consume(event)

    setup = Setup()
    setup.companion._harvest = Failing(clock=setup.clock)
    for message in (HELLO, {"Event": "boom"}, {"Event": "boom"}, {"type": "end"}):
        setup.companion.take(message)
    assert setup.companion.close()
    assert [m["level"] for m in setup.said] == ["warning"]
    assert setup.applications[-1].status == "finished"
    assert setup.applications[-1].events_dropped == 2


def test_a_broken_pipe_is_remembered_not_raised() -> None:
    pipe = io.BytesIO()
    plugin = Plugin(pipe)
    pipe.close()
    plugin.log("info", "nobody listens")
    assert plugin.broken


def test_one_commit_per_table_and_flush_interval(tmp_path: Path) -> None:
    """With real tables: however many events come, a table grows by one version per flush."""
    clock, tables = Clock(), Tables(tmp_path)
    companion = Companion(
        Harvest(clock=clock),
        lambda: tables,
        Plugin(io.BytesIO()),
        flush_ms=1000,
        lease_ms=60_000,
        now=clock,
    )
    companion.take(HELLO)
    for second in range(3):
        for n in range(40):
            clock.pass_ms(25)
            number = 40 * second + n
            companion.take(
                {
                    "Event": "SparkListenerExecutorAdded",
                    "Timestamp": 1_795_000_000_000 + number,
                    "Executor ID": str(number),
                    "Executor Info": {"Host": "h", "Total Cores": 1},
                }
            )
            companion.tick()
    assert DeltaTable(tables.path("executors")).version() == 2  # three commits, from 0
    assert DeltaTable(tables.path("applications")).version() <= 2
    assert tables.read("executors").num_rows == 120
