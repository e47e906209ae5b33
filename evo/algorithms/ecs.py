"""ECS, Algorithm 1: a genetic algorithm with roulette selection that keeps the fitter of two children."""

import copy
from collections.abc import Sequence
from operator import attrgetter
from typing import Annotated, Any

from deap import tools
from pydantic import Field, PrivateAttr, model_validator

from evo.algorithms.base import Algorithm, deap_random
from evo.encodings.individual import Individual
from evo.errors import SettingsError
from evo.fitness.base import Objective

_PARENTS = {"copy": 1, "crossover": 2, "mutation": 1, "initial": 1}  # drawn per slot; as many children come of them


class ECS(Algorithm):
    """Evolution as ECS prints it; maximises the first objective, which has to be positive.

    The first generation is the encoding's initial population. In every later one, slot 1 is the best of the last; each other
    slot is, by chance, a copy of one parent, the fitter child of two crossed parents, or one mutated parent. Parents are
    drawn by roulette (eq. 8). Individuals whose evaluation failed are never parents.
    """

    generations: Annotated[int, Field(ge=1, description="T, the first population included (100 in the paper)")] = 20
    population: Annotated[int, Field(ge=2, description="K, individuals per generation (1,000 in the paper)")] = 50
    copy_share: Annotated[float, Field(ge=0, le=1, description="s₁, chance that a slot copies a parent")] = 0.2
    crossover_share: Annotated[float, Field(ge=0, le=1, description="s₂, chance of a crossover")] = 0.7
    mutation_share: Annotated[float, Field(ge=0, le=1, description="s₃, chance of a mutation")] = 0.1

    _population: list[Individual] = PrivateAttr(default_factory=list)
    _plan: list[str] = PrivateAttr(default_factory=list)

    @model_validator(mode="after")
    def _check_shares(self) -> "ECS":
        total = self.copy_share + self.crossover_share + self.mutation_share
        if abs(total - 1) > 1e-9:
            raise ValueError(f"copy_share + crossover_share + mutation_share must be 1, they add up to {total:g}")
        return self

    @property
    def rounds(self) -> int:
        """T."""
        return self.generations

    def check(self, objectives: Sequence[Objective]) -> None:
        """Refuse a first objective that is minimised: roulette needs shares of something that is good."""
        if not objectives[0].maximize:
            raise SettingsError(
                f"ECS maximises one positive objective, but the fitness minimises {objectives[0].name!r}; "
                "let it return one to maximise, e.g. fitness = 1 − error"
            )

    def _propose(self) -> list[Individual]:
        if self._generation == 0:
            self._population = []
            proposed = self.space.initial(self.population, self._rng)
            for individual in proposed:
                individual.operator = "initial"
            self._plan = ["initial"] * len(proposed)
            return proposed
        parents = self._parents()
        kinds = [self._kind(draw) for draw in self._rng.random(self.population - 1)]
        with deap_random(self._rng):
            spins = iter(tools.selRoulette(parents, sum(_PARENTS[kind] for kind in kinds)))
        self._plan = ["best", *kinds]
        self._population = tools.selBest(parents, 1)
        proposed = []
        for kind in kinds:
            drawn = [next(spins) for _ in range(_PARENTS[kind])]
            if kind == "copy":
                self._population += drawn
                continue
            children = [copy.deepcopy(parent) for parent in drawn]
            if kind == "crossover":
                self.space.mate(children[0], children[1], self._rng)
            else:
                self.space.mutate(children[0], self._rng)
            rows = tuple(parent.row for parent in drawn if parent.row is not None)
            for child in children:
                del child.fitness.values
                child.operator, child.parents, child.row = kind, rows, None
            proposed += children
        return proposed

    def _kind(self, draw: float) -> str:
        """Return how a slot is filled for a draw s in [0, 1)."""
        if draw < self.copy_share:
            return "copy"
        return "crossover" if draw < self.copy_share + self.crossover_share else "mutation"

    def _parents(self) -> list[Individual]:
        """Return the individuals that roulette can draw: evaluated, with a positive fitness."""
        evaluated = [individual for individual in self._population if individual.fitness.valid]
        if not evaluated:
            raise SettingsError(
                f"ECS: every evaluation of generation {self._generation - 1} failed; nothing to go on with"
            )
        positive = [individual for individual in evaluated if individual.fitness.values[0] > 0]
        if not positive:
            best = tools.selBest(evaluated, 1)[0].fitness.values[0]
            raise SettingsError(
                f"ECS needs a positive fitness, the best of generation {self._generation - 1} is {best:g}"
            )
        return positive

    def _learn(self, evaluated: list[Individual]) -> None:
        results = iter(evaluated)
        kept = iter(self._population)
        following = []
        for kind in self._plan:
            if kind in ("best", "copy"):
                following.append(next(kept))
                continue
            family = [next(results) for _ in range(_PARENTS[kind])]
            valid = [child for child in family if child.fitness.valid]
            following.append(max(valid, key=attrgetter("fitness")) if valid else family[0])
        self._population = following

    def _save(self) -> dict[str, Any]:
        return {"population": [self._pack(individual) for individual in self._population]}

    def _restore(self, state: dict[str, Any]) -> None:
        self._population = [self._unpack(packed) for packed in state["population"]]
