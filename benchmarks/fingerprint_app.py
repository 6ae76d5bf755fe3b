"""An application of the bench ``fingerprint``: runs every query under the probe, tells what it saw.

``python -m benchmarks.fingerprint_app OUT SCALE_FACTOR SEED SETTINGS``: a line of JSON for each
query in ``OUT``; ``SEED`` gives the queries' order, ``SETTINGS`` is a JSON object: the session's
settings, and ``spark.master``.
"""

from __future__ import annotations

import json
import random
import sys
from dataclasses import asdict
from pathlib import Path

from pyspark.errors import PySparkException

from tests.support import tpc
from tests.support.probe import Probe, probe

SUITES: tuple[tpc.Suite, ...] = ("tpch", "tpcds")


def main() -> None:
    out, scale_factor, seed, settings = sys.argv[1:5]
    path = Path(out)
    conf = json.loads(settings)
    master = conf.pop("spark.master", "local[2]")
    with probe(path.with_suffix(""), spark__master=master) as p, path.open("w") as lines:
        for key, value in conf.items():
            p.spark.conf.set(key, value)
        for suite in SUITES:
            p.tables(suite, float(scale_factor))
            names = tpc.query_names(suite)
            random.Random(int(seed)).shuffle(names)
            for name in names:
                lines.write(json.dumps(_run(p, name)) + "\n")


def _run(p: Probe, name: str) -> dict[str, object]:
    try:
        passes, failed = p.run(tpc.query(name)), False
    except PySparkException:
        passes, failed = p.drain(), True
    return {"query": name, "failed": failed, "passes": [asdict(one) for one in passes]}


if __name__ == "__main__":
    main()
