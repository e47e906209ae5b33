"""Importance of channels by the scale of the batch normalisation that follows them (network slimming)."""

import numpy as np

from evo.errors import NetworkError
from evo.importance.filters import FloatArray
from evo.importance.magnitude import scaled_sum
from evo.network import CouplingGroup, Network


def bn_scale(network: Network, group: CouplingGroup) -> FloatArray:
    """Return |γ| of every channel's batch normalisation, shape (channels,); Liu et al. (2017), Network slimming.

    Where several normalise a channel, their squares add up, each scaled to a mean of one.

    Raises:
        NetworkError: no batch normalisation with a learnt scale normalises the group's channels.
    """
    names = {cut.tensor for cut in group.cuts}
    rows = []
    for cut in group.cuts:
        # Only batch normalisation has a scale and running statistics; PReLU, say, has a weight per channel alone.
        layer, _, kind = cut.tensor.rpartition(".")
        if kind == "weight" and f"{layer}.running_var" in names:
            scale = network.tensor(cut.tensor).astype(np.float64)
            own = cut.channels >= 0
            row = np.zeros(group.size)
            np.add.at(row, cut.channels[own], scale[own] ** 2)
            rows.append(row)
    if not rows:
        raise NetworkError(
            f"{group.name}: no batch normalisation follows these filters, so bn_scale cannot tell which matter; "
            "select by l1, l2 or knn instead"
        )
    return np.sqrt(scaled_sum(rows, group.size))
