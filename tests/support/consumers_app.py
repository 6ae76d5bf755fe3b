"""A PySpark application whose queries have one value for two consumers: ``consumers_app.py SPEC``.

Each query runs as the plugin's mode says; where the spec says ``compare``, once more with the
plugin off for it. What it gave, and how many exchanges were reused or restored, goes to ``result``.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pyspark.sql import SparkSession

import phoebe_spark

SUMS = "select g, sum({0}) as s from t group by g"
MORE = "select g, sum({0}) as s, max(w) as m from t group by g"
SAME = "coalesce(a.s, -1) <= coalesce(b.s, -1) and coalesce(a.s, -1) >= coalesce(b.s, -1)"
PAIR = f"select a.g, a.s, b.s from ({SUMS}) a join ({MORE}) b on a.g = b.g where {SAME} and m > 0"

QUERIES: Mapping[str, tuple[str, str]] = {
    # The text, and which of its boundaries the first application stores.
    "sums": (PAIR.format("v"), "e0"),
    "both_sums": (PAIR.format("v * 1"), "all"),
    "tries": (PAIR.replace("sum(", "try_sum(").format("i"), "e0"),
    "exact": (PAIR.format("w"), "e0"),
    "alone": (
        f"select a.g, s, n from ({SUMS.format('v + 0')}) a"
        " join (select g, count(v) as n from t group by g) b on a.g = b.g",
        "e0",
    ),
    "subquery": (
        f"select g, s from ({SUMS.format('v')}) where s >="
        f" (select max(s) from ({MORE.format('v')}) where m > 0)",
        "e0",
    ),
    "above": (
        f"select t.g, a.s, sum(t.v) from t join ({SUMS.format('v')}) a on a.g = t.g"
        " group by t.g, a.s",
        "e2",
    ),
    # No column is summed: how many rows a task has decides.
    "constants": (PAIR.replace("from t ", "from tens ").format("0.1D"), "e0"),
    # The same column under another name: of files read by another schema, of rows at hand.
    "renamed": (
        f"select a.g, a.s, b.s from ({SUMS.format('v')}) a join"
        f" (select G, sum(V) as s, max(W) as m from capitals group by G) b on a.g = b.G"
        f" where {SAME} and m > 0",
        "e0",
    ),
    "at_hand": (
        f"select a.g, a.s, b.s from (select g, sum(x) as s from (select g, v as x from hand)"
        f" group by g) a join (select g, sum(v) as s, max(w) as m from hand group by g) b"
        f" on a.g = b.g where {SAME} and m > 0",
        "e0",
    ),
    # One side is pruned by the other's rows; as that serves no broadcast, Spark prunes nothing.
    "pruned": (
        "with v as (select p from parts where n = 70) select * from v a join v b on a.p = b.p",
        "all",
    ),
}


def write_tables(folder: Path) -> None:
    """Sums of ``t`` depend on whether its files are read by one task or by two, those of ``tens``
    too."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    big = 2**63 - 1
    halves = (
        {"g": [1, 1], "v": [1e16, 1.0], "i": [big, 1], "w": [1, 2]},
        {"g": [1, 1], "v": [-1e16, 1.0], "i": [-5, -6], "w": [3, 4]},
    )
    tens = {"g": [1] * 5, "w": [1] * 5}
    for name, parts in (("t", halves), ("tens", (tens, tens))):
        (folder / name).mkdir(parents=True)
        for n, part in enumerate(parts):
            pq.write_table(pa.table(part), folder / name / f"{n}.parquet")
    for p in range(7):
        (folder / "parts" / f"p={p}").mkdir(parents=True)
        rows = pa.table({"n": [i % 100 for i in range(p, 1000, 7)]})
        pq.write_table(rows, folder / "parts" / f"p={p}" / "0.parquet")


def main(path: Path) -> int:
    spec = json.loads(path.read_text())
    spark = SparkSession.builder.appName("consumers").getOrCreate()
    for place in Path(spec["tables"]).iterdir():
        spark.read.parquet(str(place)).createOrReplaceTempView(place.name)
    capitals = spark.read.schema("G long, V double, W long").parquet(f"{spec['tables']}/t")
    capitals.createOrReplaceTempView("capitals")
    hand = "VALUES (1, 1e16D, 1), (1, 1D, 2), (1, -1e16D, 3), (1, 1D, 4) AS t(g, v, w)"
    spark.sql(f"SELECT * FROM {hand}").createOrReplaceTempView("hand")

    def run(name: str, mode: str) -> dict[str, Any]:
        text, stored = QUERIES[name]
        spark.conf.set("spark.phoebe.mode", mode)
        spark.conf.set("spark.phoebe.force", stored if spec["stores"] else "none")
        spark.sparkContext.setJobDescription(name if mode == "apply" else "plain")
        frame = spark.sql(text)
        rows = sorted(list(row) for row in frame.collect())
        ran = frame._jdf.queryExecution().executedPlan().toString().split("== Initial Plan")[0]
        spared = ran.count("ReusedExchange") + ran.count("RestoredCheckpoint")
        return {"rows": rows, "spared": spared}

    said = {name: run(name, "apply") for name in spec["queries"]}
    plain = {name: run(name, "off") for name in spec["queries"]} if spec["compare"] else {}
    deadline = time.monotonic() + 60
    counts: dict[str, int] = {}
    while counts.get("checkpoints.committed", 0) < spec["stores"]:
        if time.monotonic() > deadline:
            raise TimeoutError(f"only {counts}")
        time.sleep(0.05)
        counts = phoebe_spark.status(spark)["counts"]
    Path(spec["result"]).write_text(json.dumps({"ours": said, "plain": plain}))
    spark.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
