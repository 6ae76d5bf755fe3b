"""The demo's screen: a line for each step while it runs, and the table at the end."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.table import Table

MB = 1e6


class Screen:
    """Progress lines on a terminal or in a log; numbers the steps."""

    def __init__(self, steps: int) -> None:
        self.console = Console(soft_wrap=True)
        if not self.console.is_terminal:
            self.console.width = 120  # a log file has room for the tables
        self._steps = steps
        self._done = 0

    @contextmanager
    def step(self, text: str) -> Iterator[list[str]]:
        """Shows that ``text`` is under way; what is appended to the list ends its line."""
        self._done += 1
        head = f"\\[{self._done}/{self._steps}] {text}"
        notes: list[str] = []
        started = time.monotonic()
        if self.console.is_terminal:
            with self.console.status(head):
                yield notes
        else:
            self.console.print(f"{head} ...", style="dim", highlight=False)
            yield notes
        line = f"{head}  [bold]{time.monotonic() - started:.1f} s[/bold]"
        self.console.print(" · ".join([line, *notes]), highlight=False)


def q_error(predicted: float, true: float) -> float:
    """max((p+1)/(t+1), (t+1)/(p+1)); negative predictions count as 0."""
    p, t = max(predicted, 0.0) + 1, true + 1
    return max(p / t, t / p)


def q_errors(stages: list[dict[str, Any]]) -> dict[str, float]:
    """Median q-error per predicted figure, over the stages where both are known (not None)."""
    found: dict[str, float] = {}
    for figure in ("output_bytes", "task_time_ms", "start_ms", "end_ms", "ttl_ms"):
        errors = [
            q_error(s["predicted"][figure], s["true"][figure])
            for s in stages
            if s["predicted"][figure] is not None and s["true"][figure] is not None
        ]
        if errors:
            found[figure] = statistics.median(errors)
    return found


def _pair(stage: dict[str, Any], figure: str, unit: float) -> str:
    values = (stage["predicted"][figure], stage["true"][figure])
    return " / ".join("?" if v is None else f"{v / unit:.2f}" for v in values)


def _spread(values: list[float]) -> float:
    return max(values) / min(values) if min(values) > 0 else float("nan")


def _change(before: float, after: float) -> str:
    return "" if before == 0 else f"{100 * (after - before) / before:+.0f} %"


def print_summary(console: Console, summary: dict[str, Any]) -> None:
    """The final tables, from what ``summary.json`` holds."""
    stages = summary["stages"]
    if stages:
        table = Table(title="Prediction against truth, shuffle stages of the apply run")
        for column in ("report", "boundary", "decision", "why"):
            table.add_column(column)
        for column in ("output MB", "task time s", "start s", "end s"):
            table.add_column(f"{column}\npredicted / true", justify="right")
        for s in stages:
            table.add_row(
                s["execution"],
                s["boundary_id"],
                s["decision"],
                s["reason"],
                _pair(s, "output_bytes", MB),
                *(_pair(s, figure, 1000) for figure in ("task_time_ms", "start_ms", "end_ms")),
            )
        console.print(table)
    table = Table(
        title="What was measured in this run: two pairs, one beside the other",
        caption="Wall time moves with whatever else the machine does: of the two runs without "
        "checkpoints, which are alike, one took "
        f"{_spread(summary['wall_s']['without']):.2f} times as long as the other. "
        "After the kill there is one run of each kind, so this change is a single comparison.",
    )
    for column in ("", "without", "with", "change"):
        table.add_column(column, justify="left" if column == "" else "right")
    for title, figure, unit, digits in (
        ("temp storage, mean MB over the run", "temp_mean_bytes", MB, 1),
        ("temp storage, peak MB", "temp_peak_bytes", MB, 1),
        ("temp storage, MB x s", "temp_byte_seconds", MB, 0),
        ("processor time, s", "cpu_s", 1, 1),
        ("wall time, s", "wall_s", 1, 1),
    ):
        without, with_ = summary[figure]["without"], summary[figure]["with"]
        table.add_row(
            title,
            *(", ".join(f"{v / unit:,.{digits}f}" for v in side) for side in (without, with_)),
            ", ".join(_change(a, b) for a, b in zip(without, with_, strict=True)),
        )
    for title, figure in (("processor time", "restart_cpu_s"), ("wall time", "restart_s")):
        after = summary[figure]
        table.add_row(
            f"after a kill, full rerun / resumed: {title}, s",
            f"{after['full']:.1f}",
            f"{after['resumed']:.1f}",
            _change(after["full"], after["resumed"]),
        )
    console.print(table)
    errors = "  ".join(f"{k} {v:.2f}" for k, v in summary["median_q_error"].items())
    console.print(f"median q-error: {errors or 'no predictions'}", highlight=False)
    same = "[green]identical[/green]" if summary["results_identical"] else "[red]DIFFERENT[/red]"
    console.print(
        f"checkpoints written {summary['checkpoints_written']}, restored "
        f"{summary['checkpoints_restored']} · results {same} · {summary['seconds']:.0f} s in all",
        highlight=False,
    )
