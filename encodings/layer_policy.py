"""Filters and weight bits per layer (AdaLayerNet): how many filters each coupling group keeps, and in how many bits."""

from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from evo.blueprint import FULL_BITS, Blueprint
from evo.budget import Limits
from evo.encodings.base import Encoding, GenomeSpace
from evo.encodings.channels import Free, FreeChannels, MinChannels, Mutation, Select, check_least
from evo.encodings.individual import Individual
from evo.encodings.levels import Genes, Levels
from evo.errors import SettingsError
from evo.importance import FilterSelection
from evo.network import Network
from evo.policy import AdaLayer, closed_form, measured_contributions
from evo.task import Task


class LayerPolicy(Encoding):
    """AdaLayerNet's pair (P, B) per layer as a genome: channels of every free coupling group, bits of every layer's weights.

    It wants a fitness that sees bits, by training and testing the network or by its `bytes`; zero-shot scores do not.
    """

    select: Select = "l1"
    initial: Annotated[
        Literal["closed_form", "random"],
        Field(
            description="first population: the policy of the closed form (AdaLayerNet eq. 1 to 4 and 6), which a search begins "
            "with, and mutations of it; or `random`, numbers of channels uniform in their logarithm, bits uniform"
        ),
    ] = "closed_form"
    bits: Annotated[
        tuple[int, int], Field(description="fewest and most bits of a layer's weights, from 1 to 32; 32 is as they are")
    ] = (2, 8)
    perturb: Annotated[
        float,
        Field(gt=0, le=1, description="largest change of a number of channels by mutation, as a share of its range"),
    ] = 0.125
    perturb_bits: Annotated[int, Field(ge=1, description="largest change of bits by mutation")] = 2
    mutation: Mutation = 0.1
    free: Free = ("*",)
    min_channels: MinChannels = 1
    closed_form: Annotated[
        AdaLayer, Field(description="settings of the closed form, of which b_min and b_max lie within `bits`")
    ] = AdaLayer()
    contributions: Annotated[
        dict[str, float] | None,
        Field(
            description="of the closed form: accuracy contribution A in [0, 1] by coupling group; default measured on the "
            "validation images when the search begins"
        ),
    ] = None

    @model_validator(mode="after")
    def _check_bits(self) -> "LayerPolicy":
        low, high = self.bits
        if not 1 <= low <= high <= FULL_BITS:
            raise ValueError(f"bits is a range (fewest, most) with 1 ≤ fewest ≤ most ≤ {FULL_BITS}")
        own = self.closed_form
        if self.initial == "closed_form" and not low <= own.b_min <= own.b_max <= high:
            raise ValueError(
                f"closed_form gives {own.b_min} to {own.b_max} bits (b_min, b_max), which are not all within bits, {low} to "
                f"{high}"
            )
        return self

    def bind(self, task: Task, weights: tuple[float, ...], limits: Limits | None = None) -> "LayerPolicySpace":
        """Return the policies of the network; the closed form is the one that just meets `limits`.

        Raises:
            SettingsError: a pattern of `free` matches no group, no layer's weights can have bits, or the closed form cannot
                meet the limits.
        """
        return LayerPolicySpace(self, task, weights, limits)

    def fewest_bits(self, network: Network) -> Genes | None:
        """Return the fewest bits that a genome can give each layer, shape (L,)."""
        return network.costs.bits_of(dict.fromkeys(network.quantisable, self.bits[0]))


