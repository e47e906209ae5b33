"""Channels per layer (FNP): how many filters each coupling group keeps; which ones, a selection decides."""

from functools import cached_property
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from evo.blueprint import Blueprint
from evo.budget import Limits
from evo.encodings.base import Encoding, GenomeSpace
from evo.encodings.channels import (
    Free,
    FreeChannels,
    MinChannels,
    Mutation,
    Select,
    check_least,
    refuse_bits,
)
from evo.encodings.individual import Individual
from evo.encodings.levels import Genes
from evo.errors import SettingsError
from evo.importance import FilterSelection, ImportanceMatrix
from evo.importance.widest import widest
from evo.task import Task

DEFAULT_GAMMA = 0.5
DEFAULT_LAM = 0.5


class ChannelVector(Encoding):
    """FNP's genome V = [C₁ … C_L]: the number of channels that every free coupling group keeps."""

    select: Select = "knn"
    initial: Annotated[
        Literal["importance_matrix", "capacity", "random"],
        Field(
            description="first population: mutations of V*, the channels that the `importance_matrix` finds (the paper), or "
            "those of the largest `capacity` within the budget, a closed form of which millions are compared; or "
            "`random`, the whole network, then every number of channels uniform in its logarithm, of half the layers alike"
        ),
    ] = "importance_matrix"
    gamma: Annotated[
        float | None,
        Field(
            ge=0,
            lt=1,
            description="share γ of the weights that falls for V*; default the smallest with which V* is within the budget, "
            f"{DEFAULT_GAMMA} without one",
        ),
    ] = None
    lam: Annotated[
        float,
        Field(
            ge=0,
            description="λ: how much more readily weights of expensive layers fall (the paper has 0.4 to 20); 0 compares "
            "magnitudes alone",
        ),
    ] = DEFAULT_LAM
    perturb: Annotated[
        int,
        Field(ge=1, description="largest change of a gene by mutation, F; at most a quarter of its range, rounded up"),
    ] = 4
    mutation: Mutation = 0.1
    free: Free = ("*",)
    min_channels: MinChannels = 1

    def bind(self, task: Task, weights: tuple[float, ...], limits: Limits | None = None) -> "ChannelVectorSpace":
        """Return the channel vectors of the network; without `gamma`, V* is the largest that is within `limits`.

        Raises:
            SettingsError: a pattern of `free` matches no group, or V* exceeds the limits whatever γ.
        """
        return ChannelVectorSpace(self, task, weights, limits)


