"""ECS, Algorithm 1: a genetic algorithm with roulette selection that keeps the fitter of two children."""

import random
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PrivateAttr, model_validator

from evo.algorithms import genomes
from evo.algorithms.genomes import child
from evo.algorithms.steady import SteadyState
from evo.encodings.individual import Individual
from evo.errors import SettingsError
from evo.fitness.base import Objective

_PARENTS = {"copy": 1, "crossover": 2, "mutation": 1, "initial": 1}  # drawn per slot; as many children come of them


class ECS(SteadyState):
    """Evolution as ECS prints it; maximises the first objective, which has to be positive.

    The first generation is the encoding's initial population. In every later one, slot 1 is the best of the last; each other
    slot is, by chance, a copy of one parent, the fitter child of two crossed parents, or one mutated parent. Parents are
    drawn by roulette (eq. 8). Individuals whose evaluation failed are never parents.

    Asynchronous (ours, what comes closest): the population is a queue of K in the order of age. A slot is filled as above:
    a copied parent enters the queue as its youngest, as does the fitter of two children when both are evaluated, or a
    mutated one. Whoever enters displaces the oldest, but never the best. Children whose evaluation failed do not enter.
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
        if self.asynchronous and self.copy_share == 1:
            raise ValueError("copy_share 1 makes no child, so that an asynchronous search would never end")
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

    def _reset(self) -> None:
        self._population, self._plan = [], []

    def _propose(self) -> list[Individual]:
        if self._generation == 0:
            proposed = self._first(self.population)
            self._plan = ["initial"] * len(proposed)
            return proposed
        # The wheel's sectors lie from the fittest to the least fit, as in DEAP's selRoulette, which takes ever longer per spin.
        parents = sorted(self._positive(), key=_objectives, reverse=True)
        if not parents:
            raise self._no_parents()
        kinds = [self._kind(draw) for draw in self._rng.random(self.population - 1)]
        wheel = random.Random(int(self._rng.integers(2**63)))
        spins = iter(_roulette(parents, [wheel.random() for kind in kinds for _ in range(_PARENTS[kind])]))
        self._plan = ["best", *kinds]
        self._population = parents[:1]
        proposed = []
        for kind in kinds:
            drawn = [next(spins) for _ in range(_PARENTS[kind])]
            if kind == "copy":
                self._population += drawn
            else:
                proposed += self._children(kind, drawn)
        return proposed

    def _next(self, most: int) -> list[Individual]:
        parents = self._positive() if self._begun else []
        if not parents and self._population and self.told >= self.population:
            raise self._no_parents()
        while parents:
            kind = self._kind(self._rng.random())
            drawn = _roulette(parents, self._rng.random(_PARENTS[kind]))
            if kind != "copy":
                return self._children(kind, drawn)[:most]
            self._enter(drawn[0])
            parents = self._positive()
        return self._first(1)

    def _children(self, kind: str, parents: list[Individual]) -> list[Individual]:
        """Return the mutation of one parent, or both children of two."""
        children = [child(kind, parent) for parent in parents]
        if kind == "crossover":
            self.space.mate(children[0], children[1], self._rng)
        else:
            self.space.mutate(children[0], self._rng)
        rows = tuple(parent.row for parent in parents if parent.row is not None)
        for one in children:
            one.parents = rows
        return children

    def _kind(self, draw: float) -> str:
        """Return how a slot is filled for a draw s in [0, 1)."""
        if draw < self.copy_share:
            return "copy"
        return "crossover" if draw < self.copy_share + self.crossover_share else "mutation"

    def _positive(self) -> list[Individual]:
        """Return the individuals that roulette can draw: evaluated, with a positive fitness."""
        return [one for one in self._population if one.fitness.valid and one.fitness.wvalues[0] > 0]

    def _no_parents(self) -> SettingsError:
        """Return what to raise if there is nothing that roulette can draw."""
        where = f"the first {self.told} individuals" if self.asynchronous else f"generation {self._generation - 1}"
        best = _fittest(self._population)
        if best is None:
            return SettingsError(f"ECS: every evaluation of {where} failed; nothing to go on with")
        return SettingsError(f"ECS needs a positive fitness, the best of {where} is {best.fitness.values[0]:g}")

    def _learn(self, evaluated: list[Individual]) -> None:
        results = iter(evaluated)
        kept = iter(self._population)
        following = []
        for kind in self._plan:
            if kind in ("best", "copy"):
                following.append(next(kept))
                continue
            family = [next(results) for _ in range(_PARENTS[kind])]
            following.append(_fittest(family) or family[0])
        self._population = following

    def _take(self, family: list[Individual]) -> None:
        entering = _fittest(family)
        if entering is not None:
            self._enter(entering)

    def _enter(self, individual: Individual) -> None:
        """Let an individual into the queue, as its youngest; the oldest but the best has to go if that is one too many."""
        self._population.append(individual)
        if len(self._population) > self.population:
            oldest = self._population[0]
            is_best = all(oldest.fitness.wvalues >= one.fitness.wvalues for one in self._population)
            del self._population[1 if is_best else 0]

    def _save(self) -> dict[str, Any]:
        return {"population": genomes.pack(self.space, self._population)}

    def _restore(self, state: dict[str, Any]) -> None:
        self._population = genomes.unpack(self.space, state["population"])


def _objectives(individual: Individual) -> tuple[float, ...]:
    """Return what individuals are compared by, the larger the better: much faster than comparing DEAP's fitness objects."""
    values: tuple[float, ...] = individual.fitness.wvalues
    return values


def _fittest(family: list[Individual]) -> Individual | None:
    """Return the first of the fittest whose evaluation succeeded."""
    return max((one for one in family if one.fitness.valid), key=_objectives, default=None)


def _roulette(wheel: list[Individual], draws: Sequence[float] | NDArray[np.float64]) -> list[Individual]:
    """Return an individual for each draw in [0, 1); an individual's sector is as large as its first objective (eq. 8)."""
    fitness = [individual.fitness.wvalues[0] for individual in wheel]
    ends = np.cumsum(fitness)
    sectors = np.searchsorted(ends, np.asarray(draws) * sum(fitness), side="right")
    # The two sums may differ in their last bits, so that a ball can end beyond the last sector.
    return [wheel[min(int(sector), len(wheel) - 1)] for sector in sectors]
