"""What the optimizer may be told: objective, budget, prices, vetoes, with units and defaults."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Objective = Literal["temp", "restart", "both"]


@dataclass(frozen=True, slots=True)
class OptimizerSettings:
    """The optimizer's settings; the defaults are what a driver runs with.

    ``budget_bytes`` is an upper bound of the durable storage of one query; with
    ``budget_fraction`` (of the query's predicted shuffle bytes) the smaller one holds; ``None``
    for both means free storage. ``durable_price_ms`` prices a durable byte in the temp objective:
    as much as holding one temp byte for so long. ``write_bytes_per_ms`` is what one query writes
    to the store (500 MB/s; 700 MB/s were seen on a local disk) and ``write_overhead_ms`` what each
    checkpoint costs besides. ``failure_probability`` weighs the restart objective: 1 plans for the
    run that fails, with the moment of failure uniform over the run.
    """

    objective: Objective = "both"
    max_cuts: int = 3
    budget_bytes: float | None = None
    budget_fraction: float | None = 0.2
    durable_price_ms: float = 0.0
    write_bytes_per_ms: float = 500_000.0
    write_overhead_ms: float = 50.0
    failure_probability: float = 1.0
    min_duration_ms: float = 60_000.0
    min_ttl_ms: float = 1_000.0
    min_freed_byte_ms: float = 1e9  # 1 MB (10^6 bytes) for 1 s
    min_restart_ms: float = 500.0
    max_write_share: float = 0.2  # of the query's predicted duration

    def __post_init__(self) -> None:
        if self.max_cuts < 1:
            raise ValueError(f"max_cuts must be at least 1, is {self.max_cuts}")
        if self.write_bytes_per_ms <= 0:
            raise ValueError(f"write_bytes_per_ms must be positive, is {self.write_bytes_per_ms}")
        if not 0.0 <= self.failure_probability <= 1.0:
            raise ValueError(
                f"failure_probability must lie in [0, 1], is {self.failure_probability}"
            )

    def budget(self, total_output_bytes: float) -> float:
        """The durable budget in bytes of a query that shuffles ``total_output_bytes``."""
        limits = [float("inf")]
        if self.budget_bytes is not None:
            limits.append(self.budget_bytes)
        if self.budget_fraction is not None:
            limits.append(self.budget_fraction * total_output_bytes)
        return min(limits)
