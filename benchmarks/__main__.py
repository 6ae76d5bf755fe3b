"""``python -m benchmarks NAME``: one bench, one JSON line last; ``--help`` names the options.

``all`` runs every bench, one after the other, each in a process of its own.
"""

from __future__ import annotations

import argparse
import importlib
import json
import signal
import subprocess
import sys

from benchmarks.frame import Options, fresh, report
from tests.support.places import BUILD, ROOT, spark_environment

NAMES: tuple[str, ...] = (
    "observe_overhead",
    "checkpoint_cost",
    "checkpoint_ways",
    "temp_storage",
    "restart",
    "plan_latency",
    "ingest",
    "faults",
    "graph",
    "fingerprint",
    "suites",
    "exactness",
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("name", choices=[*NAMES, "all"])
    parser.add_argument("--seed", type=int, default=Options.__dataclass_fields__["seed"].default)
    parser.add_argument("--repeats", type=int, help="default: what the bench fixes")
    parser.add_argument("--minutes", type=float, default=20, help="of which a bench makes the most")
    parser.add_argument("--sf", type=float, help="scale factor, default: what the bench fixes")
    parser.add_argument("--choice", default="default", help="which part of a bench that has parts")
    arguments = parser.parse_args()
    if arguments.name == "all":
        commands = [[sys.executable, "-m", "benchmarks", name] for name in NAMES]
        codes = [subprocess.run(c, cwd=ROOT, env=spark_environment()).returncode for c in commands]
        return max(codes)
    options = Options(
        name=arguments.name,
        work=fresh(BUILD / "bench" / "work" / arguments.name),
        seed=arguments.seed,
        repeats=arguments.repeats,
        scale_factor=arguments.sf,
        budget_s=60 * arguments.minutes,
        choice=arguments.choice,
    )
    # Shells start what runs in the background with it ignored; `restart` prints what it has so far.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    bench = importlib.import_module(f"benchmarks.{arguments.name}")
    result = bench.run(options)
    print(json.dumps(report(options, result)))
    return 1 if result.broken else 0


if __name__ == "__main__":
    sys.exit(main())
