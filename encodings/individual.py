"""Genomes as DEAP individuals."""

import array
import copy
from collections.abc import Iterable, Sequence
from typing import Any

from deap import base


class ObjectiveValues(base.Fitness):  # type: ignore[misc]
    """A DEAP fitness whose weights belong to the instance, so that one class serves every set of objectives.

    `values` holds the objectives as the fitness function returned them; weights are +1 (maximised) or −1 (minimised). It is
    invalid (`valid` is false) until the individual has been evaluated, and stays so if the evaluation failed.
    """

    def __init__(self, weights: Sequence[float], values: Sequence[float] = ()) -> None:
        self.weights = tuple(weights)
        super().__init__(values)

    def __deepcopy__(self, memo: dict[int, Any]) -> "ObjectiveValues":
        copied = type(self)(self.weights)
        copied.wvalues = self.wvalues
        return copied


class Individual(array.array):  # type: ignore[type-arg]
    """A genome: an array of integers that DEAP's operators and a user's own loop can slice, swap, compare and copy.

    Attributes:
        fitness: the objectives, see ObjectiveValues.
        parents: row numbers of its parents in the run's history.
        operator: what made it, e.g. "initial", "crossover", "mutation".
        row: its own row number, once it has one.
    """

    fitness: ObjectiveValues
    parents: tuple[int, ...]
    operator: str
    row: int | None

    def __new__(cls, typecode: str, genes: Iterable[int] | bytes, weights: Sequence[float]) -> "Individual":
        """Make an unevaluated individual of `genes` in an array of `typecode`, with DEAP's `weights` per objective."""
        self = super().__new__(cls, typecode, genes)
        self.fitness = ObjectiveValues(weights)
        self.parents, self.operator, self.row = (), "", None
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> "Individual":
        copied = type(self)(self.typecode, self.tobytes(), self.fitness.weights)
        copied.fitness = copy.deepcopy(self.fitness, memo)
        copied.parents, copied.operator, copied.row = self.parents, self.operator, self.row
        return copied

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.typecode, self.tobytes(), self.fitness.weights), self.__dict__
