"""Harvest: events in, records out.

`Harvest` takes what Spark's listeners say, and what the plugin adds to it (docs/protocol.md), one
object at a time, and returns rows of `tables.records`; `decode` makes objects of lines,
and leaves out what is not read. It starts no Spark, reads no file and writes no table; the
companion and `phoebe_spark.ingest.run` feed it the same way.
"""

from phoebe_spark.harvest._harvest import Harvest
from phoebe_spark.harvest._lines import decode

__all__ = ["Harvest", "decode"]
