"""Encodings: how genomes become networks."""

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray

from evo.blueprint import Blueprint
from evo.budget import Limits
from evo.encodings.individual import Individual
from evo.network import Network
from evo.settings import Settings


class GenomeSpace(ABC):
    """An encoding bound to one network and one set of objectives: makes, varies and decodes genomes.

    Operators follow DEAP's convention: they change their arguments in place and return them as a tuple. All randomness
    comes from the generator that is passed in.
    """

    size: int
    """Number of genes."""

    @abstractmethod
    def initial(self, count: int, rng: np.random.Generator) -> list[Individual]:
        """Return `count` legal genomes for a first population."""

    @abstractmethod
    def decode(self, individual: Individual) -> Blueprint:
        """Return the structure that a legal genome stands for."""

    @abstractmethod
    def counts(self, individual: Individual) -> NDArray[np.int64]:
        """Return kept channels per coupling group, shape (G,), in the network's order: those of `decode`, but cheap."""

    @abstractmethod
    def encode(self, blueprint: Blueprint) -> Individual:
        """Return the genome of a structure: `decode(encode(b)) == b`."""

    @abstractmethod
    def repair(self, individual: Individual) -> Individual:
        """Make a genome legal in place, changing as little as possible, and return it; a legal one stays as it is."""

    @abstractmethod
    def mate(self, first: Individual, second: Individual, rng: np.random.Generator) -> tuple[Individual, Individual]:
        """Cross two genomes in place."""

    @abstractmethod
    def mutate(self, individual: Individual, rng: np.random.Generator) -> tuple[Individual]:
        """Mutate a genome in place."""

    @abstractmethod
    def pack(self, individual: Individual) -> bytes:
        """Return a genome as bytes, as small as it goes."""

    @abstractmethod
    def unpack(self, packed: bytes) -> Individual:
        """Return the genome that `pack` packed."""


class Encoding(Settings, ABC):
    """Settings of an encoding; `bind` makes the space of genomes for one network."""

    @abstractmethod
    def bind(self, network: Network, weights: tuple[float, ...], limits: Limits | None = None) -> GenomeSpace:
        """Return the genomes of `network`.

        Args:
            network: what they are cut from.
            weights: DEAP's, of the fitness: +1 per maximised objective, −1 per minimised.
            limits: what candidates have to obey. `evo.encodings.budgeted.Budgeted` sees to that for every encoding; this
                one may use them to begin near where they are met.
        """
