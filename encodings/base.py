"""Encodings: how genomes become networks."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from evo.blueprint import Blueprint
from evo.budget import Limits
from evo.encodings.individual import Individual
from evo.network import Network
from evo.settings import Settings
from evo.task import Task


class GenomeSpace(ABC):
    """An encoding bound to one task and one set of objectives: makes, varies and decodes genomes.

    Operators follow DEAP's convention: they change their arguments in place and return them as a tuple. All randomness
    comes from the generator that is passed in.
    """

    size: int
    """Number of genes."""

    @property
    def seeds(self) -> list[Individual]:
        """New individuals that a search begins with, after those that it is given and before those of `initial`; or none."""
        return []

    @abstractmethod
    def initial(self, count: int, rng: np.random.Generator) -> list[Individual]:
        """Return `count` legal genomes for a first population."""

    @abstractmethod
    def decode(self, individual: Individual) -> Blueprint:
        """Return the structure that a legal genome stands for."""

    @abstractmethod
    def counts(self, individual: Individual) -> NDArray[np.int64]:
        """Return kept channels per coupling group, shape (G,), in the network's order: those of `decode`, but cheap."""

    def bits(self, individual: Individual) -> NDArray[np.int64] | None:
        """Return weight bits per layer of the network's `costs.layers`, shape (L,), as `Network.bits` does those of `decode`.

        An encoding that quantises nothing returns None, for all of its genomes.
        """
        return None

    @abstractmethod
    def encode(self, blueprint: Blueprint) -> Individual:
        """Return the genome of a structure: `decode(encode(b)) == b`."""

    def nearest(self, blueprint: Blueprint) -> Individual:
        """Return the genome of the structure closest to one of another encoding, or with other limits, of the same network.

        This is the repaired genome of `encode`; an encoding that expresses only part of a structure takes that part.
        """
        return self.repair(self.encode(blueprint))

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


def bits_of(space: GenomeSpace, individuals: Sequence[Individual]) -> NDArray[np.int64] | None:
    """Return weight bits of all `individuals`, shape (N, L); None if the encoding quantises nothing."""
    found = [space.bits(individual) for individual in individuals]
    return None if any(bits is None for bits in found) else np.stack([bits for bits in found if bits is not None])


class Encoding(Settings, ABC):
    """Settings of an encoding; `bind` makes the space of genomes for one task."""

    @abstractmethod
    def bind(self, task: Task, weights: tuple[float, ...], limits: Limits | None = None) -> GenomeSpace:
        """Return the genomes of the task's network.

        Args:
            task: the network that they are cut from, and its data.
            weights: DEAP's, of the fitness: +1 per maximised objective, −1 per minimised.
            limits: what candidates have to obey. `evo.encodings.budgeted.Budgeted` sees to that for every encoding; this
                one may use them to begin near where they are met.
        """

    def fewest_bits(self, network: Network) -> NDArray[np.int64] | None:
        """Return the fewest weight bits that a genome can give each layer of `costs.layers`, shape (L,); None: none ever."""
        return None
