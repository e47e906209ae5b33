"""FNP's fast genetic algorithm (Algorithm 2): a local search around the encoding's first population."""

import heapq
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import Field, PrivateAttr

from evo.algorithms import genomes
from evo.algorithms.genomes import child
from evo.algorithms.novelty import Novelty
from evo.algorithms.steady import SteadyState
from evo.encodings.individual import Individual
from evo.errors import SettingsError
from evo.fitness.base import Objective


class FGA(SteadyState):
    """Evolution as FNP prints it, by the first objective, whatever its direction and sign.

    The first round is the encoding's initial population. Every later one consists of mutations of, and crossovers between,
    the parents: the best so far, the parents of the round before included. A genome that was proposed before is drawn
    again. Individuals whose evaluation failed are never parents.

    The paper does not say what to do when few parents have no new children left (`REDRAWS` crossovers in a row repeat
    earlier genomes): the rest of that round are mutations. Only where these too make nothing new, repeats are proposed.

    Asynchronous (ours): every child is a mutation or a crossover by chance, and its parents the best that are told by then.
    """

    generations: Annotated[int, Field(ge=1, description="n, rounds after the first population (20 in the paper)")] = 20
    population: Annotated[int, Field(ge=2, description="s, individuals per round (50 in the paper)")] = 50
    parents: Annotated[int, Field(ge=2, description="K, best individuals that the next round descends from")] = 10
    mutation_share: Annotated[
        float,
        Field(ge=0, le=1, description="share of mutations; the rest are crossovers, while these make anything new"),
    ] = 0.5

    _best: list[Individual] = PrivateAttr(default_factory=list)
    _novelty: Novelty = PrivateAttr(default_factory=Novelty)
    _exhausted: bool = PrivateAttr(default=False)  # asynchronous: these parents' crossovers made nothing new

    @property
    def rounds(self) -> int:
        """n + 1."""
        return self.generations + 1

    def check(self, objectives: Sequence[Objective]) -> None:
        """Accept every set of objectives; the first one counts."""

    def _reset(self) -> None:
        self._best, self._novelty, self._exhausted = [], Novelty(), False

    def _propose(self) -> list[Individual]:
        proposed = self._round()
        self._novelty.end_generation()
        return proposed

    def _round(self) -> list[Individual]:
        if self._generation == 0:
            return self._novelty.draw(self.space, self.population, self._first)
        if not self._best:
            raise SettingsError("FGA: every evaluation so far failed; nothing to go on with")
        # A crossover of a parent with itself makes nothing new.
        mutants = round(self.mutation_share * self.population) if len(self._best) > 1 else self.population
        proposed = self._mutations(mutants) + self._crossovers(self.population - mutants)
        return proposed + self._mutations(self.population - len(proposed))

    def _next(self, most: int) -> list[Individual]:
        if not (self._begun and self._best):
            return self._novelty.draw(self.space, 1, self._first)
        crossed: list[Individual] = []
        if len(self._best) > 1 and self._rng.random() >= self.mutation_share and not self._exhausted:
            crossed = self._crossovers(1)
            self._exhausted = not crossed
        return crossed or self._mutations(1)

    def _mutations(self, count: int) -> list[Individual]:
        return self._novelty.draw(self.space, count, lambda _: self._mutant())

    def _crossovers(self, count: int) -> list[Individual]:
        return self._novelty.draw(self.space, count, lambda _: self._crossed(), repeat=False)

    def _mutant(self) -> list[Individual]:
        mutant = child("mutation", self._best[int(self._rng.integers(len(self._best)))])
        self.space.mutate(mutant, self._rng)
        return [mutant]

    def _crossed(self) -> list[Individual]:
        first, second = (self._best[index] for index in self._rng.choice(len(self._best), 2, replace=False))
        children = child("crossover", first, second), child("crossover", second, first)
        self.space.mate(*children, self._rng)
        return list(children)

    def _learn(self, evaluated: list[Individual]) -> None:
        pool: dict[bytes, Individual] = {}
        for one in (*self._best, *evaluated):
            if one.fitness.valid:
                pool.setdefault(one.tobytes(), one)
        # Among equals, the older ones come first.
        self._best = heapq.nlargest(self.parents, pool.values(), key=lambda one: one.fitness.wvalues[0])

    def _take(self, family: list[Individual]) -> None:
        before = self._best
        self._learn(family)
        self._exhausted &= self._best == before
        if self.told % self.population == 0:
            self._novelty.end_generation()

    def statistics(self, individuals: Sequence[Individual]) -> dict[str, float]:
        """Return also the number of `duplicates`, draws for this round that repeat an earlier genome."""
        return {"duplicates": self._novelty.duplicates, **super().statistics(individuals)}

    def _save(self) -> dict[str, Any]:
        return {
            "best": genomes.pack(self.space, self._best),
            "novelty": self._novelty.save(),
            "exhausted": self._exhausted,
        }

    def _restore(self, state: dict[str, Any]) -> None:
        self._best = genomes.unpack(self.space, state["best"])
        self._novelty.restore(state["novelty"])
        self._exhausted = state["exhausted"]
