"""Physical plans as data: nodes, what recurs of them, stages, model inputs.

>>> reading = read(parse_plan(info), boundaries)
>>> reading.plan_graph.graph, reading.features, reading.template
"""

from phoebe_spark.plan.nodes import parse_plan
from phoebe_spark.plan.reading import Reading, read

__all__ = ["Reading", "parse_plan", "read"]
