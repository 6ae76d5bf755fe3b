"""The state of running stages, jobs and executions. It is dropped when they end."""

from __future__ import annotations

import zlib
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TypeVar

from phoebe_spark import nested_json
from phoebe_spark.harvest._figures import Figures
from phoebe_spark.harvest._lines import ACCUMULABLES_JSON, accumulator_ids
from phoebe_spark.harvest._values import JsonObject, count, integer, items, obj, text, time_ms
from phoebe_spark.plan.nodes import SHUFFLE_WRITE_METRIC, PlanNode, exchange_nodes, parse_plan
from phoebe_spark.plan.templates import Digests, Exchange, exchanges

COPY_TIME_METRIC = "checkpoint copy time"
COPY_BYTES_METRIC = "checkpoint bytes copied"

RESTORED_NODE = "RestoredCheckpoint"
_RESTORED_JSON = f'"nodeName":"{RESTORED_NODE}'.encode()

WRITE_METRICS = frozenset(
    {
        "data size", "number of partitions", "shuffle bytes written", "shuffle records written",
        "shuffle write time", COPY_TIME_METRIC, COPY_BYTES_METRIC,
    }
)  # fmt: skip
"""An exchange's metrics that its writer updates; the others are its readers'."""


_TELLING_TASKS = 8
"""In an event log, accumulators are read from this many tasks of a stage; a stage's completion
lists them all. (The plugin lists each accumulator once, with the first task that updates it.)"""
_MOST_TASKS = 10_000_000  # of one stage; a log with more is damaged
_PACKED = b"\x78"  # the first byte of zlib's data, and never of JSON


