"""The application behind the bench ``plan_latency``: ``plan_latency_app.py SPEC.json``.

Runs each case's query over and over, by turns with the plugin applied and switched off, and writes
one JSON line a run: case, mode, seconds, and what the hook says that it cost. Before that the query
is explained some times, which has it planned, advice included: the JVM compiles what it runs often.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from pyspark.sql import DataFrame, SparkSession

import phoebe_spark

TABLES = 12
BRANCHES = 27
STEPS = 17


def branch(number: int, spark_table: str, salt: int) -> str:
    """Two tables joined and aggregated: three shuffles. Another literal with another ``salt``."""
    a, b = f"t{number % TABLES}", f"t{(number + 5) % TABLES}"
    return (
        f"select x.g, sum(y.v) as s, count(*) as n, max(x.v + y.v) as m "
        f"from {spark_table or a} x join {b} y on x.k = y.k "
        f"where x.v > {number} and y.v < {1000 - number} and x.v <> -{salt + 1} group by x.g"
    )


def chain() -> str:
    """Joins one upon the other, each on another key: two shuffles a step."""
    text = "select k, g, v from t0"
    for step in range(STEPS):
        left, right = ("k", "v") if step % 2 else ("v", "k")
        text = (
            f"select c.{left} as k, c.g, t.v from ({text}) c "
            f"join t{step % TABLES} t on c.{left} = t.{right} where t.v <> {step}"
        )
    return text


def wide(table: str = "", salt: int = 0) -> str:
    """The 100-exchange query; ``table`` stands on the left side of every other branch."""
    branches = [branch(i, table if i % 2 else "", salt) for i in range(BRANCHES)]
    many = " union all ".join(branches)
    return (
        f"select g, sum(s) as s, sum(n) as n, max(m) as m from ({many} union all "
        f"select g, sum(v) as s, count(*) as n, max(k) as m from ({chain()}) group by g) "
        "group by g order by g"
    )


def short() -> str:
    return "select g, sum(v) as s from t0 group by g"


def finish(frame: DataFrame) -> None:
    frame.write.format("noop").mode("overwrite").save()


def main(path: Path) -> int:
    spec = json.loads(path.read_text())
    spark = SparkSession.builder.appName("plan-latency").getOrCreate()
    for name, place in spec["tables"].items():
        spark.read.parquet(place).createOrReplaceTempView(name)
    files = "(select k, g, v from files where p = (select max(k) from t1)) "
    texts: dict[str, Callable[[int], str]] = {
        "wide": lambda _: wide(),
        "other": lambda number: wide(salt=number),
        "files": lambda _: wide(files),
        "short": lambda _: short(),
    }
    began = time.monotonic()

    @contextlib.contextmanager
    def settings(case: dict[str, Any], mode: str) -> Iterator[None]:
        spark.conf.set("spark.phoebe.mode", mode)
        for key, value in case["conf"].items():
            spark.conf.set(key, value)
        yield
        for key in case["conf"]:
            spark.conf.unset(key)

    def run(case: dict[str, Any], mode: str, number: int) -> dict[str, object]:
        with settings(case, mode):
            frame = spark.sql(texts[case["text"]](number))
            started = time.perf_counter()
            finish(frame)
            seconds = time.perf_counter() - started
            status = phoebe_spark.status(spark)["planning"]["last"]
        return {"seconds": seconds, "hook": status if mode != "off" else None}

    def explain(case: dict[str, Any], stop: float) -> None:
        with settings(case, "apply"):
            for number in range(case["explained"]):
                if time.monotonic() > stop:
                    break
                # Numbers that no run of the case has: another text where it is another each time.
                spark.sql("explain " + texts[case["text"]](10_000 + number)).collect()

    with Path(spec["results"]).open("a", buffering=1) as results:
        for case in spec["cases"]:
            stop = began + case["until_s"]
            half = (time.monotonic() + stop) / 2
            explain(case, (time.monotonic() + half) / 2)
            pairs: Iterable[int] = range(-case["warm_up"], case["pairs"])
            for pair in pairs:
                if -case["warm_up"] < pair < 0 and time.monotonic() > half:
                    continue
                if pair > 0 and time.monotonic() > stop:
                    break
                order = ("apply", "off") if pair % 2 else ("off", "apply")
                for mode in order:
                    if mode == "off" and not case["paired"]:
                        continue
                    line = {"case": case["name"], "pair": pair, "mode": mode}
                    number = pair + case["warm_up"]
                    results.write(json.dumps({**line, **run(case, mode, number)}) + "\n")
    spark.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
