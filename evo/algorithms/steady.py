"""Algorithms that can also work without generations: a child is proposed as soon as somebody is free to evaluate it."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import Field, PrivateAttr

from evo.algorithms import genomes
from evo.algorithms.base import Algorithm
from evo.encodings.base import GenomeSpace
from evo.encodings.individual import Individual
from evo.fitness.base import Objective


class SteadyState(Algorithm):
    """An algorithm that proposes whole generations or, with `asynchronous`, one individual or family at a time.

    Asynchronous: `ask` and `tell` in any order, as often as one likes. `ask` returns the next individual or those that
    belong together, and never has to wait: while there is nothing to descend from, it draws from the encoding's first
    population. `tell` takes any that are outstanding, each once. `ask` returns None after `rounds` × `population`
    individuals; a generation is finished with every `population` results told. What is proposed depends on the seed and on
    the order of these calls, and `state` may be saved between any two.
    """

    population: Annotated[int, Field(ge=2, description="individuals per generation")]
    asynchronous: Annotated[
        bool,
        Field(
            description="propose a child as soon as a worker is free, instead of whole generations: all workers stay busy, "
            "also many more than a generation has room for; proposes rounds × population individuals in all"
        ),
    ] = False

    _proposed: int = PrivateAttr(default=0)
    _told: int = PrivateAttr(default=0)
    _outstanding: dict[int, tuple[Individual, list[Individual]]] = PrivateAttr(default_factory=dict)

    @abstractmethod
    def _next(self, most: int) -> list[Individual]:
        """Return the next individual, or up to `most` that are learned of together: children, or of the first population."""

    @abstractmethod
    def _take(self, family: list[Individual]) -> None:
        """Learn of what `_next` returned together, now that all of them are told."""

    @property
    def proposed(self) -> int:
        """Individuals asked for so far; of an asynchronous search."""
        return self._proposed

    @property
    def told(self) -> int:
        """Individuals told so far; of an asynchronous search."""
        return self._told

    @property
    def outstanding(self) -> list[Individual]:
        """The individuals asked for and not told, in the order asked; of an asynchronous search."""
        return [individual for individual, _ in self._outstanding.values()]

    @property
    def _begun(self) -> bool:
        """Whether enough is known to descend from: half a population proposed first has come back."""
        return self._proposed >= self.population and 2 * self._told >= self.population

    @property
    def places(self) -> int:
        """The first population."""
        return self.population

    def start(
        self, space: GenomeSpace, objectives: Sequence[Objective], seed: int, seeds: Sequence[Individual] = ()
    ) -> None:
        """Begin a new search, see `Algorithm.start`."""
        super().start(space, objectives, seed, seeds)
        self._proposed = self._told = 0
        self._outstanding = {}

    def ask(self) -> list[Individual] | None:
        """Return individuals to evaluate, or None when the search is over.

        Raises:
            RuntimeError: not started, or, if not asynchronous, the last ones have not been told.
        """
        if not self.asynchronous:
            return super().ask()
        _ = self.space
        most = self.rounds * self.population - self._proposed
        if most <= 0:
            return None
        family = self._next(most)
        self._proposed += len(family)
        self._outstanding |= {id(individual): (individual, family) for individual in family}
        return list(family)

    def tell(self, evaluated: Sequence[Individual]) -> None:
        """Learn the results of the individuals that `ask` returned; if asynchronous, of any of them, in any order.

        Raises:
            RuntimeError: not asynchronous, and nothing was asked.
            ValueError: these are not the individuals that were asked or, if asynchronous, some of them are not outstanding.
        """
        if not self.asynchronous:
            super().tell(evaluated)
            return
        told = {id(individual) for individual in evaluated}
        if len(told) < len(evaluated) or not told <= self._outstanding.keys():
            raise ValueError(
                f"{type(self).__name__}: tell() takes individuals that ask() returned, each once; of these {len(evaluated)}, "
                f"some are not among the {len(self._outstanding)} outstanding"
            )
        for individual in evaluated:
            _, family = self._outstanding.pop(id(individual))
            self._told += 1
            self._generation = self._told // self.population
            if not any(id(one) in self._outstanding for one in family):
                self._take(family)

    def state(self) -> dict[str, Any]:
        """Return everything needed to go on later, as plain values for JSON; if not asynchronous, only after tell."""
        if not self.asynchronous:
            return super().state()
        families = list({id(family): family for _, family in self._outstanding.values()}.values())
        members = [individual for family in families for individual in family]
        return {
            **super().state(),
            "proposed": self._proposed,
            "told": self._told,
            "families": {
                "sizes": [len(family) for family in families],
                "open": [id(individual) in self._outstanding for individual in members],
                "members": genomes.pack(self.space, members),
            },
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned, with what was outstanding; call `start` first."""
        super().restore(state)
        if not self.asynchronous:
            return
        self._proposed, self._told, self._outstanding = state["proposed"], state["told"], {}
        families = state["families"]
        members = zip(genomes.unpack(self.space, families["members"]), families["open"], strict=True)
        for size in families["sizes"]:
            family = [next(members) for _ in range(size)]
            individuals = [individual for individual, _ in family]
            self._outstanding |= {id(one): (one, individuals) for one, is_open in family if is_open}
