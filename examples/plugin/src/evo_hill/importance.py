"""Filters that others cannot stand for."""

import numpy as np
from numpy.typing import NDArray

import evo
from evo.importance.filters import filter_vectors


@evo.importance.criterion
def geometric_median(material: evo.importance.Material) -> dict[str, NDArray[np.float64]]:
    """Sum of distances to all other filters of the layer: the nearest to the geometric median go first (FPGM).

    He et al. (2019), Filter pruning via geometric median for deep convolutional neural networks acceleration, eq. 6.
    """
    scores = {}
    for group in material.network.groups:
        vectors = filter_vectors(material.network, group)  # (channels, weights): what makes each channel
        # Row by row: all differences at once would be large.
        scores[group.name] = np.array([np.linalg.norm(vectors - vector, axis=1).sum() for vector in vectors])
    return scores
