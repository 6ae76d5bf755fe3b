"""A small job whose three shuffles are checkpointed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.support import apps, queries, tpc

SQL = """
select o_orderpriority, count(*) as n, sum(total) as total
from (
  select o_orderkey, o_orderpriority, sum(l_quantity) as total
  from orders join lineitem on o_orderkey = l_orderkey
  group by o_orderkey, o_orderpriority
)
group by o_orderpriority
"""


CONF = {
    **queries.SHUFFLE_CONF,
    "spark.sql.shuffle.partitions": "4",
    "spark.sql.autoBroadcastJoinThreshold": "-1",
    "spark.phoebe.mode": "apply",
    "spark.phoebe.force": "all",
}
KEPT = {**CONF, "spark.phoebe.checkpoint.retain": "always"}


def item(gate: Path | None = None) -> queries.Item:
    """The query, ``daily``; after it the job waits for ``gate``."""
    return queries.Item("daily", tpc.data("tpch", 0.01), sql=SQL, pause_after=gate)


def submit(
    folder: Path,
    home: Path,
    store: str,
    gate: Path,
    conf: Mapping[str, str],
    jars: Sequence[Path] = (),
    master: str = "local[2]",
) -> apps.RunningApp:
    """Submits it with its checkpoints in ``store``, a path or URI."""
    settings = {
        **KEPT,
        "spark.phoebe.home": str(home),
        "spark.phoebe.checkpoint.dir": store,
        **conf,
    }
    return queries.submit_queries(
        [item(gate)],
        folder=folder,
        conf=settings,
        plugin="jars",
        packages_jars=jars,
        master=master,
    )
