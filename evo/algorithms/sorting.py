"""What NSGA-II and NSGA-III have in common: of parents and children the best survive, front by front."""

import itertools
from abc import abstractmethod
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

from deap import tools
from pydantic import Field, PrivateAttr

from evo.algorithms import genomes
from evo.algorithms.genomes import child
from evo.algorithms.novelty import Novelty
from evo.algorithms.steady import SteadyState
from evo.encodings.individual import Individual
from evo.errors import SettingsError
from evo.fitness.base import Objective

_SHARE = 16
"""Asynchronous: the population is selected anew as soon as this part of it has arrived, so that sorting costs little."""


class NonDominatedSorting(SteadyState):
    """Evolution by all objectives, in which the best K of parents and children survive; how, a subclass says.

    The first generation is the encoding's initial population. Every later one is a population of children of the last: of
    one or two parents, by crossover, mutation or both. A genome that was proposed before is drawn again
    (`evo.algorithms.novelty.REDRAWS` times in a row; then repeats are proposed), so that equal ones do not crowd the
    population. Individuals whose evaluation failed are never parents.

    Asynchronous: the same, with a selection whenever a sixteenth of a population has arrived.
    """

    multiobjective: ClassVar[bool] = True

    generations: Annotated[int, Field(ge=1, description="T, the first population included")] = 20
    population: Annotated[
        int, Field(ge=2, description="K, individuals per generation, and at most as many survivors")
    ] = 50
    crossover: Annotated[float, Field(ge=0, le=1, description="chance that a child has two parents")] = 0.9
    mutation: Annotated[
        float, Field(ge=0, le=1, description="chance that such a child is mutated, too; that of one parent always is")
    ] = 0.35

    _population: list[Individual] = PrivateAttr(default_factory=list)
    _arrived: list[Individual] = PrivateAttr(default_factory=list)
    _novelty: Novelty = PrivateAttr(default_factory=Novelty)

    @abstractmethod
    def _survivors(self, fronts: list[list[Individual]]) -> list[Individual]:
        """Return `population` of the individuals in these fronts, the best first, or all if there are fewer."""

    @abstractmethod
    def _parent(self) -> Individual:
        """Return one of the population to have a child."""

    @property
    def rounds(self) -> int:
        """T."""
        return self.generations

    def check(self, objectives: Sequence[Objective]) -> None:
        """Accept every set of objectives; all count."""

    def _reset(self) -> None:
        self._population, self._arrived, self._novelty = [], [], Novelty()

    def _propose(self) -> list[Individual]:
        if self._generation and not self._population:
            raise SettingsError(f"{type(self).__name__}: every evaluation so far failed; nothing to go on with")
        proposed = self._draw(self.population)
        self._novelty.end_generation()
        return proposed

    def _next(self, most: int) -> list[Individual]:
        if self._begun and (not self._population or _SHARE * len(self._arrived) >= self.population):
            self._select()
        return self._draw(1)

    def _draw(self, count: int) -> list[Individual]:
        """Return children or, as long as there are no parents, individuals of the first population."""
        return self._novelty.draw(
            self.space, count, lambda missing: self._child() if self._population else self._first(missing)
        )

    def _child(self) -> list[Individual]:
        """Return one mutation, or two crossovers, mutated or not."""
        if self._rng.random() >= self.crossover:
            children = [child("mutation", self._parent())]
        else:
            first, second = self._parent(), self._parent()
            children = [child("crossover", first, second), child("crossover", second, first)]
            self.space.mate(children[0], children[1], self._rng)
        for one in children:
            if one.operator == "mutation":
                self.space.mutate(one, self._rng)
            elif self._rng.random() < self.mutation:
                self.space.mutate(one, self._rng)
                one.operator = "crossover, mutation"
        return children

    def _learn(self, evaluated: list[Individual]) -> None:
        self._arrived += [one for one in evaluated if one.fitness.valid]
        self._select()

    def _take(self, family: list[Individual]) -> None:
        self._arrived += [one for one in family if one.fitness.valid]
        if self.told % self.population == 0:
            self._novelty.end_generation()

    def _select(self) -> None:
        """Let the best K of population and arrivals survive; of equal genomes one."""
        pool = {one.tobytes(): one for one in (*reversed(self._arrived), *self._population)}
        if pool:
            self._population = self._survivors(_fronts(list(pool.values()), self.population))
        self._arrived = []

    def statistics(self, individuals: Sequence[Individual]) -> dict[str, float]:
        """Return also the number of `duplicates`, draws for this generation that repeat an earlier genome."""
        return {"duplicates": self._novelty.duplicates, **super().statistics(individuals)}

    def _save(self) -> dict[str, Any]:
        return {
            "population": genomes.pack(self.space, self._population),
            "arrived": genomes.pack(self.space, self._arrived),
            "novelty": self._novelty.save(),
        }

    def _restore(self, state: dict[str, Any]) -> None:
        self._population = genomes.unpack(self.space, state["population"])
        self._arrived = genomes.unpack(self.space, state["arrived"])
        self._novelty.restore(state["novelty"])


def _fronts(individuals: list[Individual], enough: int) -> list[list[Individual]]:
    """Return the fronts that at least `enough` of the individuals are in, the best first."""
    if len(individuals[0].fitness.wvalues) > 1:
        fronts: list[list[Individual]] = tools.sortLogNondominated(individuals, enough)
        return fronts
    # Equal values are a front: DEAP's sort takes two objectives or more.
    ordered = sorted(individuals, key=lambda one: one.fitness.wvalues, reverse=True)
    return [list(group) for _, group in itertools.groupby(ordered, key=lambda one: one.fitness.wvalues)]
