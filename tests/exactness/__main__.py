"""``python -m tests.exactness fuzz | replay FILE | mendings``: docs/testing.md says how."""

from __future__ import annotations

import argparse
import sys
import time
from datetime import date
from pathlib import Path

from tests.exactness import judge, mendings
from tests.exactness.cases import Batch
from tests.exactness.engine import Engine, engines
from tests.exactness.fuzz import described, explained, fuzz, outcomes_of, store
from tests.support.places import BUILD

SEED = 20210711


def _seed(text: str) -> int:
    return int(f"{date.today():%Y%m%d}") if text == "today" else int(text)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.exactness", description=__doc__)
    ways = parser.add_subparsers(dest="way", required=True)
    one = ways.add_parser("fuzz", help="random pairs of applications")
    one.add_argument("--seed", type=_seed, default=SEED, help="a number, or today: the date's")
    one.add_argument("--pairs", type=int, default=3000)
    one.add_argument("--minutes", type=float, default=120)
    one.add_argument("--shrink", type=float, default=120, help="seconds for each defect")
    one.add_argument("--engines", type=int, default=2, help="workers side by side")
    one.add_argument("--jar", type=Path)
    one.add_argument("--out", type=Path, default=BUILD / "exactness" / "defects")
    again = ways.add_parser("replay", help="one stored batch, run by run")
    again.add_argument("file", type=Path)
    again.add_argument("--jar", type=Path)
    again.add_argument("--keep", type=Path, help="leave files and store in this new folder")
    known = ways.add_parser("mendings", help="take mendings back and find their faults again")
    known.add_argument("names", nargs="*")
    known.add_argument("--seed", type=int, default=SEED)
    known.add_argument("--pairs", type=int, default=1000)
    known.add_argument("--minutes", type=float, default=30, help="for each mending")
    arguments = parser.parse_args()
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - began:6.1f} s] {text}", flush=True)

    if arguments.way == "fuzz":
        say(f"seed {arguments.seed}")
        with engines(arguments.engines, arguments.jar) as side_by_side:
            report = fuzz(
                side_by_side,
                arguments.seed,
                arguments.pairs,
                60 * arguments.minutes,
                say,
                arguments.shrink,
            )
        for path in store(report.defects, arguments.out):
            say(f"python -m tests.exactness replay {path}")
        if report.has_too_many_typed:
            say(f"{report.typed} of {report.damaged} damages end in the documented failure")
        if report.left:
            say(f"applications end with: {sorted(report.left)}")
        return 1 if report.defects or report.left or report.has_too_many_typed else 0
    if arguments.way == "replay":
        return _replay(arguments.file, arguments.jar, arguments.keep)
    results = mendings.find_again(
        arguments.names, arguments.seed, arguments.pairs, 60 * arguments.minutes, say
    )
    return 0 if all(r.found for r in results) else 1


def _replay(file: Path, jar: Path | None, keep: Path | None) -> int:
    if keep is not None:
        keep = keep.resolve()
        if keep.exists() and (not keep.is_dir() or any(keep.iterdir())):
            raise SystemExit(f"{keep} is not empty: name a new folder")
    batch = Batch.from_json(file.read_text())
    print(explained(batch))
    with Engine(jar) as engine:
        found = engine.run(batch, root=keep)
    failed = False
    for n, case in enumerate(batch.cases):
        outcomes = outcomes_of(found, n)
        for run, outcome in outcomes.items():
            print(f"{run}: {outcome.get('rows', outcome.get('error'))} {outcome['counts']}")
        for finding in judge.findings(case, outcomes, batch.is_held):
            failed = True
            print(described(finding))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
