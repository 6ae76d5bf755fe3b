"""The stage graph derived before the run against the stages that ran.

Over the recorded event logs of ``tests/data`` (adaptive execution on), and over logs that are made
here: all TPC-H and TPC-DS queries at a tiny scale, adaptive execution off and on. Shares of
executions, the failed ones as far as they got. What is compared: `tests.support.stage_graph`.
"""

from __future__ import annotations

import os

from benchmarks.frame import Options, Result
from tests.support.places import ROOT
from tests.support.ran_stages import read_executions, record
from tests.support.stage_graph import Tally
from tests.support.tpc import Suite

SUITES: tuple[Suite, ...] = ("tpch", "tpcds")


def run(options: Options) -> Result:
    os.nice(5)
    tallies = {False: Tally(), True: Tally()}
    for log in sorted((ROOT / "tests" / "data" / "eventlogs").glob("*.zstd")):
        tallies[True].add(read_executions(log))
        options.say(f"{log.name}: compared")
    for adaptive in (False, True):
        for suite in SUITES:
            log = record(suite, adaptive, options.work / f"{suite}-{adaptive}", options.left_s)
            tallies[adaptive].add(read_executions(log))
            options.say(f"{suite}, adaptive execution {'on' if adaptive else 'off'}: compared")
    off, on = tallies[False], tallies[True]
    return Result(
        figures={
            "executions": off.executions + on.executions,
            "equal_aqe_off": off.equal / off.executions,
            "equal": on.equal / on.executions,
            "explained": on.explained / on.executions,
            "unexplained": len(off.unexplained) + len(on.unexplained),
            "stages": off.stages + on.stages,
            "why": dict(on.why.most_common()),
            "not_explained": [*off.unexplained, *on.unexplained],
        },
        repeats=1,
    )
