"""The filters behind the channels of a coupling group, as vectors, and which groups a pattern means."""

import fnmatch
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evo.blueprint import BoolArray
from evo.errors import SettingsError, unknown_name
from evo.network import CouplingGroup, Network
from evo.network.groups import Cut, layer_name

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Filters:
    """What one layer holds for the channels of a group.

    Attributes:
        layer: dotted name of the layer.
        rows: its weights, shape (channels, weights per channel), in the network's own type of numbers.
    """

    layer: str
    rows: NDArray[np.floating]


def producing_cuts(network: Network, group: CouplingGroup) -> Iterator[tuple[str, Cut]]:
    """Yield every layer that produces the channels of `group`, in module order, and which of its weight are theirs."""
    for cut in group.cuts:
        layer = layer_name(cut.tensor)
        if not cut.reads and layer in group.producers and network.is_weight(cut.tensor):
            yield layer, cut


def filters(network: Network, group: CouplingGroup) -> Iterator[Filters]:
    """Yield the weights of every layer that produces the channels of `group`, in module order; biases are left out."""
    for layer, cut in producing_cuts(network, group):
        weight = np.moveaxis(network.tensor(cut.tensor), cut.dim, 0)
        own = np.flatnonzero(cut.channels >= 0)
        # A channel may have several entries, but all channels of a group have equally many in every tensor.
        order = own[np.argsort(cut.channels[own], kind="stable")]
        yield Filters(layer, weight[order].reshape(group.size, -1))


def filter_vectors(network: Network, group: CouplingGroup) -> FloatArray:
    """Return the flattened filters of a group, shape (channels, weights per channel).

    Where several layers share the channels (residual streams, depthwise convolutions), a vector is their filters one after
    the other, each layer scaled to a mean squared norm of one, so that none outvotes the others.
    """
    vectors = [each.rows.astype(np.float64) for each in filters(network, group)]
    if len(vectors) == 1:
        return vectors[0]
    for rows in vectors:
        mean = float((rows**2).sum(1).mean())
        rows /= np.sqrt(mean) if mean > 0 else 1.0
    return np.concatenate(vectors, axis=1)


def free_groups(network: Network, patterns: Sequence[str]) -> BoolArray:
    """Return which groups of a network some pattern (`fnmatch`) matches by name, shape (G,).

    Raises:
        SettingsError: there is no pattern, one matches no group, or they are not in a sequence.
    """
    if not patterns or isinstance(patterns, str):
        raise SettingsError(f"free: got {patterns!r}; expected at least one pattern in a tuple, such as ('*',)")
    names = [group.name for group in network.groups]
    found = np.zeros(len(names), dtype=bool)
    for pattern in patterns:
        matching = np.array([fnmatch.fnmatchcase(name, pattern) for name in names], dtype=bool)
        if not matching.any():
            raise SettingsError(f"free: {unknown_name('coupling group', pattern, names)}")
        found |= matching
    return found
