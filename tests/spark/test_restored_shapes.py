"""Queries of many shapes, written in one application and restored in another, with plain rows.

Three applications over the same tables: without the plugin, with every eligible boundary
checkpointed, and the same again, which restores, in another JVM than they: what differs from one
process to the next must not be in a fingerprint. Then a fourth, whose user functions have changed.
What ran is read from Spark's event logs.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support import delta, eventlog, home, in_turn
from tests.support.places import ivy_home
from tests.support.shapes_app import FACT_ROWS, KEYS, ZONES, write_tables
from tests.support.traps import TRAPS

CONF = {
    "spark.sql.shuffle.partitions": "4",
    "spark.sql.autoBroadcastJoinThreshold": "-1",
    "spark.sql.files.minPartitionNum": "8",  # no two files in one map task
    "spark.sql.maxMetadataStringLength": "1000",  # plans in event logs are whole
    "spark.sql.catalogImplementation": "in-memory",
    **delta.SETTINGS,
}
PACKAGES = {"spark.jars.packages": delta.PACKAGE}
HALF = """
def half(value):
    return value // 2
"""
EDITED = """
def half(value):
    return value // 2 + 1000
"""
UDFS = ("python_udf", "pandas_udf")


@dataclass(frozen=True)
class Shape:
    """What a query's plan shows.

    ``marker`` is in a node of the plan; with ``always`` also in the run that restores, since the
    node is above what is restored. ``refused`` is why some of its boundaries have no fingerprint.
    """

    name: str
    marker: str
    always: bool = True
    refused: str | None = None


SHAPES = (
    Shape("window", "Window"),
    Shape("subqueries", "Subquery"),
    Shape("skew_join", "SortMergeJoin(skew=true)"),
    Shape("local_reader_of_many_maps", "AQEShuffleRead local"),
    Shape("local_reader_of_few_maps", "AQEShuffleRead local"),
    Shape("dynamic_pruning_by_restored_rows", "dynamicpruning"),
    Shape("dynamic_pruning_below", "dynamicpruning", always=False),
    Shape("bloom_filter", "might_contain", always=False),
    Shape("bloom_filter_of_restored_rows", "might_contain", refused="udf"),
    Shape("python_udf", "BatchEvalPython", refused="udf"),
    Shape("pandas_udf", "ArrowEvalPython", refused="udf"),
    Shape("delta", "PreparedDeltaFileIndex", always=False),
    Shape("cached", "InMemoryTableScan", refused="cached_relation"),
    Shape("sessions", "Exchange"),
)
NAMES = [*(s.name for s in SHAPES), *TRAPS]


@dataclass(frozen=True)
class Ran:
    """An application that ended: its rows, its event log and what its home says, by shape."""

    rows: dict[str, list[list[Any]]]
    log: eventlog.AppRun
    executions: dict[int, str]
    boundaries: list[dict[Any, Any]]
    checkpoints: list[dict[Any, Any]]

    def plans(self, shape: str) -> Iterator[eventlog.PlanNode]:
        """The last plan of each of its executions."""
        return (e.plans[-1] for e in self.log.executions.values() if e.description == shape)

    def nodes(self, shape: str) -> Iterator[eventlog.PlanNode]:
        for plan in self.plans(shape):
            yield from plan.walk()

    def shows(self, shape: str, marker: str) -> bool:
        return any(marker in f"{n.name} {n.description}" for n in self.nodes(shape))

    def decided(self, shape: str) -> list[dict[Any, Any]]:
        return [b for b in self.boundaries if self.executions.get(b["execution_id"]) == shape]

    def events(self, shape: str, event: str) -> list[dict[Any, Any]]:
        """Its checkpoints that were ``committed``, ``restored`` and so on."""
        return [
            c
            for c in self.checkpoints
            if c["event"] == event and self.executions.get(c["execution_id"]) == shape
        ]

    def prints(self, shape: str, event: str) -> Counter[str]:
        return Counter(str(c["fingerprint"]) for c in self.events(shape, event))


def run(
    jvm: in_turn.Jvm, folder: Path, name: str, shapes: Sequence[str], *, plugin: bool = True
) -> Ran:
    here = folder / name
    here.mkdir()
    told = {
        "tables": str(folder / "tables"), "module": str(folder / "halving.py"),
        "shapes": shapes, "result": str(here / "said.json"),
    }  # fmt: skip
    (here / "spec.json").write_text(json.dumps(told))
    place = folder / "home"
    ours = {
        "spark.phoebe.home": str(place),
        "spark.phoebe.mode": "apply",
        "spark.phoebe.force": "all",
        "spark.phoebe.checkpoint.retain": "always",
    }
    finished = jvm.run(
        here / "app",
        "tests.support.shapes_app",
        here / "spec.json",
        {**CONF, **(ours if plugin else {})},
        plugin=plugin,
    )
    log = eventlog.read(finished.event_log)
    rows = json.loads((here / "said.json").read_text())
    if not plugin:
        return Ran(rows, log, {}, [], [])
    executions = home.records(place, "executions", log.app_id)
    return Ran(
        rows,
        log,
        {e["execution_id"]: str(e["description"]) for e in executions},
        home.records(place, "boundaries", log.app_id),
        home.records(place, "checkpoints", log.app_id),
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("shapes")
    write_tables(found / "tables")
    (found / "halving.py").write_text(HALF)
    return found


def process(folder: Path, name: str) -> in_turn.Jvm:
    home_of_ivy = {"SPARK_SUBMIT_OPTS": f"-Duser.home={ivy_home()}"}
    return in_turn.Jvm(folder / name, conf=PACKAGES, environment=home_of_ivy)


@pytest.fixture(scope="module")
def first(folder: Path) -> tuple[Ran, Ran]:
    """Without the plugin, and written."""
    with process(folder, "first") as jvm:
        return run(jvm, folder, "plain", NAMES, plugin=False), run(jvm, folder, "wrote", NAMES)


@pytest.fixture(scope="module")
def second(folder: Path, first: tuple[Ran, Ran]) -> tuple[Ran, Ran]:
    """Restored, and with edited functions; what wrote has ended."""
    assert first[1].checkpoints
    with process(folder, "second") as jvm:
        restored = run(jvm, folder, "restored", NAMES)
        assert restored.checkpoints
        (folder / "halving.py").write_text(EDITED)
        return restored, run(jvm, folder, "edited", UDFS)


@pytest.fixture(scope="module")
def plain(first: tuple[Ran, Ran]) -> Ran:
    return first[0]


@pytest.fixture(scope="module")
def wrote(first: tuple[Ran, Ran]) -> Ran:
    return first[1]


@pytest.fixture(scope="module")
def restored(second: tuple[Ran, Ran]) -> Ran:
    return second[0]


@pytest.fixture(scope="module")
def edited(second: tuple[Ran, Ran]) -> Ran:
    return second[1]


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_rows_are_the_plain_runs_whether_written_or_restored(
    plain: Ran, wrote: Ran, restored: Ran, shape: Shape
) -> None:
    assert len(plain.rows[shape.name]) >= 3
    assert wrote.rows[shape.name] == plain.rows[shape.name]
    assert restored.rows[shape.name] == plain.rows[shape.name]


@pytest.mark.parametrize("trap", TRAPS)
def test_what_broke_others_gives_the_plain_runs_rows(
    plain: Ran, wrote: Ran, restored: Ran, trap: str
) -> None:
    assert plain.rows[trap]
    assert wrote.rows[trap] == plain.rows[trap]
    assert restored.rows[trap] == plain.rows[trap]
    if TRAPS[trap].restores:
        assert restored.prints(trap, "restored")


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_what_was_committed_is_restored(wrote: Ran, restored: Ran, shape: Shape) -> None:
    for ran in (wrote, restored)[: 2 if shape.always else 1]:
        assert ran.shows(shape.name, shape.marker)
    assert wrote.prints(shape.name, "committed")
    found = restored.prints(shape.name, "restored")
    assert found
    assert set(found) <= set(wrote.prints(shape.name, "committed"))
    assert not wrote.prints(shape.name, "restored")
    for ran in (wrote, restored):
        refused = {b["reason_code"] for b in ran.decided(shape.name) if b["decision"] == "refuse"}
        assert refused == ({shape.refused} if shape.refused else set())


def test_the_plain_run_has_the_same_shapes(plain: Ran) -> None:
    assert [s.name for s in SHAPES if not plain.shows(s.name, s.marker)] == []


def _over_restored(ran: Ran, shape: str, description: str) -> list[eventlog.PlanNode]:
    """Nodes of that description right above the stage of a restored boundary."""
    return [
        node
        for node in ran.nodes(shape)
        if description in f"{node.name} {node.description}"
        and any(_is_restored_stage(child) for child in node.children)
    ]


def _is_restored_stage(stage: eventlog.PlanNode) -> bool:
    return stage.name.endswith("QueryStage") and "RestoredCheckpoint" in [
        leaf.name for exchange in stage.children for leaf in exchange.children
    ]


@pytest.mark.parametrize(
    ("shape", "reader", "maps"),
    [
        ("local_reader_of_many_maps", "AQEShuffleRead local", 8),
        ("local_reader_of_few_maps", "AQEShuffleRead local", 2),
        ("skew_join", "skewed", 8),
    ],
)
def test_a_reader_of_parts_of_map_outputs_reads_a_restored_checkpoint(
    restored: Ran, shape: str, reader: str, maps: int
) -> None:
    """There are four reducers: of more map outputs each task takes some, of fewer a part of one."""
    assert _over_restored(restored, shape, reader)
    assert maps in {c["map_count"] for c in restored.events(shape, "restored")}
    stages = restored.log.stages_of(shape)
    assert sum(s.shuffle_read_remote_bytes for s in stages) > 0  # all that a store gives
    assert sum(s.shuffle_read_local_bytes for s in stages) == 0
    assert sum(s.shuffle_write_bytes for s in stages) == 0


def test_restored_rows_prune_and_filter_what_is_read_beside_them(restored: Ran) -> None:
    for shape in ("dynamic_pruning_by_restored_rows", "bloom_filter_of_restored_rows"):
        assert restored.shows(shape, "RestoredCheckpoint"), shape
    nodes = list(restored.nodes("bloom_filter_of_restored_rows"))
    subqueries = [n for n in nodes if n.name.startswith("Subquery")]
    assert any("RestoredCheckpoint" in [m.name for m in s.walk()] for s in subqueries)


def test_sessions_restore_what_their_own_settings_gave(wrote: Ran, restored: Ran) -> None:
    by_zone = {zone: [r[1:] for r in wrote.rows["sessions"] if r[0] == zone] for zone in ZONES}
    assert by_zone["Asia/Tokyo"] != by_zone["UTC"][: len(by_zone["UTC"]) // 2]
    assert len(restored.prints("sessions", "restored")) == len(set(ZONES))
    assert restored.prints("sessions", "restored").total() == len(ZONES)


def halved(half: int) -> list[list[int]]:
    """The rows of a UDF's query, by this module; ``half`` is added to what the function gives."""
    sums: Counter[int] = Counter()
    for i in range(FACT_ROWS):
        sums[i % KEYS] += i % 97
    return _as_rows(Counter(s // 2 + half for s in sums.values()).items())


def _as_rows(found: Iterable[tuple[int, int]]) -> list[list[int]]:
    return sorted(([a, b] for a, b in found), key=repr)


@pytest.mark.parametrize("shape", UDFS)
def test_an_edited_function_gives_its_own_rows_over_what_is_restored_below_it(
    wrote: Ran, restored: Ran, edited: Ran, shape: str
) -> None:
    """Spark pickles a function of an imported module as its name, which is what it was."""
    assert restored.rows[shape] == halved(0)
    assert edited.rows[shape] == halved(1000)
    for ran in (restored, edited):
        assert ran.prints(shape, "restored") == wrote.prints(shape, "committed")
        decisions = Counter((b["decision"], b["reason_code"]) for b in ran.decided(shape))
        assert decisions == {("refuse", "udf"): 1, ("restore", "restored"): 1}
        (exchange,) = [
            node
            for plan in ran.plans(shape)
            for node in plan.walk()
            if node.name == "Exchange" and "RestoredCheckpoint" in [c.name for c in node.children]
        ]
        assert "EvalPython" not in " ".join(n.name for n in exchange.walk())
