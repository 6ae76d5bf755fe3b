"""TPC-H and the benches' TPC-DS queries with checkpoints forced, then restored by another run.

Three applications over the same data, in one JVM, all queries each: without the plugin, with every
eligible boundary checkpointed, and the same again, which restores. Nightly, the same for one
boundary in the middle of each TPC-H plan, and for all of TPC-DS. What ran is read from Spark's
event logs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support import eventlog, home, in_turn, queries, tpc
from tests.support.compare import compare_results

CONF = {
    **queries.SHUFFLE_CONF,
    "spark.sql.shuffle.partitions": "4",
    "spark.sql.autoBroadcastJoinThreshold": "100KB",
    "spark.phoebe.mode": "apply",
    "spark.phoebe.checkpoint.retain": "always",
}
SHUFFLE_HEAVY = tuple(f"tpch/q{n}" for n in (2, 3, 5, 7, 8, 9, 10, 11, 13, 16, 18, 20, 21))
# In q96 an aggregate is over nothing at this scale: no stage runs for its shuffle.
USUAL = (
    *tpc.TPCH_QUERIES,
    *(n for n in tpc.THE_TWELVE if n.startswith("tpcds/")),
    "tpcds/q96",
)


@dataclass(frozen=True)
class Case:
    """Queries, and the boundaries of each that are checkpointed; no names: all of TPC-DS."""

    name: str
    force: str
    names: tuple[str, ...] = ()
    ansi: bool = True

    def queries(self) -> Sequence[str]:
        return self.names or tpc.query_names("tpcds")


@dataclass(frozen=True)
class Ran:
    """An application that ended, its home (if any) and what its event log says."""

    folder: Path
    home: Path
    log: eventlog.AppRun


def _item(name: str) -> queries.Item:
    text = tpc.query(name)
    if name == "tpcds/q30":  # names a column otherwise than the generator does
        text = text.replace("c_last_review_date", "c_last_review_date_sk")
    data = tpc.data("tpch", 0.03) if name in tpc.TPCH_QUERIES else tpc.data("tpcds", 0.1)
    return queries.Item(name, data, sql=text)


def _run(jvm: in_turn.Jvm, folder: Path, home_: Path, case: Case, *, plugin: bool = True) -> Ran:
    spec = queries.write_spec([_item(n) for n in case.queries()], folder)
    settings = {
        "spark.phoebe.home": str(home_),
        "spark.phoebe.force": case.force,
        "spark.sql.ansi.enabled": str(case.ansi).lower(),
    }
    finished = jvm.run(
        folder,
        "tests.support.query_app",
        spec,
        {**CONF, **settings},
        plugin=plugin,
        timeout_s=3600,  # all of TPC-DS takes its time
    )
    return Ran(folder, home_, eventlog.read(finished.event_log))


_LONG = pytest.mark.nightly(
    guarded_by="tests/spark/test_checkpoints_tpc.py::"
    "test_results_are_those_without_the_plugin[usual]"
)
CASES = (
    Case("usual", "all", USUAL),
    pytest.param(Case("middle", "e1", SHUFFLE_HEAVY), marks=_LONG),
    # Two of these texts divide by zero at this scale.
    pytest.param(Case("tpcds", "all", ansi=False), marks=_LONG),
)


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.name)
def case(request: pytest.FixtureRequest) -> Case:
    found = request.param
    assert isinstance(found, Case)
    return found


@pytest.fixture(scope="module")
def base(case: Case, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp(case.name)


@pytest.fixture(scope="module")
def jvm(base: Path) -> Iterator[in_turn.Jvm]:
    with in_turn.Jvm(base / "jvm", driver_memory="1500m") as found:
        yield found


@pytest.fixture(scope="module")
def plain(jvm: in_turn.Jvm, base: Path, case: Case) -> Ran:
    return _run(jvm, base / "plain", base / "no-home", case, plugin=False)


@pytest.fixture(scope="module")
def pair(jvm: in_turn.Jvm, base: Path, case: Case) -> list[Ran]:
    """The application that wrote the checkpoints and the one that restored them."""
    return [_run(jvm, base / f"run{n}", base / "home", case) for n in (1, 2)]


def test_results_are_those_without_the_plugin(plain: Ran, pair: list[Ran]) -> None:
    wrong = {}
    for ran in pair:
        for name in queries.timings(ran.folder):
            expected, actual = (queries.output(r.folder, name) for r in (plain, ran))
            difference = compare_results(expected, actual)
            if difference:
                wrong[ran.folder.name, name] = difference.message
    assert not wrong


def test_checkpoints_were_written_and_restored(pair: list[Ran]) -> None:
    first, second = pair
    committed = _by_query(first, "committed")
    restored = _by_query(second, "restored")
    # Adaptive execution may drop a boundary whose other side turned out to be empty.
    events = home.records(first.home, "checkpoints", first.log.app_id)
    why = {r["reason_code"] for r in events if r["event"] == "abandoned"}
    assert why <= {"not_run", "execution_over"}
    assert len(committed) >= len(queries.timings(first.folder)) // 2
    assert set(restored) == set(committed)


def test_nothing_runs_twice_where_checkpoints_are_written_and_files_freed(pair: list[Ran]) -> None:
    """Spark would compute anew, without a word, what is freed too early."""
    first = pair[0].log
    freed = [
        execution
        for execution in first.executions.values()
        if any(p.metric == "checkpoint freed bytes" and p.value for p in execution.posted)
    ]
    assert len(freed) >= len(queries.timings(pair[0].folder)) // 2
    assert first.ran_twice() == {}


def test_nothing_upstream_of_a_restored_boundary_runs(pair: list[Ran]) -> None:
    """By the first application's plans (the second's end at what is restored)."""
    first, second = pair
    deep = 0
    for name in _by_query(second, "restored"):
        plan = first.log.execution(name).plans[0]
        below = _below(plan, _restored(first, second, name))
        execution = second.log.execution(name)
        allowed = _scans(plan) - below.scans
        ran = Counter(
            _table(node)
            for node in execution.nodes_that_ran()
            if node.name.startswith("Scan parquet")
        )
        assert ran <= allowed, f"{name}: scanned {ran}, of which only {allowed} is not restored"
        writers = [s for s in execution.stages if s.tasks_ended and s.shuffle_write_rows]
        most = len(_exchanges(plan)) - below.exchanges
        most += sum(n.name == "TakeOrderedAndProject" for n in plan.walk())
        assert len(writers) <= most, f"{name}: {len(writers)} stages wrote shuffles, not {most}"
        deep += below.exchanges + sum(below.scans.values()) >= 3  # itself, and two upstream
    assert 2 * deep >= len(queries.timings(second.folder))


@dataclass(frozen=True)
class _Below:
    """What lies at and below the restored boundaries of a query: exchanges and scans by table."""

    exchanges: int
    scans: Counter[str]


def _by_query(ran: Ran, event: str) -> Counter[str]:
    executions = {
        r["execution_id"]: r["description"]
        for r in home.records(ran.home, "executions", ran.log.app_id)
    }
    return Counter(
        str(executions[r["execution_id"]])
        for r in home.records(ran.home, "checkpoints", ran.log.app_id)
        if r["event"] == event
    )


def _exchanges(plan: eventlog.PlanNode) -> list[eventlog.PlanNode]:
    return [n for n in plan.walk() if n.name == "Exchange"]


def _table(scan: eventlog.PlanNode) -> str:
    location = scan.description.partition("Location: ")[2]
    return location.partition("[")[2].partition("]")[0].rpartition("/")[2]


def _scans(plan: eventlog.PlanNode) -> Counter[str]:
    return Counter(_table(n) for n in plan.walk() if n.name.startswith("Scan parquet"))


def _restored(first: Ran, second: Ran, name: str) -> set[str]:
    """The boundary ids, as the first application ranked them, of what the second restored."""
    prints = {
        b["fingerprint"]
        for b in home.boundaries(second.home, second.log.app_id, name)
        if b["decision"] == "restore"
    }
    return {
        str(b["boundary_id"])
        for b in home.boundaries(first.home, first.log.app_id, name)
        if b["fingerprint"] in prints
    }


def _below(plan: eventlog.PlanNode, restored: set[str]) -> _Below:
    assert restored
    exchanges: set[int] = set()
    scans: dict[int, str] = {}
    for rank, exchange in enumerate(_exchanges(plan)):
        if f"e{rank}" in restored:
            for node in exchange.walk():
                if node.name == "Exchange":
                    exchanges.add(id(node))
                if node.name.startswith("Scan parquet"):
                    scans[id(node)] = _table(node)
    return _Below(len(exchanges), Counter(scans.values()))
