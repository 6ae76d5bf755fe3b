"""How exact the fingerprint is, over all TPC-H and TPC-DS texts.

Two applications run every query under the probe, in different orders, on another number of cores
and with different settings of adaptive execution; a third plans mutated queries and compares rows
(`fingerprint_mutations`).

- ``exchanges``: those of the first plans, subqueries included. An exchange is known again by its
  columns' expression ids and its partitioning.
- ``refused``: share of them without a fingerprint; ``refused_by_nature`` (non-deterministic) apart.
- ``stable``: share with one and the same fingerprint on the first plan, on every re-plan and in the
  other application; a refused one counts against it, unless by nature. ``unstable`` and
  ``refused_in`` (query names by reason) list the rest.
- ``collisions``: pairs of one fingerprint whose rows differ; ``mutations_missed``: changes of a
  query, a setting or a file that left a fingerprint as it was.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.frame import Options, Result
from tests.support.places import ROOT, spark_environment

SCALE_FACTOR = 0.01
BY_NATURE = frozenset({"nondeterministic"})

SETTINGS: Mapping[str, str] = {
    # So that there are broadcasts and shuffles at this scale.
    "spark.sql.autoBroadcastJoinThreshold": "100KB",
    # Two texts divide by zero at this scale, and a query that fails is not re-planned to its end.
    "spark.sql.ansi.enabled": "false",
}
OTHERWISE: Mapping[str, str] = {
    "spark.master": "local[4]",
    # What was planned as a sort-merge join becomes a broadcast join while the query runs.
    "spark.sql.adaptive.autoBroadcastJoinThreshold": "10MB",
    "spark.sql.adaptive.advisoryPartitionSizeInBytes": "4KB",
    "spark.sql.adaptive.coalescePartitions.parallelismFirst": "false",
    "spark.sql.adaptive.localShuffleReader.enabled": "false",
    "spark.sql.adaptive.skewJoin.skewedPartitionThresholdInBytes": "8KB",
    "spark.sql.adaptive.skewJoin.skewedPartitionFactor": "1.1",
    "spark.sql.adaptive.maxShuffledHashJoinLocalMapThreshold": "10MB",
}
"""What is different in the second application."""


@dataclass(slots=True)
class _Query:
    """What one application saw of one query."""

    first: Counter[tuple[str, str]] = field(default_factory=Counter)  # (identity, name)
    later: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    sightings: int = 0
    disagreements: int = 0
    failed: bool = False

    @property
    def names(self) -> set[str]:
        return {name for _, name in self.first}


def _name(exchange: Mapping[str, Any]) -> str:
    """The fingerprint, or ``refused <code>``."""
    return exchange["hash"] or f"refused {exchange['code']}"


def _read(lines: Iterable[str]) -> Iterator[tuple[str, _Query]]:
    for row in map(json.loads, lines):
        query = _Query(failed=row["failed"])
        for one in row["passes"]:
            query.disagreements += not one["agrees"]
            for e in one["exchanges"]:
                query.sightings += 1
                if one["whole"]:
                    query.first[e["identity"], _name(e)] += 1
                else:
                    query.later[e["identity"]].add(_name(e))
        yield row["query"], query


def run(options: Options) -> Result:
    os.nice(5)
    scale_factor = options.scale_factor or SCALE_FACTOR
    seen: list[dict[str, _Query]] = []
    for number, settings in enumerate((SETTINGS, {**SETTINGS, **OTHERWISE})):
        out = options.work / f"run{number}.ndjson"
        _start("fingerprint_app", [out, scale_factor, options.seed + number, json.dumps(settings)])
        seen.append(dict(_read(out.read_text().splitlines())))
        options.say(f"application {number + 1}: {len(seen[-1])} queries")
    mutated = options.work / "mutations.json"
    _start("fingerprint_mutations", [mutated, scale_factor, options.seed, json.dumps(SETTINGS)])
    options.say("mutations done")
    one, other = seen
    return _result(one, other, json.loads(mutated.read_text()))


def _start(module: str, arguments: list[Any]) -> None:
    log = Path(str(arguments[0])).with_suffix(".log")
    with log.open("w") as stream:
        code = subprocess.run(
            [sys.executable, "-m", f"benchmarks.{module}", *map(str, arguments)],
            cwd=ROOT,
            env=spark_environment(),
            stdout=stream,
            stderr=subprocess.STDOUT,
        ).returncode
    if code:
        raise RuntimeError(f"benchmarks.{module} ended with {code}: see {log}")


def _result(
    one: dict[str, _Query], other: dict[str, _Query], mutated: dict[str, Any]
) -> Result:  # fmt: skip
    total, stable = 0, 0
    refused: Counter[str] = Counter()
    refused_in: dict[str, set[str]] = defaultdict(set)
    unstable: list[dict[str, Any]] = []
    for name, query in one.items():
        elsewhere = other[name]
        for (identity, print_), count in query.first.items():
            total += count
            later = query.later.get(identity, set()) - query.names
            if print_.startswith("refused "):
                code = print_.removeprefix("refused ")
                refused[code] += count
                refused_in[code].add(name)
                stable += count * (code in BY_NATURE)
            elif later:
                unstable.append({"query": name, "exchange": identity, "where": "re-plan"})
            elif print_ not in elsewhere.names:
                unstable.append({"query": name, "exchange": identity, "where": "application"})
            else:
                stable += count
        moved = {
            identity
            for identity, _ in elsewhere.first
            if elsewhere.later.get(identity, set()) - elsewhere.names
        }
        unstable += [
            {"query": name, "exchange": i, "where": "re-plan of the other application"}
            for i in moved
        ]
    queries = [*one.values(), *other.values()]
    return Result(
        {
            "exchanges": total,
            "refused": sum(refused.values()) / total,
            "refused_by_nature": sum(refused[c] for c in BY_NATURE) / total,
            "stable": (stable - sum(u["where"].startswith("re-plan of") for u in unstable)) / total,
            "sightings": sum(q.sightings for q in queries),
            "queries": len(one),
            "queries_failed": sorted({n for o in (one, other) for n, q in o.items() if q.failed}),
            "memo_disagrees": sum(q.disagreements for q in queries),
            "refused_by_code": dict(refused.most_common()),
            "refused_in": {code: sorted(names) for code, names in refused_in.items()},
            "unstable": unstable,
            **mutated,
        },
        repeats=2,
    )