@dataclass(slots=True)
class StageState:
    """One stage attempt. Times are milliseconds since the epoch."""

    stage_id: int
    attempt: int
    execution_id: int | None
    job_id: int | None
    name: str | None
    task_count: int
    parent_ids: tuple[int, ...]
    rdd_id: int | None
    submitted_ms: int | None = None
    launched_ms: int | None = None  # its first task; ready stages wait for free slots
    completed_ms: int | None = None
    completed: bool = False
    failure: str | None = None
    succeeded: int = 0
    failed: int = 0
    killed: int = 0
    writes_shuffle: bool | None = None  # None: no task seen
    task_times: Figures = field(default_factory=Figures)
    cpu_ns: int = 0
    gc_ms: int = 0
    input_bytes: int = 0
    input_rows: int = 0
    output_bytes: int = 0
    output_rows: int = 0
    read_bytes: int = 0
    read_rows: int = 0
    write_bytes: int = 0
    write_rows: int = 0
    spill_memory: int = 0
    spill_disk: int = 0
    peak_memory: int = 0
    copy_ms: int = 0
    copied_bytes: int = 0
    read_bytes_max: int = 0
    write_bytes_max: int = 0
    spill_disk_max: int = 0
    # Shuffle bytes of this stage by host, and when the last of them were written.
    on_hosts: dict[str, tuple[int, int]] = field(default_factory=dict)
    accumulators: set[int] = field(default_factory=set)
    seen_tasks: int = 0  # tasks that succeeded at least once
    seen_indexes: bytearray = field(default_factory=bytearray)

    @property
    def order(self) -> tuple[int, int]:
        """Sorts stages by when they could start."""
        return (self.submitted_ms or 0, self.stage_id)

    @property
    def saw_all_tasks(self) -> bool:
        return self.completed and self.failure is None and self.seen_tasks >= self.task_count

    def task_ended(self, event: JsonObject) -> None:
        """Add one ended task. Only successful tasks count for times and bytes."""
        info = obj(event, "Task Info")
        launched = time_ms(info, "Launch Time")
        if launched is not None and (self.launched_ms is None or launched < self.launched_ms):
            self.launched_ms = launched
        reason = obj(event, "Task End Reason").get("Reason")
        self.writes_shuffle = event.get("Task Type") == "ShuffleMapTask"
        copy_ms = copied = 0
        if "Accumulables" in info:
            copy_ms, copied = self._accumulables(items(info, "Accumulables"))
        elif self.succeeded + self.failed + self.killed < _TELLING_TASKS:
            self.accumulators |= accumulator_ids(event.get(ACCUMULABLES_JSON, b""))
        if info.get("Killed") is True or reason == "TaskKilled":
            self.killed += 1
            return
        if reason != "Success" or info.get("Failed") is True:
            self.failed += 1
            return
        self.succeeded += 1
        self._see_task(integer(info.get("Index")) or 0)
        metrics = obj(event, "Task Metrics").get
        run_ms = count(metrics("Executor Run Time"))
        copy_ms = min(copy_ms, run_ms)
        self.task_times.add(run_ms - copy_ms)
        self.copy_ms += copy_ms
        self.copied_bytes += copied
        self.cpu_ns += count(metrics("Executor CPU Time"))
        self.gc_ms += count(metrics("JVM GC Time"))
        self.spill_memory += count(metrics("Memory Bytes Spilled"))
        if spilled := count(metrics("Disk Bytes Spilled")):
            self.spill_disk += spilled
            self.spill_disk_max = max(self.spill_disk_max, spilled)
        self.peak_memory = max(self.peak_memory, count(metrics("Peak Execution Memory")))
        if read := metrics("Shuffle Read Metrics"):
            taken_in = count(read.get("Remote Bytes Read")) + count(read.get("Local Bytes Read"))
            self.read_bytes += taken_in
            self.read_bytes_max = max(self.read_bytes_max, taken_in)
            self.read_rows += count(read.get("Total Records Read"))
        if write := metrics("Shuffle Write Metrics"):
            written = count(write.get("Shuffle Bytes Written"))
            self.write_bytes += written
            self.write_bytes_max = max(self.write_bytes_max, written)
            if written:
                self._hold(text(info.get("Host")) or "", written, time_ms(info, "Finish Time"))
            self.write_rows += count(write.get("Shuffle Records Written"))
        if taken := metrics("Input Metrics"):
            self.input_bytes += count(taken.get("Bytes Read"))
            self.input_rows += count(taken.get("Records Read"))
        if put := metrics("Output Metrics"):
            self.output_bytes += count(put.get("Bytes Written"))
            self.output_rows += count(put.get("Records Written"))

    def _accumulables(self, accumulables: list[object]) -> tuple[int, int]:
        """Add their ids; returns the time, milliseconds, and the bytes of checkpoint copies."""
        copy_ms = copied = 0
        for accumulable in accumulables:
            if not isinstance(accumulable, dict) or accumulable.get("Metadata") != "sql":
                continue
            if (acc_id := integer(accumulable.get("ID"))) is not None:
                self.accumulators.add(acc_id)
            name = accumulable.get("Name")
            if name == COPY_TIME_METRIC:
                copy_ms += count(accumulable.get("Update"))
            elif name == COPY_BYTES_METRIC:
                copied += count(accumulable.get("Update"))
        return copy_ms, copied

    def _hold(self, host: str, written: int, finished: int | None) -> None:
        held, at = self.on_hosts.get(host, (0, 0))
        self.on_hosts[host] = (held + written, max(at, finished or 0))

    def _see_task(self, index: int) -> None:
        """Count each task once: it may succeed again after its output was lost."""
        seen = self.seen_indexes
        if index >= len(seen) and 0 <= index < _MOST_TASKS:
            seen.extend(bytes(max(index + 1, self.task_count) - len(seen)))
        if 0 <= index < len(seen) and not seen[index]:
            seen[index] = 1
            self.seen_tasks += 1

    def stage_info(self, info: JsonObject) -> None:
        """The facts that a stage's start and end events have in common."""
        self.name = text(info.get("Stage Name")) or self.name
        self.task_count = count(info.get("Number of Tasks")) or self.task_count
        self.submitted_ms = time_ms(info, "Submission Time") or self.submitted_ms
        self.completed_ms = time_ms(info, "Completion Time") or self.completed_ms
        self.failure = text(info.get("Failure Reason")) or self.failure
        for accumulable in items(info, "Accumulables"):
            if isinstance(accumulable, dict) and accumulable.get("Metadata") == "sql":
                acc_id = integer(accumulable.get("ID"))
                if acc_id is not None:
                    self.accumulators.add(acc_id)