class ChannelVectorSpace(GenomeSpace):
    """Channel vectors of one network: a gene per free group in module order, its kept channels; typecode "i"."""

    def __init__(
        self, settings: ChannelVector, task: Task, weights: tuple[float, ...], limits: Limits | None = None
    ) -> None:
        network = task.network
        self.settings = settings
        self._network = network
        self._weights = weights
        self._limits = limits
        self._channels = FreeChannels(network, settings.free, settings.min_channels)
        self._levels = self._channels.levels
        self.size = self._levels.top.size
        # Where a layer has four widths, four steps are no small change: they would lead from anywhere to either end.
        self._farthest = np.clip(-(-self._levels.top // 4), 1, settings.perturb)
        self._packed = np.dtype("<u2" if self._levels.most.max() < 2**16 else "<u4")
        self._selection = FilterSelection(network, settings.select, samples=task.train)
        check_least(limits, self._channels.counts(self._levels.least))
        if settings.initial == "capacity" and limits is None:
            raise SettingsError("initial: 'capacity' looks for the best within a budget, but there is none")
        if settings.initial != "random":
            _ = self.start  # now, not in the middle of a search

    @property
    def start(self) -> Individual:
        """V*, the channels that the importance matrix keeps (FNP eq. 7) or of the largest capacity, as a new individual."""
        return self.individual(self._roomiest if self.settings.initial == "capacity" else self._preprocessed[1])

    @property
    def gamma(self) -> float:
        """The share γ of the weights that falls for the importance matrix's V*: that of the settings, or the one found."""
        return self._preprocessed[0]

    @cached_property
    def _preprocessed(self) -> tuple[float, Genes]:
        """γ, and the genes of V*."""
        own, limits = self.settings, self._limits
        matrix = ImportanceMatrix(self._network, own.lam, own.free, own.min_channels)
        if own.gamma is not None or limits is None:
            gamma = DEFAULT_GAMMA if own.gamma is None else own.gamma
            return gamma, matrix.counts(gamma)[self._channels.groups]
        found = matrix.fitting(lambda counts: bool(limits.fits(counts)))
        if found is None:
            raise SettingsError(
                f"budget: {limits.describe()} is not met by V* at any gamma; set gamma, or initial to 'random', and "
                "candidates that exceed it are drawn again"
            )
        return found[0], found[1][self._channels.groups]

    @cached_property
    def _roomiest(self) -> Genes:
        """The genes of the largest capacity within the limits."""
        limits, costs = self._limits, self._network.costs
        assert limits is not None

        def counts(levels: Genes) -> Genes:
            return self._channels.counts(self._levels.values(levels))

        levels = widest(
            lambda levels: costs.capacity(counts(levels)),
            lambda levels: limits.fits(counts(levels)),
            self._levels.top,
            np.random.default_rng(0),
        )
        return self._levels.values(levels)

    @property
    def seeds(self) -> list[Individual]:
        """The whole network before a random first population, whose fronts would else lack the end that is most accurate."""
        return [self.individual(self._levels.most)] if self.settings.initial == "random" else []

    def individual(self, genes: NDArray[np.integer[Any]]) -> Individual:
        """Return kept channels of the free groups, shape (size,), as a new individual."""
        return Individual("i", genes.astype(np.int32).tobytes(), self._weights)

    def initial(self, count: int, rng: np.random.Generator) -> list[Individual]:
        """Return `count` mutations of V* (FNP, Algorithm 2), or vectors drawn as the settings say."""
        if self.settings.initial != "random":
            return [self.mutate(self.start, rng)[0] for _ in range(count)]
        return [self.individual(genes) for genes in self._channels.random(count, rng)]

    def decode(self, individual: Individual) -> Blueprint:
        """Return the structure in which the selection decides which filters make up these numbers."""
        return Blueprint.from_masks(self._selection.masks(self.counts(individual)))

    def counts(self, individual: Individual) -> Genes:
        """Return kept channels per coupling group, shape (G,): the genes, and all channels of groups that are not free."""
        return self._channels.counts(_view(individual))

    def encode(self, blueprint: Blueprint) -> Individual:
        """Return the kept channels of the free groups; it decodes to `blueprint` if the selection would keep the same.

        Raises:
            SettingsError: a group that is not free has lost channels, a free one keeps a number that it cannot, or a layer has
                bits.
        """
        refuse_bits(blueprint)
        return self.individual(self._channels.kept(blueprint))

    def nearest(self, blueprint: Blueprint) -> Individual:
        """Return as many channels of the free groups, or the next numbers that these can keep; weight bits are left out."""
        return self.individual(self._channels.nearest(blueprint))

    def repair(self, individual: Individual) -> Individual:
        """Raise every gene to the next number of channels that its group can keep, or lower it to all of them."""
        self._levels.repair(_view(individual))
        return individual

    def mate(self, first: Individual, second: Individual, rng: np.random.Generator) -> tuple[Individual, Individual]:
        """Swap every gene with probability 1/2."""
        one, two = _view(first), _view(second)
        swapped = rng.random(self.size) < 0.5
        one[swapped], two[swapped] = two[swapped], one[swapped]
        return first, second

    def mutate(self, individual: Individual, rng: np.random.Generator) -> tuple[Individual]:
        """Move genes, each with the settings' probability, by 1 to `perturb` steps up or down within their range.

        A gene moves by a quarter of its range at most, rounded up. At least one changes, if any can (see `Levels.mutate`).
        """
        self._levels.mutate(_view(individual), rng, self.settings.mutation, self._farthest)
        return (individual,)

    def pack(self, individual: Individual) -> bytes:
        """Return two bytes per gene, or four if a group has 65,536 channels or more."""
        return _view(individual).astype(self._packed).tobytes()

    def unpack(self, packed: bytes) -> Individual:
        """Return the individual that `pack` packed."""
        return self.individual(np.frombuffer(packed, self._packed))


def _view(individual: Individual) -> NDArray[np.int32]:
    """Return the genes as a writable NumPy view."""
    return np.frombuffer(individual, dtype=np.int32)
