"""Runs the demo: ``python -m benchmarks.demo [--sf 1]``; writes ``build/demo/summary.json``.

Days of observation, training, the job without and with checkpoints, a SIGKILL of the driver late
in a run, the same command again, the job without and with checkpoints once more, and a table of
what was measured. What is compared ran next to each other, in pairs; processor time stands beside
wall time, which moves with whatever else the machine does. Exit code 1 when the results differ or
nothing was checkpointed or restored.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks import twelve
from benchmarks.demo import days, show, truth
from benchmarks.demo.job import Job, Submission
from phoebe_spark.predict.bundle import read_bundle
from tests.support import home as homes
from tests.support.compare import compare_results
from tests.support.places import BUILD

OBSERVED_DAYS: tuple[float, ...] = (0.2, 0.6, 0.4, 0.8)
"""Sizes of the observed days, as fractions of the scale factor. Never 1.0: equal sizes are equal
data, and the model would be judged on a day that it was trained on."""

MEASURED: Mapping[str, Callable[[Submission], float]] = {
    "temp_byte_seconds": lambda run: run.usage.byte_seconds,
    "temp_mean_bytes": lambda run: run.mean_temp_bytes,
    "temp_peak_bytes": lambda run: run.usage.peak_bytes,
    "cpu_s": lambda run: run.cpu_s,
    "wall_s": lambda run: run.wall_s,
}
"""What is measured of the runs of each pair."""

STEPS = len(OBSERVED_DAYS) + 8


def train(home: Path, log: Path) -> dict[str, Any]:
    """Trains and promotes; returns the bundle's metadata. Raises when training fails."""
    twelve.train(home, log)
    return read_bundle(home).metadata


def differences(expected: Submission, *others: Submission) -> list[str]:
    """Reports whose results differ from ``expected``'s, exactly compared; empty when identical."""
    found = []
    for other in others:
        for report in expected.reports:
            try:
                difference = compare_results(
                    expected.results / report, other.results / report, tolerance=0.0
                )
            except FileNotFoundError as e:
                found.append(f"{other.name} {report}: {e}")
                continue
            if difference:
                found.append(f"{other.name} {report}: {difference.message}")
    return found


def run(scale_factor: float, work: Path) -> dict[str, Any]:
    """The whole demo; returns what ``summary.json`` holds."""
    began = time.monotonic()
    fresh(work)
    screen = show.Screen(STEPS)
    job = Job(work / "runs", work / "home", days.write_reports(work / "queries"))

    with screen.step("TPC-H data for each day"):
        sizes = [*OBSERVED_DAYS, 1.0, 1.0]
        made = [
            days.make_day(work / "days", f"day{n}", scale_factor * size)
            for n, size in enumerate(sizes, start=1)
        ]
    *observed, today, tomorrow = made

    for day in observed:
        with screen.step(f"{day.name}, scale factor {day.scale_factor:g}: observe"):
            job.run(f"{day.name}-observe", day, "observe")
    with screen.step("train, log in MLflow, promote") as notes:
        bundle = train(job.home, work / "train.log")
        runs = sorted(bundle["mlflow"]["run_ids"].values())
        notes.append(f"{len(runs)} MLflow runs, bundle {bundle['version']}")

    with screen.step(f"{today.name}: without the plugin"):
        without = job.run(f"{today.name}-without", today, None)
    with screen.step(f"{today.name}: with checkpoints where predictions say they pay") as notes:
        with_ = job.run(f"{today.name}-apply", today, "apply")
        app = homes.app_started_after(job.home, with_.started_at)
        written = homes.checkpoint_events(job.home, app)["committed"]
        notes.append(f"{written} checkpoints written")

    with screen.step(f"{tomorrow.name}: SIGKILL of the driver late in the run") as notes:
        killed = job.run_and_kill(f"{tomorrow.name}-killed", tomorrow, "apply", with_)
        killed_app = homes.app_started_after(job.home, killed.started_at)
        kept = homes.checkpoint_events(job.home, killed_app)["committed"]
        notes.append(f"killed after {killed.wall_s:.1f} s, {kept} checkpoints left")
    with screen.step(f"{tomorrow.name}: the same command again") as notes:
        resumed = job.run(f"{tomorrow.name}-resumed", tomorrow, "apply")
        resumed_app = homes.app_started_after(job.home, resumed.started_at)
        restored = homes.checkpoint_events(job.home, resumed_app)["restored"]
        notes.append(f"{restored} checkpoints restored")
    with screen.step(f"{tomorrow.name}: a full rerun without the plugin, for comparison"):
        full = job.run(f"{tomorrow.name}-full", tomorrow, None)
    with screen.step(f"{tomorrow.name}: a full rerun with checkpoints"):
        again = job.run(f"{tomorrow.name}-apply", tomorrow, "apply")

    wrong = [*differences(without, with_), *differences(full, resumed, again)]
    pairs = {"without": [without, full], "with": [with_, again]}
    stages: list[dict[str, Any]] = [
        _finite(s.as_dict()) for s in truth.stage_predictions(job.home, app)
    ]
    return {
        "results_identical": not wrong,
        "differences": wrong,
        "scale_factor": scale_factor,
        # In pairs, in the order in which they ran.
        **{
            figure: {side: [value(one) for one in runs] for side, runs in pairs.items()}
            for figure, value in MEASURED.items()
        },
        "reports_s": {
            "without": without.reports,
            "with": with_.reports,
            "resumed": resumed.reports,
            "full": full.reports,
            "again": again.reports,
        },
        "restart_s": {"full": full.wall_s, "resumed": resumed.wall_s},
        "restart_cpu_s": {"full": full.cpu_s, "resumed": resumed.cpu_s},
        "killed_after_s": killed.wall_s,
        "checkpoints_written": written,
        "checkpoints_restored": restored,
        "stages": stages,
        "median_q_error": show.q_errors(stages),
        "applications": truth.statuses(job.home),
        "mlflow_runs": runs,
        "seconds": time.monotonic() - began,
    }


def _finite(value: Any) -> Any:
    """``value`` with NaN (not known) as None, so that the summary is valid JSON."""
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value


def fresh(work: Path) -> None:
    """Empties the scratch folder of a former demo, and nobody else's folder."""
    sign = work / ".phoebe-demo"
    if work.exists() and any(work.iterdir()) and not sign.exists():
        raise SystemExit(f"{work} is not empty and no demo has made it: name another --work")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    sign.touch()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.demo", description=__doc__)
    parser.add_argument("--sf", type=float, default=1.0, help="TPC-H scale factor (default 1)")
    parser.add_argument("--work", type=Path, default=BUILD / "demo", help="scratch folder")
    arguments = parser.parse_args()
    work = arguments.work.resolve()
    summary = run(arguments.sf, work)
    path = work / "summary.json"
    path.write_text(json.dumps(summary, indent=2) + "\n")
    console = show.Screen(0).console
    show.print_summary(console, summary)
    console.print(f"the same as JSON: {path}", highlight=False)
    for line in summary["differences"]:
        console.print(line, style="red")
    done = summary["checkpoints_written"] and summary["checkpoints_restored"]
    return 0 if summary["results_identical"] and done else 1


if __name__ == "__main__":
    sys.exit(main())
