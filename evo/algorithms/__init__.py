"""Algorithms as ask/tell, on DEAP; `ALGORITHMS` names them."""

from evo.algorithms.base import Algorithm
from evo.algorithms.ecs import ECS
from evo.algorithms.fga import FGA
from evo.algorithms.random import RandomSearch
from evo.algorithms.toolbox import Toolbox, toolbox

ALGORITHMS: dict[str, type[Algorithm]] = {"ecs": ECS, "fga": FGA, "random": RandomSearch}

__all__ = ["ALGORITHMS", "ECS", "FGA", "Algorithm", "RandomSearch", "Toolbox", "toolbox"]
