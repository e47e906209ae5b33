"""What encodings of channel numbers have in common: their settings, which groups are free, and what these may keep."""

from collections.abc import Sequence
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PlainSerializer, PlainValidator

from evo.blueprint import Blueprint
from evo.budget import Limits
from evo.encodings.levels import Genes, Levels
from evo.errors import SettingsError
from evo.importance import CRITERIA, Criterion
from evo.importance.criteria import criterion_of
from evo.importance.filters import free_groups
from evo.network import Network


def _checked(select: object) -> str | Criterion:
    criterion = criterion_of(select)
    return select if isinstance(select, str) else criterion


def _named(select: str | Criterion) -> str:
    return select if isinstance(select, str) else CRITERIA.name_of(select)


Select = Annotated[
    str | Criterion,
    PlainValidator(_checked),
    PlainSerializer(_named),
    Field(
        description="which filters stay: `knn` (k-reciprocal nearest, FNP), `kmeans`, `l1`, `l2`, `bn_scale` (|γ| of "
        "batch normalisation), `ocnna` (variation of feature maps on 5,000 training images), `random`; of a plug-in; or, as "
        "module:attribute, a function under `@evo.importance.criterion`"
    ),
]
Free = Annotated[
    tuple[str, ...],
    Field(
        min_length=1,
        description="coupling groups that may shrink, as names or patterns such as `layer*.conv1`; the others stay whole",
    ),
]
MinChannels = Annotated[int, Field(ge=1, description="channels that every free group keeps at least")]
Mutation = Annotated[float, Field(gt=0, le=1, description="probability that mutation changes a gene")]


class FreeChannels:
    """The coupling groups of a network that an encoding may shrink, in module order.

    Attributes:
        network: whose groups they are.
        groups: positions of the free ones among them, shape (F,).
        levels: what each may keep.
    """

    def __init__(self, network: Network, free: Sequence[str], min_channels: int) -> None:
        """Take settings.

        Raises:
            SettingsError: a pattern of `free` matches no group.
        """
        self.network = network
        self.groups = np.flatnonzero(free_groups(network, free))
        groups = [network.groups[index] for index in self.groups]
        self.levels = Levels(
            np.array([group.legal_count(min(min_channels, group.size)) for group in groups]),
            network.costs.sizes[self.groups],
            np.array([group.step for group in groups], dtype=np.int64),
        )

    def counts(self, kept: NDArray[np.integer]) -> Genes:
        """Return kept channels of all groups, shape (…, G), given those of the free ones, shape (…, F); the rest keep all."""
        sizes = self.network.costs.sizes
        counts = np.broadcast_to(sizes, (*kept.shape[:-1], sizes.size)).copy()
        counts[..., self.groups] = kept
        return counts

    def kept(self, blueprint: Blueprint) -> Genes:
        """Return what the free groups keep, shape (F,).

        Raises:
            SettingsError: a group that is not free has lost channels, or a free one keeps a number that it cannot.
        """
        counts = self.network.counts(blueprint)
        kept = self.nearest(blueprint)
        legal = self.counts(kept)
        if (legal != counts).any():
            index = int(np.flatnonzero(legal != counts)[0])
            group = self.network.groups[index]
            raise SettingsError(
                f"{group.name}: the structure keeps {counts[index]} of {group.size} channels, which this encoding cannot "
                "express (free, min_channels)"
            )
        return kept

    def nearest(self, blueprint: Blueprint) -> Genes:
        """Return what the free groups keep, shape (F,), each raised to the next number that it can keep."""
        return self.levels.values(self.levels.of(self.network.counts(blueprint)[self.groups]))

    def random(self, count: int, rng: np.random.Generator) -> Genes:
        """Return `count` draws, shape (count, F), every number of channels uniform in its logarithm.

        Half of the groups of a draw, on average, keep the same share in that sense. Were all independent, costs of a deep
        network, which are sums over its layers, would hardly differ between draws.
        """
        least, most = self.levels.least, self.levels.most
        place = rng.random((count, least.size))
        place = np.where(rng.random(place.shape) < 0.5, rng.random((count, 1)), place)
        drawn = np.exp(np.log(least) + place * np.log((most + 1) / least)).astype(np.int64)
        return self.levels.values(self.levels.of(drawn))


def check_least(limits: Limits | None, counts: Genes, bits: Genes | None = None) -> None:
    """Raise SettingsError if what keeps the fewest channels of all free groups, with the fewest bits, exceeds the limits."""
    if limits is not None and not limits.fits(counts, bits):
        values = zip(limits.names, limits.values(counts, bits).tolist(), strict=True)
        raise SettingsError(
            f"budget: {limits.describe()} cannot be met; with fewest channels in all free groups (free, min_channels) "
            f"candidates still have {', '.join(f'{name} {value:,}' for name, value in values)}"
        )


def refuse_bits(blueprint: Blueprint) -> None:
    """Raise SettingsError if a structure has bits: for encodings that quantise nothing."""
    for layer, bits in blueprint.layer_bits:
        raise SettingsError(
            f"{layer}: the structure has weights of {bits} bits, which this encoding cannot express; LayerPolicy can"
        )
