"""Fitness functions; `FITNESSES` names the built-in ones."""

import sys
from types import ModuleType
from typing import Any

from evo.fitness.base import Fitness, FunctionFitness, Objective, fitness, measure
from evo.fitness.cascade import Cascade
from evo.fitness.latency import LatencySettings, WithLatency
from evo.fitness.score_of_frame import ScoreOfFrame
from evo.fitness.subset_finetune import SubsetFineTune
from evo.fitness.zero_shot import ZeroShot

FITNESSES: dict[str, type[SubsetFineTune] | type[ScoreOfFrame] | type[ZeroShot] | type[Cascade]] = {
    "subset_finetune": SubsetFineTune,
    "score_of_frame": ScoreOfFrame,
    "zero_shot": ZeroShot,
    "cascade": Cascade,
}

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
