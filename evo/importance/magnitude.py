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
        for cut in group.cuts:
            if cut.reads or not network.is_weight(cut.tensor):
                continue
            weight = np.moveaxis(network.tensor(cut.tensor).astype(np.float64), cut.dim, 0)
            squared = (weight.reshape(len(weight), -1) ** 2).sum(1)
            mean, mine = squared.mean(), cut.channels >= 0
            np.add.at(total, cut.channels[mine], squared[mine] / (mean if mean > 0 else 1.0))
        scores[group.name] = np.sqrt(total)
    return scores
