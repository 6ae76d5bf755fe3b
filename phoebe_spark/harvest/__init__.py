"""Harvest: events in, records out.

`Harvest` takes Spark's listener events and the plugin's messages (docs/protocol.md), one object at
a time, and returns rows of `tables.records`. `decode` makes objects of lines, without the parts
that are not used. Harvest starts no Spark, reads no file and writes no table. The companion and
`phoebe_spark.ingest.run` use it in the same way.
"""

from phoebe_spark.harvest._harvest import Harvest
from phoebe_spark.harvest._lines import decode

__all__ = ["Harvest", "decode"]
