"""Harvest: events in, records out.

`Harvest` takes what Spark's listeners say, and what the plugin adds to it (docs/protocol.md), one
decoded object at a time, and returns rows of `phoebe_spark.records`. It starts no Spark, reads no
file and writes no table; the companion and `phoebe_spark.ingest` feed it the same way.
"""

from phoebe_spark.harvest._harvest import Harvest

__all__ = ["Harvest"]