class LayerPolicySpace(GenomeSpace):
    """Policies of one network: kept channels of the free groups in module order, then bits of the layers; typecode "i"."""

    def __init__(
        self, settings: LayerPolicy, task: Task, weights: tuple[float, ...], limits: Limits | None = None
    ) -> None:
        network = task.network
        self.settings = settings
        self._network = network
        self._weights = weights
        self._channels = FreeChannels(network, settings.free, settings.min_channels)
        self._layers = network.quantisable
        if not self._layers:
            raise SettingsError("layer_policy: no layer of the network has weights that could be quantised")
        names = [layer.name for layer in network.costs.layers]
        self._places = np.array([names.index(name) for name in self._layers])
        own = self._channels.levels
        self._widths, count = own.top.size, len(self._layers)
        low, high = settings.bits
        self._levels = Levels(
            np.append(own.least, np.full(count, low)),
            np.append(own.most, np.full(count, high)),
            np.append(own.steps, np.ones(count, dtype=np.int64)),
        )
        self.size = self._levels.top.size
        share = np.rint(settings.perturb * own.top).astype(np.int64)
        self._farthest = np.append(np.maximum(share, 1), np.full(count, settings.perturb_bits))
        self._blocks = self._together()
        self._packed = np.dtype("<u2" if own.most.max() < 2**16 else "<u4")
        self._selection = FilterSelection(network, settings.select, samples=task.train)
        check_least(limits, self._channels.counts(own.least), settings.fewest_bits(network))
        self._policy = None if settings.initial == "random" else self._closed_form(task, limits)

    def _together(self) -> Genes:
        """Return, for every gene, the block that it is crossed with, shape (size,): a group's channels and its layers' bits."""
        block = {group: gene for gene, group in enumerate(self._channels.groups.tolist())}
        own = [block.get(self._producing(name), self._widths + index) for index, name in enumerate(self._layers)]
        return np.array([*range(self._widths), *own])

    def _producing(self, layer: str) -> int:
        """Return the index of the group whose channels a layer produces, −1 if there is none."""
        return next((index for index, group in enumerate(self._network.groups) if layer in group.producers), -1)

    def _closed_form(self, task: Task, limits: Limits | None) -> Genes:
        own = self.settings
        contributed = own.contributions
        if contributed is None:
            contributed = measured_contributions(task, self._selection, own.closed_form.perturb, own.free)
        found = closed_form(
            task.network, contributed, own.closed_form, limits, free=own.free, min_channels=own.min_channels
        )
        bits = [found.bits[name] for name in self._layers]
        return np.append(found.counts[self._channels.groups], bits)

    @property
    def seeds(self) -> list[Individual]:
        """The policy of the closed form, unless the settings have a random first population."""
        return [] if self._policy is None else [self.individual(self._policy)]

    def individual(self, genes: NDArray[np.integer[Any]]) -> Individual:
        """Return kept channels of the free groups and bits of the layers, shape (size,), as a new individual."""
        return Individual("i", genes.astype(np.int32).tobytes(), self._weights)

    def initial(self, count: int, rng: np.random.Generator) -> list[Individual]:
        """Return `count` mutations of the closed form, or policies drawn as the settings say."""
        if self._policy is not None:
            return [self.mutate(self.individual(self._policy), rng)[0] for _ in range(count)]
        low, high = self.settings.bits
        bits = rng.integers(low, high + 1, (count, len(self._layers)))
        return [self.individual(genes) for genes in np.hstack([self._channels.random(count, rng), bits])]

    def decode(self, individual: Individual) -> Blueprint:
        """Return the structure in which the selection decides which filters make up these numbers."""
        bits = dict(zip(self._layers, _view(individual)[self._widths :].tolist(), strict=True))
        return Blueprint.from_masks(self._selection.masks(self.counts(individual))).with_bits(bits)

    def counts(self, individual: Individual) -> Genes:
        """Return kept channels per coupling group, shape (G,): the genes, and all channels of groups that are not free."""
        return self._channels.counts(_view(individual)[: self._widths])

    def bits(self, individual: Individual) -> Genes:
        """Return weight bits per layer, shape (L,): the genes, and 32 for weights that cannot have fewer."""
        bits = np.full(len(self._network.costs.layers), FULL_BITS, dtype=np.int64)
        bits[self._places] = _view(individual)[self._widths :]
        return bits

    def encode(self, blueprint: Blueprint) -> Individual:
        """Return channels and bits; they decode to `blueprint` if the selection would keep the same filters.

        Raises:
            SettingsError: a group that is not free has lost channels, a free one keeps a number that it cannot, or a layer's
                bits are out of the settings' range.
            NetworkError: there are bits for something that is no layer of the network.
        """
        kept = self._channels.kept(blueprint)
        everywhere = self._network.costs.bits_of(blueprint.bits)
        individual = self.individual(np.append(kept, everywhere[self._places]))
        low, high = self.settings.bits
        for layer, bits in zip(self._network.costs.layers, everywhere.tolist(), strict=True):
            if layer.name not in self._layers and bits < FULL_BITS:
                raise SettingsError(
                    f"{layer.name}: its weights cannot be quantised, the structure gives them {bits} bits"
                )
            if layer.name in self._layers and not low <= bits <= high:
                raise SettingsError(
                    f"{layer.name}: the structure has weights of {bits} bits, which this encoding cannot express; its range "
                    f"is {low} to {high} (bits)"
                )
        return individual

    def nearest(self, blueprint: Blueprint) -> Individual:
        """Return as many channels of the free groups, or the next numbers that these can keep, and the nearest bits.

        Weights that the structure does not quantise get the most bits that this encoding has.
        """
        bits = np.clip(self._network.costs.bits_of(blueprint.bits)[self._places], *self.settings.bits)
        return self.individual(np.append(self._channels.nearest(blueprint), bits))

    def repair(self, individual: Individual) -> Individual:
        """Raise every gene to the next value that it can have, or lower it to the largest."""
        self._levels.repair(_view(individual))
        return individual

    def mate(self, first: Individual, second: Individual, rng: np.random.Generator) -> tuple[Individual, Individual]:
        """Swap every layer with probability 1/2, its channels and its bits together.

        The bits of layers that produce the same channels go with these.
        """
        one, two = _view(first), _view(second)
        swapped = (rng.random(self.size) < 0.5)[self._blocks]
        one[swapped], two[swapped] = two[swapped], one[swapped]
        return first, second

    def mutate(self, individual: Individual, rng: np.random.Generator) -> tuple[Individual]:
        """Move genes, each with the settings' probability, up or down within their range (see `Levels.mutate`)."""
        self._levels.mutate(_view(individual), rng, self.settings.mutation, self._farthest)
        return (individual,)

    def pack(self, individual: Individual) -> bytes:
        """Return two bytes per number of channels, or four if a group has 65,536 or more, and a byte per layer."""
        genes = _view(individual)
        return genes[: self._widths].astype(self._packed).tobytes() + genes[self._widths :].astype(np.uint8).tobytes()

    def unpack(self, packed: bytes) -> Individual:
        """Return the individual that `pack` packed."""
        widths = np.frombuffer(packed, self._packed, self._widths)
        bits = np.frombuffer(packed, np.uint8, offset=widths.nbytes)
        return self.individual(np.concatenate([widths, bits]))


def _view(individual: Individual) -> NDArray[np.int32]:
    """Return the genes as a writable NumPy view."""
    return np.frombuffer(individual, dtype=np.int32)
