"""What a fitness function is given: one candidate network and what is needed to judge it."""

from functools import cached_property

import numpy as np
from torch import nn

from evo.blueprint import Blueprint
from evo.task import Task


class Candidate:
    """One point of the search: a structure, its exact costs, and the means to build it.

    Attributes:
        blueprint: the structure.
        task: network and data; `task.train` to tune on, `task.val` to judge by.
        seed: the run's seed.
    """

    def __init__(self, task: Task, blueprint: Blueprint, seed: int) -> None:
        self.task = task
        self.blueprint = blueprint
        self.seed = seed

    @cached_property
    def costs(self) -> dict[str, int]:
        """Exact costs, named as in `evo.network.COSTS`."""
        return self.task.network.cost_of(self.blueprint)

    def build(self) -> nn.Module:
        """Return the candidate as a network of its own with copies of the trained weights, in evaluation mode."""
        return self.task.network.build(self.blueprint)

    def rng(self, purpose: str = "") -> np.random.Generator:
        """Return a generator that depends on the run's seed, the structure and `purpose` alone."""
        return generator(self.seed, self.blueprint.key, purpose)


def generator(seed: int, *names: str) -> np.random.Generator:
    """Return a generator that depends on `seed` and `names` alone, the same on every machine and Python."""
    words = [word for name in names for word in (*name.encode(), 256)]
    return np.random.default_rng(np.random.SeedSequence([seed, *words]))
