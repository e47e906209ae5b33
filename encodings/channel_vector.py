"""Channels per layer (FNP): how many filters each coupling group keeps; which ones, a selection decides."""

from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from evo.blueprint import Blueprint
from evo.budget import Limits
from evo.encodings.base import Encoding, GenomeSpace
from evo.encodings.individual import Individual
from evo.errors import SettingsError
from evo.importance import METHODS, FilterSelection, ImportanceMatrix, Scores
from evo.importance.filters import free_groups
from evo.importance.widest import widest
from evo.importing import named
from evo.network import Network

Genes = NDArray[np.int64]

DEFAULT_GAMMA = 0.5


class ChannelVector(Encoding):
    """FNP's genome V = [C₁ … C_L]: the number of channels that every free coupling group keeps."""

    select: Annotated[
        str,
        Field(
            description="which filters stay: `knn` (k-reciprocal nearest, the paper), `kmeans`, `l1`, `l2`, `bn_scale` (|γ| of "
            "batch normalisation), `random`; or, as module:attribute, a function that takes the `evo.Network` and "
            "returns scores per channel by name of the group, larger stays"
        ),
    ] = "knn"
    initial: Annotated[
        Literal["importance_matrix", "capacity", "random"],
        Field(
            description="first population: mutations of V*, the channels that the `importance_matrix` finds (the paper), or "
            "those of the largest `capacity` within the budget, a closed form of which millions are compared; or "
            "`random`, every number of channels uniform in its logarithm"
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
    ] = 0.5
    perturb: Annotated[int, Field(ge=1, description="largest change of a gene by mutation, F")] = 4
    mutation: Annotated[float, Field(gt=0, le=1, description="probability that mutation changes a gene")] = 0.1
    free: Annotated[
        tuple[str, ...],
        Field(
            min_length=1,
            description="coupling groups that may shrink, as names or patterns such as `layer*.conv1`; the others stay whole",
        ),
    ] = ("*",)
    min_channels: Annotated[int, Field(ge=1, description="channels that every free group keeps at least")] = 1

    @field_validator("select")
    @classmethod
    def _check_select(cls, name: str) -> str:
        _method(name)
        return name

    def bind(self, network: Network, weights: tuple[float, ...], limits: Limits | None = None) -> "ChannelVectorSpace":
        """Return the channel vectors of `network`; without `gamma`, V* is the largest that is within `limits`.

        Raises:
            SettingsError: a pattern of `free` matches no group, or V* exceeds the limits whatever γ.
        """
        return ChannelVectorSpace(self, network, weights, limits)


class ChannelVectorSpace(GenomeSpace):
    """Channel vectors of one network: a gene per free group in module order, its kept channels; typecode "i"."""

    def __init__(
        self, settings: ChannelVector, network: Network, weights: tuple[float, ...], limits: Limits | None = None
    ) -> None:
        self.settings = settings
        self._network = network
        self._weights = weights
        self._limits = limits
        self._free = np.flatnonzero(free_groups(network, settings.free))
        groups = [network.groups[index] for index in self._free]
        self.size = len(groups)
        self._sizes = network.costs.sizes[self._free]
        self._steps = np.array([group.step for group in groups], dtype=np.int64)
        self._least = np.array([group.legal_count(min(settings.min_channels, group.size)) for group in groups])
        # What a gene may be, from the least upwards, are its levels 0 to _top; only the last may be no multiple of the step.
        self._top = -(-(self._sizes - self._least) // self._steps)
        self._packed = np.dtype("<u2" if self._sizes.max() < 2**16 else "<u4")
        self._selection = FilterSelection(network, _method(settings.select))
        if limits is not None and not limits.fits(self._counts(self._least)):
            raise SettingsError(
                f"budget: {limits.describe()} cannot be met; with fewest channels in all free groups (free, min_channels) "
                f"candidates still have {_costs(limits, self._counts(self._least))}"
            )
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
            return gamma, matrix.counts(gamma)[self._free]
        found = matrix.fitting(lambda counts: bool(limits.fits(counts)))
        if found is None:
            raise SettingsError(
                f"budget: {limits.describe()} is not met by V* at any gamma; set gamma, or initial to 'random', and "
                "candidates that exceed it are drawn again"
            )
        return found[0], found[1][self._free]

    @cached_property
    def _roomiest(self) -> Genes:
        """The genes of the largest capacity within the limits."""
        limits, costs = self._limits, self._network.costs
        assert limits is not None

        def counts(levels: Genes) -> Genes:
            kept = np.tile(costs.sizes, (len(levels), 1))
            kept[:, self._free] = self._values(levels)
            return kept

        levels = widest(
            lambda levels: costs.capacity(counts(levels)),
            lambda levels: limits.fits(counts(levels)),
            self._top,
            np.random.default_rng(0),
        )
        return self._values(levels)

    def individual(self, genes: NDArray[np.integer[Any]]) -> Individual:
        """Return kept channels of the free groups, shape (size,), as a new individual."""
        return Individual("i", genes.astype(np.int32).tobytes(), self._weights)

    def initial(self, count: int, rng: np.random.Generator) -> list[Individual]:
        """Return `count` mutations of V* (FNP, Algorithm 2), or vectors drawn as the settings say."""
        if self.settings.initial != "random":
            return [self.mutate(self.start, rng)[0] for _ in range(count)]
        drawn = np.exp(rng.uniform(np.log(self._least), np.log(self._sizes + 1), (count, self.size)))
        return [self.repair(self.individual(genes)) for genes in drawn]

    def decode(self, individual: Individual) -> Blueprint:
        """Return the structure in which the selection decides which filters make up these numbers."""
        return Blueprint.from_masks(self._selection.masks(self.counts(individual)))

    def counts(self, individual: Individual) -> Genes:
        """Return kept channels per coupling group, shape (G,): the genes, and all channels of groups that are not free."""
        return self._counts(_view(individual))

    def _counts(self, genes: NDArray[np.integer[Any]]) -> Genes:
        counts = self._network.costs.sizes.copy()
        counts[self._free] = genes
        return counts

    def encode(self, blueprint: Blueprint) -> Individual:
        """Return the kept channels of the free groups; it decodes to `blueprint` if the selection would keep the same.

        Raises:
            SettingsError: a group that is not free has lost channels, or a free one keeps a number that it cannot.
        """
        counts = self._network.counts(blueprint)
        individual = self.individual(counts[self._free])
        if (self.counts(self.repair(individual)) != counts).any():
            index = int(np.flatnonzero(self.counts(individual) != counts)[0])
            group = self._network.groups[index]
            raise SettingsError(
                f"{group.name}: the structure keeps {counts[index]} of {group.size} channels, which this encoding cannot "
                "express (free, min_channels)"
            )
        return individual

    def repair(self, individual: Individual) -> Individual:
        """Raise every gene to the next number of channels that its group can keep, or lower it to all of them."""
        genes = _view(individual)
        genes[:] = self._values(self._levels(genes))
        return individual

    def _levels(self, genes: NDArray[np.integer[Any]]) -> Genes:
        return np.asarray(np.clip(-(-(genes - self._least) // self._steps), 0, self._top))

    def _values(self, levels: Genes) -> Genes:
        return np.asarray(np.minimum(self._least + levels * self._steps, self._sizes))

    def mate(self, first: Individual, second: Individual, rng: np.random.Generator) -> tuple[Individual, Individual]:
        """Swap every gene with probability 1/2."""
        one, two = _view(first), _view(second)
        swapped = rng.random(self.size) < 0.5
        one[swapped], two[swapped] = two[swapped], one[swapped]
        return first, second

    def mutate(self, individual: Individual, rng: np.random.Generator) -> tuple[Individual]:
        """Move genes, each with the settings' probability, by 1 to `perturb` steps up or down within their range.

        At least one gene changes, if any can: where chance chose none, or only such as are at the end of their range, one
        that it draws anew.
        """
        genes = _view(individual)
        before = self._levels(genes)
        chosen = rng.random(self.size) < self.settings.mutation
        far = rng.integers(1, self.settings.perturb + 1, self.size)
        moves = np.where(rng.random(self.size) < 0.5, -far, far)
        after = np.clip(before + np.where(chosen, moves, 0), 0, self._top)
        movable = np.flatnonzero(self._top)
        if (after == before).all() and movable.size:
            index = rng.choice(movable)
            move = moves[index]
            # At an end of the range there is only one way to go.
            move = move if 0 <= before[index] + np.sign(move) <= self._top[index] else -move
            after[index] = np.clip(before[index] + move, 0, self._top[index])
        genes[:] = self._values(after)
        return (individual,)

    def pack(self, individual: Individual) -> bytes:
        """Return two bytes per gene, or four if a group has 65,536 channels or more."""
        return _view(individual).astype(self._packed).tobytes()

    def unpack(self, packed: bytes) -> Individual:
        """Return the individual that `pack` packed."""
        return self.individual(np.frombuffer(packed, self._packed))


def _method(select: str) -> str | Scores:
    """Return a selection by name, or the function that `select` names."""
    if select in METHODS:
        return select
    found = named("filter selection", select, METHODS, "select", Path.cwd())
    if not callable(found):
        raise SettingsError(f"select: {select} is {found!r}; expected a function that scores the channels of a network")
    return cast(Scores, found)


def _costs(limits: Limits, counts: Genes) -> str:
    """Return the limited costs of a candidate in words."""
    return ", ".join(
        f"{name} {value:,}" for name, value in zip(limits.names, limits.values(counts).tolist(), strict=True)
    )


def _view(individual: Individual) -> NDArray[np.int32]:
    """Return the genes as a writable NumPy view."""
    return np.frombuffer(individual, dtype=np.int32)
