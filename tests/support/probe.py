"""A session in this process whose planner passes every exchange by the fingerprint probe.

One JVM for as long as the ``with`` block lasts: the gateway is shut down afterwards, so that other
tests get a JVM of their own.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyspark import SparkContext
from pyspark.sql import DataFrame, SparkSession

from tests.support import tpc
from tests.support.places import plugin_jar, testing_jar

PACKAGE = "phoebe.testing"


@dataclass(frozen=True, slots=True)
class Exchange:
    """One exchange as one planning pass saw it. ``identity`` (columns and partitioning, with
    expression ids) ties it to the same exchange in later passes; ``code`` when it was refused."""

    identity: str
    canonical: str
    hash: str | None
    code: str | None
    args: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Planned:
    """One exchange of a plan that was not run. ``canonical`` names Spark's own canonical form of
    it, ``roots`` are the paths that it reads."""

    canonical: str
    partitioning: str
    hash: str | None
    roots: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Pass:
    """One planning pass over one fragment of an execution; ``cpu_ms`` of all its fingerprints.

    ``agrees``: a fingerprinter that remembers nothing of earlier passes says the same. ``whole``:
    it is the fragment's first plan.
    """

    execution: str
    cpu_ms: float
    agrees: bool
    whole: bool
    exchanges: tuple[Exchange, ...]


def _exchange(raw: Mapping[str, Any]) -> Exchange:
    return Exchange(
        identity=f"{raw['columns']}|{raw['partitioning']}",
        canonical=raw["canonical"],
        hash=raw.get("hash"),
        code=raw.get("code"),
        args=raw.get("args", {}),
    )


@dataclass(frozen=True, slots=True)
class Probe:
    """The probe of one JVM."""

    spark: SparkSession

    @property
    def _jvm(self) -> Any:
        jvm: Any = self.spark._jvm
        for part in (PACKAGE + ".FingerprintProbe").split("."):
            jvm = getattr(jvm, part)
        return jvm

    def exchanges(self, df: DataFrame) -> list[Exchange]:
        """The exchanges of ``df``'s plan as it stands, inner ones first."""
        return [_exchange(e) for e in json.loads(self._jvm.of(df._jdf))]

    def planned(self, sql: str) -> list[Planned]:
        """The exchanges of a text's plan, inner ones first."""
        found = json.loads(self._jvm.of(self.spark.sql(sql)._jdf))
        return [
            Planned(e["canonical"], e["partitioning"], e.get("hash"), tuple(e.get("roots", ())))
            for e in found
        ]

    def same_rows(self, one: tuple[str, int], other: tuple[str, int]) -> bool:
        """Whether two exchanges, each the n-th one of a text's plan, are given the same rows."""
        checksums = [self._jvm.rows(self.spark.sql(sql)._jdf, n) for sql, n in (one, other)]
        return bool(checksums[0] == checksums[1])

    def inputs(self, df: DataFrame, ran: DataFrame | None = None) -> tuple[str, str]:
        """What a look before a commit and one before a restore find of the inputs of ``df``'s last
        exchange: what identifies them (64 hex digits), or a reason's code. ``ran``: the plan that
        is taken for the one that ran, if another one did."""
        found = json.loads(self._jvm.inputs(df._jdf, (ran or df)._jdf))
        return found[-1]["commit"], found[-1]["restore"]

    def identities(self, sql: str) -> list[str]:
        """What identifies the inputs of each exchange of a text's plan as they are now."""
        frame = self.spark.sql(sql)._jdf
        return [e["restore"] for e in json.loads(self._jvm.inputs(frame, frame))]

    def drain(self) -> list[Pass]:
        """The planning passes since the last call."""
        return [
            Pass(
                p["execution"],
                p["cpu_ns"] / 1e6,
                p["agrees"],
                p["whole"],
                tuple(map(_exchange, p["exchanges"])),
            )
            for p in json.loads(self._jvm.drain())
        ]

    def run(self, sql: str) -> list[Pass]:
        """Runs the statements of ``sql`` without keeping their rows; returns their passes."""
        self.drain()
        for statement in filter(str.strip, sql.split(";")):
            self.spark.sql(statement).write.format("noop").mode("overwrite").save()
        return self.drain()

    def tables(self, suite: tpc.Suite, scale_factor: float) -> None:
        """Makes a TPC suite's tables temporary views."""
        self.tables_of(tpc.data(suite, scale_factor))

    def tables_of(self, folder: Path) -> None:
        """Makes the tables of a folder temporary views, as its files are now."""
        for name, path in tpc.tables(folder).items():
            self.spark.read.parquet(str(path)).createOrReplaceTempView(name)


def _shut_down() -> None:
    active = SparkSession.getActiveSession()
    if active is not None:
        active.stop()
    gateway = SparkContext._gateway
    if gateway is not None:
        gateway.shutdown()
        process = getattr(gateway, "proc", None)
        if process is not None:
            process.stdin.close()
            process.wait(timeout=30)
    SparkContext._gateway = None
    SparkContext._jvm = None


@contextmanager
def probe(scratch: Path, **conf: str) -> Iterator[Probe]:
    """A fresh JVM with the probe; settings are given with ``__`` for a dot."""
    _shut_down()
    settings = {
        "spark.master": "local[2]",
        "spark.driver.memory": "2g",
        "spark.driver.extraClassPath": os.pathsep.join([str(plugin_jar()), str(testing_jar())]),
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.local.dir": str(scratch / "local"),
        "spark.sql.warehouse.dir": str(scratch / "warehouse"),
        "spark.sql.extensions": f"{PACKAGE}.FingerprintProbe",
        "spark.sql.shuffle.partitions": "4",
        "spark.ui.enabled": "false",
        **{k.replace("__", "."): v for k, v in conf.items()},
    }
    builder = SparkSession.builder.appName("fingerprint")
    for key, value in settings.items():
        builder = builder.config(key, value)
    spark = builder.getOrCreate()
    spark.sparkContext.setLogLevel("ERROR")
    try:
        yield Probe(spark)
    finally:
        _shut_down()
