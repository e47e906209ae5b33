"""Importance by the size of a filter's weights."""

import numpy as np
from numpy.typing import NDArray

from evo.network import Network


def magnitude(network: Network) -> dict[str, NDArray[np.float64]]:
    """Return the L2 norm of every channel's filters, shape (channels,) per group.

    Where several layers share a channel, their squared norms add up, each layer scaled to a mean of one.
    """
    scores = {}
    for group in network.groups:
        total = np.zeros(group.size)
        for layer in group.producers:
            weight = network.tensor(f"{layer}.weight").astype(np.float64)
            squared = (weight.reshape(len(weight), -1) ** 2).sum(1)
            mean = squared.mean()
            owner = next(cut.channels for cut in group.cuts if cut.tensor == f"{layer}.weight" and not cut.reads)
            np.add.at(total, owner[owner >= 0], squared[owner >= 0] / (mean if mean > 0 else 1.0))
        scores[group.name] = np.sqrt(total)
    return scores