def first_rdd(info: JsonObject) -> int | None:
    """The RDD that a stage computes: the first of its list. A skipped stage has the same RDD as the
    one that ran (both belong to one shuffle dependency)."""
    for rdd in items(info, "RDD Info"):
        return integer(rdd.get("RDD ID")) if isinstance(rdd, dict) else None
    return None


def parent_ids(info: JsonObject) -> tuple[int, ...]:
    found = (integer(parent) for parent in items(info, "Parent IDs"))
    return tuple(parent for parent in found if parent is not None)


@dataclass(frozen=True, slots=True)
class SeenExchange:
    """An exchange node of any version of an execution's plan."""

    acc_id: int
    template: str
    reuse_key: str
    position: int  # pre-order rank in the plan version that showed it last
    readers: frozenset[int]  # accumulators that its readers update


@dataclass(slots=True)
class JobState:
    job_id: int
    execution_id: int | None
    stage_ids: frozenset[int]
    working: frozenset[int]  # stages that have tasks; with empty inputs stages have none


@dataclass(slots=True)
class ExecutionState:
    """One SQL execution.

    Plans are kept as JSON while it runs, a tenth of their size as objects. Adaptive execution
    reports dozens of plan versions, most of them without anything new. When the execution is over
    (or they take too much memory), the first and the last are parsed. Of those between, as many as
    are needed to explain what ran are parsed, from the last one back.
    """

    execution_id: int
    root_id: int | None = None
    description: str | None = None
    started_ms: int | None = None
    ended_ms: int | None = None
    ended: bool = False
    error: str | None = None
    first: bytes | None = None  # its plan at the start, as JSON, perhaps packed
    later: list[bytes] = field(default_factory=list)  # versions of the plan after it, in order
    seen: dict[int, SeenExchange] = field(default_factory=dict)
    stages: dict[tuple[int, int], StageState] = field(default_factory=dict)
    jobs: set[int] = field(default_factory=set)  # running
    skipped: dict[int, int] = field(default_factory=dict)  # stage that did not run -> its RDD
    messages: list[JsonObject] = field(default_factory=list)  # `boundary` messages
    # Files freed by checkpoints: when, the checkpoint's place, bytes so far.
    freed: list[tuple[int, str | None, int]] = field(default_factory=list)
    boundary_ids: dict[int, str] | None = None  # of the first plan's shuffles, once computed
    restored: bool = False
    damaged: bool = False  # its plan could not be read, or a stage of it was not seen
    end_seen_at: int = 0  # count of events when its end came
    # When it is over:
    initial: PlanNode | None = None
    latest: PlanNode | None = None
    boundaries: tuple[Exchange, ...] = ()  # exchanges of the first plan

    @property
    def plan_bytes(self) -> int:
        return len(self.first or b"") + sum(map(len, self.later))

    def keep_plan(self, plan: bytes, *, first: bool, pack: bool) -> None:
        """Store a version of the plan, compressed to about a tenth of its size if ``pack``."""
        # Event logs have no plugin messages: a restore is recognised by the node that reads it.
        self.restored = self.restored or _RESTORED_JSON in plan
        if pack:
            plan = zlib.compress(plan, 1)
        if first:
            self.first = plan
        else:
            self.later.append(plan)

    def look_at_plans(self) -> None:
        """Make `initial`, `latest`, `boundaries` and `seen` from the stored versions. Raises one of
        ``UNREADABLE`` for broken ones."""
        self.initial = self.latest = self.first_plan()
        if self.initial is not None:
            self.boundaries = exchanges(self.initial)
            for exchange in self.boundaries:
                if exchange.node.shuffle_acc_id not in self.seen:
                    self._see(exchange.node, exchange.template, exchange.reuse_key)
        placed: set[int] = set()
        for version in reversed(self.later):
            plan = _parsed(version)
            if version is self.later[-1]:
                self.latest = plan
            self._see_exchanges(plan, placed)
            if self._all_explained():
                break

    def condense_plans(self) -> None:
        """Parse all versions now, and keep the two that `look_at_plans` needs again."""
        kept, self.later = self.later, self.later[-1:]
        self.look_at_plans()
        for version in kept:
            self._see_exchanges(_parsed(version), set())
        self.initial = self.latest = None
        self.boundaries = ()

    def first_plan(self) -> PlanNode | None:
        """The plan that the execution started with, parsed anew."""
        return _parsed(self.first) if self.first is not None else None

    def boundary_of(self, fingerprint: str) -> str | None:
        """The first plan's first boundary that has this fingerprint in the plugin's messages."""
        named = {
            integer(message.get("acc_id"))
            for message in self.messages
            if message.get("fingerprint") == fingerprint
        }
        if self.boundary_ids is None and named and (plan := self.first_plan()) is not None:
            self.boundary_ids = {
                acc_id: exchange.boundary_id
                for exchange in exchanges(plan)
                if (acc_id := exchange.node.shuffle_acc_id) is not None
            }
        known = self.boundary_ids or {}
        return next((known[acc_id] for acc_id in known if acc_id in named), None)

    def _see_exchanges(self, plan: PlanNode, placed: set[int]) -> None:
        """Add the plan's exchanges to `seen`; those in ``placed`` are there from a newer plan."""
        digests = Digests.of(plan)
        for node in exchange_nodes(plan):
            acc_id = node.shuffle_acc_id
            if acc_id is None or acc_id in placed:
                continue
            placed.add(acc_id)
            known = self.seen.get(acc_id)
            if known is not None:  # the same node as before, perhaps elsewhere in the plan
                self.seen[acc_id] = replace(known, position=node.index)
            else:
                self._see(node, digests.template(node), digests.reuse_key(node))

    def _see(self, node: PlanNode, template: str, reuse_key: str) -> None:
        metrics = node.metrics
        acc_id = metrics.get(SHUFFLE_WRITE_METRIC)
        if acc_id is not None:
            readers = frozenset(i for name, i in metrics.items() if name not in WRITE_METRICS)
            self.seen[acc_id] = SeenExchange(acc_id, template, reuse_key, node.index, readers)

    def _all_explained(self) -> bool:
        """Whether every shuffle that was written, and every one in the plugin's messages, is among
        the exchanges seen so far."""
        told = (integer(message.get("acc_id")) for message in self.messages)
        return all(acc_id is None or acc_id < 0 or acc_id in self.seen for acc_id in told) and all(
            not stage.writes_shuffle or not stage.accumulators.isdisjoint(self.seen)
            for stage in self.stages.values()
        )

    @property
    def settled(self) -> bool:
        """Whether it has ended, and no job or stage of it still runs."""
        return self.ended and not self.jobs and all(s.completed for s in self.stages.values())


def own_accumulators(node: PlanNode) -> Iterator[int]:
    """The accumulators that the stage of ``node`` updates (not those of an exchange's readers)."""
    exchange = node.kind == "Exchange"
    for name, acc_id in node.metrics.items():
        if not exchange or name in WRITE_METRICS:
            yield acc_id


_Key = TypeVar("_Key")
_Value = TypeVar("_Value")
_REMEMBERED = 20_000  # of each kind: integers, oldest forgotten


def remember(known: OrderedDict[_Key, _Value], key: _Key, value: _Value) -> None:
    """Add ``value``, and forget the oldest beyond a bound."""
    known[key] = value
    known.move_to_end(key)
    while len(known) > _REMEMBERED:
        known.popitem(last=False)


def _parsed(plan: bytes) -> PlanNode:
    return parse_plan(nested_json.loads(zlib.decompress(plan) if plan[:1] == _PACKED else plan))
