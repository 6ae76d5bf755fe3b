"""Which stage boundaries to checkpoint: `choose(graph, settings) -> Decision` (Phoebe, section 5).

Pure functions over `phoebe_spark.graph.StageGraph`; nothing here knows Spark or a model. The
solvers share the `Problem` made from a graph; `integer` is the reference that the sweep is judged
by, and imports PuLP only when called.
"""

from phoebe_spark.optimize.policy import Decision, Suggestion, choose
from phoebe_spark.optimize.problem import Problem, Weights, build_problem, to_cuts
from phoebe_spark.optimize.settings import Objective, OptimizerSettings

__all__ = [
    "Decision",
    "Objective",
    "OptimizerSettings",
    "Problem",
    "Suggestion",
    "Weights",
    "build_problem",
    "choose",
    "to_cuts",
]
