"""Importance of filters by the size of their weights."""

import numpy as np

from evo.importance.filters import FloatArray, filters
from evo.network import CouplingGroup, Network


def magnitude(network: Network) -> dict[str, FloatArray]:
    """Return the L2 norm of every channel's filters, shape (channels,) per group.

    Where several layers share a channel, their squared norms add up, each layer scaled to a mean of one.
    """
    return {group.name: l2(network, group) for group in network.groups}


def l2(network: Network, group: CouplingGroup) -> FloatArray:
    """Return the scores of one group, see `magnitude`."""
    rows = [np.square(each.rows, dtype=np.float64).sum(1) for each in filters(network, group)]
    return np.sqrt(scaled_sum(rows, group.size))


def l1(network: Network, group: CouplingGroup) -> FloatArray:
    """Return the sum of absolute weights of every channel's filters, shape (channels,).

    Where several layers share a channel, their sums add up, each layer scaled to a mean of one.
    """
    rows = [np.abs(each.rows, dtype=np.float64).sum(1) for each in filters(network, group)]
    return scaled_sum(rows, group.size)


def scaled_sum(rows: list[FloatArray], size: int) -> FloatArray:
    """Return the sum of scores of several layers, shape (size,), each divided by its mean unless that is zero."""
    total = np.zeros(size)
    for row in rows:
        mean = row.mean()
        total += row / (mean if mean > 0 else 1.0)
    return total
