"""Which executions a bundle was trained on: what is not among them is new, whenever it ran.

Per application and attempt, the ranges of SQL execution ids: a long-running server's later queries
are new, and so are old event logs that are ingested late.
"""

from __future__ import annotations

from collections.abc import Iterable

import orjson

from phoebe_training.runs import Run

TRAINED_ON = "trained_on.json"

TrainedOn = dict[str, dict[str, list[tuple[int, int]]]]
"""Application id, attempt, inclusive ranges of execution ids in ascending order."""


def trained_on(runs: Iterable[Run]) -> TrainedOn:
    found: TrainedOn = {}
    for run in sorted(runs, key=lambda r: (r.app, r.execution_id)):
        ranges = found.setdefault(run.app[0], {}).setdefault(run.app[1], [])
        if ranges and run.execution_id <= ranges[-1][1] + 1:
            ranges[-1] = (ranges[-1][0], run.execution_id)
        else:
            ranges.append((run.execution_id, run.execution_id))
    return found


def trained_on_from_json(content: bytes | None) -> TrainedOn:
    """None, a bundle without the file: everything is new."""
    found: TrainedOn = orjson.loads(content) if content is not None else {}
    return found


def unseen(runs: Iterable[Run], seen: TrainedOn) -> list[Run]:
    """The runs that are not in ``seen``, in their order."""
    ids = {
        (app, attempt): {i for low, high in ranges for i in range(low, high + 1)}
        for app, attempts in seen.items()
        for attempt, ranges in attempts.items()
    }
    return [run for run in runs if run.execution_id not in ids.get(run.app, ())]
