"""The vocabulary of the stage graph: `Stage`, `Boundary`, `StageGraph`, `Cut`.

Pure values: predictors fill them, the simulator times them, the optimizer cuts them. Nothing here
knows Spark, Delta or LightGBM.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Carrier = Literal["pipelined", "shuffle", "broadcast", "checkpoint"]
"""What carries the rows over a boundary: nothing (same stage), shuffle files on local disks, a
broadcast variable, or a durable checkpoint."""


@dataclass(frozen=True, slots=True)
class Boundary:
    """A shuffle between stages, where a cut can pass.

    ``boundary_id`` is unique within one SQL execution (``"e<k>"``, k = rank of the exchange in the
    pre-order of the initial plan); ``template`` is what recurs from run to run; ``fingerprint`` is
    the semantic identity computed by the JVM side (None: refused there, see ``eligible``).
    """

    boundary_id: str
    template: str
    fingerprint: str | None = None
    eligible: bool = True
    carrier: Carrier = "shuffle"
    partitions: int | None = None
    catalyst_bytes: int | None = None
    catalyst_rows: int | None = None


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of a graph, with true or predicted figures.

    Times are milliseconds since the start of the SQL execution; ``output_bytes`` is what the stage
    leaves on local disks (0 for a result stage); ``ttl_ms`` is the time from the stage's end to
    the end of the SQL execution; ``task_time_ms`` is the sum of its tasks' run times.
    """

    stage_id: int
    parents: tuple[int, ...]
    template: str = ""
    boundary: Boundary | None = None
    output_bytes: float = 0.0
    task_count: int = 1
    task_time_ms: float = 0.0
    start_ms: float = 0.0
    end_ms: float = 0.0
    ttl_ms: float = 0.0
    operators: tuple[str, ...] = ()

    @property
    def is_shuffle(self) -> bool:
        """Whether its output is a shuffle's, on local disks or in a checkpoint."""
        return self.boundary is not None and self.boundary.carrier in ("shuffle", "checkpoint")


@dataclass(frozen=True, slots=True)
class StageGraph:
    """A directed acyclic graph of stages, in topological order (parents before children).

    Raises ``ValueError`` when a stage names a parent that is not before it.
    """

    stages: tuple[Stage, ...]

    def __post_init__(self) -> None:
        seen: set[int] = set()
        for stage in self.stages:
            missing = [p for p in stage.parents if p not in seen]
            if missing:
                raise ValueError(f"stage {stage.stage_id}: parents {missing} do not come before it")
            if stage.stage_id in seen:
                raise ValueError(f"stage {stage.stage_id} appears twice")
            seen.add(stage.stage_id)


@dataclass(frozen=True, slots=True)
class Cut:
    """A down-closed set of stages whose outward-read outputs become checkpoints (paper, section 5).

    ``inside`` is the set Z of stage ids, ``checkpointed`` the stages of Z that are read from
    outside Z, ``durable_bytes`` the sum of their outputs, ``value`` in the objective's unit
    (byte-milliseconds for temp storage, milliseconds for restart).
    """

    inside: frozenset[int]
    checkpointed: frozenset[int]
    durable_bytes: float = 0.0
    value: float = 0.0
    objective: str = ""
    details: dict[str, float] = field(default_factory=dict)
