"""Fitness functions; `FITNESSES` names the built-in ones."""

import sys
from inspect import isabstract
from types import ModuleType
from typing import Any

from evo.fitness.base import Fitness, FunctionFitness, Objective, fitness, measure
from evo.fitness.cascade import Cascade
from evo.fitness.latency import LatencySettings, WithLatency
from evo.fitness.score_of_frame import ScoreOfFrame
from evo.fitness.subset_finetune import SubsetFineTune
from evo.fitness.zero_shot import ZeroShot
from evo.plugins import Registry


def _complaint(found: object) -> str | None:
    if isinstance(found, Fitness) or (isinstance(found, type) and issubclass(found, Fitness) and not isabstract(found)):
        return None
    undecorated = callable(found) and not isinstance(found, type)
    return "decorate it with @evo.fitness(maximize=…)" if undecorated else "expected a Fitness"


FITNESSES: Registry[type[Fitness] | Fitness] = Registry(
    "fitness",
    "evo.fitness",
    {"subset_finetune": SubsetFineTune, "score_of_frame": ScoreOfFrame, "zero_shot": ZeroShot, "cascade": Cascade},
    _complaint,
)

__all__ = [
    "FITNESSES",
    "Cascade",
    "Fitness",
    "FunctionFitness",
    "LatencySettings",
    "Objective",
    "ScoreOfFrame",
    "SubsetFineTune",
    "WithLatency",
    "ZeroShot",
    "fitness",
    "measure",
]


class _CallableModule(ModuleType):
    """Lets `@evo.fitness(...)` and `from evo.fitness import ...` both mean what they say."""

    def __call__(self, **objectives: Any) -> Any:
        return fitness(**objectives)


sys.modules[__name__].__class__ = _CallableModule
