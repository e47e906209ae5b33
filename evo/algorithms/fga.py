"""FNP's fast genetic algorithm (Algorithm 2): a local search around the encoding's first population."""

import hashlib
import heapq
from collections.abc import Callable, Sequence
from typing import Annotated, Any

from pydantic import Field, PrivateAttr

from evo.algorithms.base import Algorithm
from evo.encodings.individual import Individual
from evo.errors import SettingsError
from evo.fitness.base import Objective

REDRAWS = 100
"""Draws in a row that may all repeat earlier genomes before it is taken that there are no new ones."""

_DIGEST = 16
"""Bytes of the hash by which a genome is remembered."""


class FGA(Algorithm):
    """Evolution as FNP prints it, by the first objective, whatever its direction and sign.

    The first round is the encoding's initial population. Every later one consists of mutations of, and crossovers between,
    the parents: the best so far, the parents of the round before included. A genome that was proposed before is drawn
    again. Individuals whose evaluation failed are never parents.

    The paper does not say what to do when few parents have no new children left (`REDRAWS` crossovers in a row repeat
    earlier genomes): the rest of that round are mutations. Only where these too make nothing new, repeats are proposed.
    """

    generations: Annotated[int, Field(ge=1, description="n, rounds after the first population (20 in the paper)")] = 20
    population: Annotated[int, Field(ge=2, description="s, individuals per round (50 in the paper)")] = 50
    parents: Annotated[int, Field(ge=2, description="K, best individuals that the next round descends from")] = 10
    mutation_share: Annotated[
        float,
        Field(ge=0, le=1, description="share of mutations; the rest are crossovers, while these make anything new"),
    ] = 0.5

    _best: list[Individual] = PrivateAttr(default_factory=list)
    _seen: dict[bytes, None] = PrivateAttr(default_factory=dict)
    _duplicates: int = PrivateAttr(default=0)

    @property
    def rounds(self) -> int:
        """n + 1."""
        return self.generations + 1

    def check(self, objectives: Sequence[Objective]) -> None:
        """Accept every set of objectives; the first one counts."""

    def _propose(self) -> list[Individual]:
        self._duplicates = 0
        if self._generation == 0:
            self._best, self._seen = [], {}
            return self._fresh(self.population, self._first)
        if not self._best:
            raise SettingsError("FGA: every evaluation so far failed; nothing to go on with")
        # A crossover of a parent with itself makes nothing new.
        mutants = round(self.mutation_share * self.population) if len(self._best) > 1 else self.population
        proposed = self._fresh(mutants, lambda _: self._mutant())
        proposed += self._fresh(self.population - mutants, lambda _: self._crossed(), repeat=False)
        return proposed + self._fresh(self.population - len(proposed), lambda _: self._mutant())

    def _fresh(self, count: int, draw: Callable[[int], list[Individual]], *, repeat: bool = True) -> list[Individual]:
        """Return new genomes of those that `draw`, given how many are missing, makes.

        Args:
            count: how many.
            draw: returns individuals.
            repeat: whether to fill up with repeats when `REDRAWS` in a row were nothing else; fewer are returned otherwise.
        """
        fresh: list[Individual] = []
        repeats = 0
        while len(fresh) < count and (repeat or repeats <= REDRAWS):
            for one in draw(count - len(fresh)):
                if len(fresh) == count:
                    break  # two children, one place
                digest = hashlib.blake2b(self.space.pack(one), digest_size=_DIGEST).digest()
                known = digest in self._seen
                self._duplicates += known
                repeats = repeats + 1 if known else 0
                if not known or (repeat and repeats > REDRAWS):
                    self._seen[digest] = None
                    fresh.append(one)
        return fresh

    def _first(self, count: int) -> list[Individual]:
        drawn = self.space.initial(count, self._rng)
        for one in drawn:
            one.operator = "initial"
        return drawn

    def _mutant(self) -> list[Individual]:
        parent = self._best[int(self._rng.integers(len(self._best)))]
        child = _child("mutation", parent)
        self.space.mutate(child, self._rng)
        return [child]

    def _crossed(self) -> list[Individual]:
        first, second = (self._best[index] for index in self._rng.choice(len(self._best), 2, replace=False))
        children = _child("crossover", first, second), _child("crossover", second, first)
        self.space.mate(*children, self._rng)
        return list(children)

    def _learn(self, evaluated: list[Individual]) -> None:
        pool: dict[bytes, Individual] = {}
        for one in (*self._best, *evaluated):
            if one.fitness.valid:
                pool.setdefault(one.tobytes(), one)
        # Among equals, the older ones come first.
        self._best = heapq.nlargest(self.parents, pool.values(), key=lambda one: one.fitness.wvalues[0])

    def statistics(self, individuals: Sequence[Individual]) -> dict[str, float]:
        """Return also the number of `duplicates`, draws for this round that repeat an earlier genome."""
        return {"duplicates": self._duplicates, **super().statistics(individuals)}

    def _save(self) -> dict[str, Any]:
        return {"best": [self._pack(one) for one in self._best], "seen": b"".join(self._seen).hex()}

    def _restore(self, state: dict[str, Any]) -> None:
        self._best = [self._unpack(packed) for packed in state["best"]]
        seen = bytes.fromhex(state["seen"])
        self._seen = {seen[start : start + _DIGEST]: None for start in range(0, len(seen), _DIGEST)}


def _child(operator: str, *parents: Individual) -> Individual:
    """Return an unevaluated copy of the first of these parents."""
    child = Individual(parents[0].typecode, parents[0].tobytes(), parents[0].fitness.weights)
    child.operator = operator
    child.parents = tuple(parent.row for parent in parents if parent.row is not None)
    return child
