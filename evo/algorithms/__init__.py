"""Algorithms as ask/tell, on DEAP; `ALGORITHMS` names them."""

from evo.algorithms.base import Algorithm
from evo.algorithms.ecs import ECS
from evo.algorithms.fga import FGA
from evo.algorithms.nsga2 import NSGA2
from evo.algorithms.nsga3 import NSGA3
from evo.algorithms.random import RandomSearch
from evo.algorithms.steady import SteadyState
from evo.algorithms.toolbox import Toolbox, toolbox
from evo.plugins import Registry, subclass_of

ALGORITHMS: Registry[type[Algorithm]] = Registry(
    "algorithm",
    "evo.algorithms",
    {"ecs": ECS, "fga": FGA, "nsga2": NSGA2, "nsga3": NSGA3, "random": RandomSearch},
    subclass_of(Algorithm),
)

__all__ = [
    "ALGORITHMS",
    "ECS",
    "FGA",
    "NSGA2",
    "NSGA3",
    "Algorithm",
    "RandomSearch",
    "SteadyState",
    "Toolbox",
    "toolbox",
]
