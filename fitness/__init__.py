"""Fitness functions; `FITNESSES` names the built-in ones."""

import sys
from types import ModuleType
from typing import Any

from evo.fitness.base import Fitness, FunctionFitness, Objective, fitness, measure
from evo.fitness.latency import LatencySettings, WithLatency
from evo.fitness.subset_finetune import SubsetFineTune

FITNESSES: dict[str, type[SubsetFineTune]] = {"subset_finetune": SubsetFineTune}

__all__ = [
    "FITNESSES",
    "Fitness",
    "FunctionFitness",
    "LatencySettings",
    "Objective",
    "SubsetFineTune",
    "WithLatency",
    "fitness",
    "measure",
]


class _CallableModule(ModuleType):
    """Lets `@evo.fitness(...)` and `from evo.fitness import ...` both mean what they say."""

    def __call__(self, **objectives: Any) -> Any:
        return fitness(**objectives)


sys.modules[__name__].__class__ = _CallableModule
