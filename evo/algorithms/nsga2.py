"""NSGA-II: evolution towards the whole front of several objectives (Deb, Pratap, Agarwal & Meyarivan 2002)."""

from deap import tools

from evo.algorithms.sorting import NonDominatedSorting
from evo.encodings.individual import Individual


class NSGA2(NonDominatedSorting):
    """NSGA-II, by all objectives, one or more, each in its direction.

    The first generation is the encoding's initial population. Every later one is a population of children of the last: two
    parents win a binary tournament each, and their child is a crossover, a mutation or both. Of parents and children, the
    best K survive: front by front, and within a front those with the most room around them. A tournament is won by rank,
    then by room, then by youth.

    A genome that was proposed before is drawn again, see `evo.algorithms.sorting.NonDominatedSorting`.

    Asynchronous: the same, with a selection whenever a sixteenth of a population has arrived.
    """

    def _survivors(self, fronts: list[list[Individual]]) -> list[Individual]:
        """Return the best K in the order of rank, room around them, and youth."""
        survivors: list[Individual] = []
        for front in fronts:
            tools.emo.assignCrowdingDist(front)
            survivors += sorted(front, key=lambda one: one.fitness.crowding_dist, reverse=True)
        return survivors[: self.population]

    def _parent(self) -> Individual:
        """Return the winner of a binary tournament: whoever of two comes first in the population."""
        return self._population[int(self._rng.integers(len(self._population), size=2).min())]
