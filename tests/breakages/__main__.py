"""``python -m tests.breakages [--unchecked] [NAME ...]``; exit code 1 when one is not caught."""

from __future__ import annotations

import argparse
import sys

from tests.breakages.applied import run


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.breakages", description=__doc__)
    parser.add_argument("names", nargs="*", help="which ones; all by default")
    parser.add_argument(
        "--unchecked", action="store_true", help="do not first see that the tests pass"
    )
    told = parser.parse_args()
    results = run(told.names, lambda line: print(line, flush=True), checked=not told.unchecked)
    missed = [result.breakage.name for result in results if not result.caught]
    print(f"{len(results) - len(missed)} of {len(results)} caught")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
