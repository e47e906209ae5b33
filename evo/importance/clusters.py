"""Filters nearest to the centres of k-means clusters (FNP, Table 12)."""

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evo.importance.filters import FloatArray

_RESTARTS = 2


@dataclass(frozen=True)
class Clusters:
    """Chooses any number of filters that stand for all: one for each cluster of k-means.

    Attributes:
        points: the filters, shape (n, dimensions).
        seed: of the clusters' first centres.
    """

    points: FloatArray
    seed: int

    @classmethod
    def of(cls, vectors: FloatArray, seed: int) -> "Clusters":
        """Take filters, shape (n, length); long ones are rotated into the n dimensions that they span, which is faster."""
        count, length = vectors.shape
        return cls(np.asarray(np.linalg.qr(vectors.T, mode="r")).T if length > count else vectors, seed)

    def __call__(self, count: int) -> NDArray[np.int64]:
        """Return `count` different filters: for each centre in turn the nearest that is not taken yet."""
        from sklearn.cluster import KMeans  # here, since it takes longer to import than all of evo
        from sklearn.exceptions import ConvergenceWarning
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

        # Threads add up their parts of a centre in the order in which they happen to end: with one, no bit is left to chance.
        with warnings.catch_warnings(), threadpool_limits(1):
            # Equal filters make fewer clusters than asked for; the choice below copes with that.
            warnings.simplefilter("ignore", ConvergenceWarning)
            centres = KMeans(count, n_init=_RESTARTS, random_state=self.seed).fit(self.points).cluster_centers_
        chosen: list[int] = []
        free = np.ones(len(self.points), dtype=bool)
        for centre in centres:
            distances = np.where(free, ((self.points - centre) ** 2).sum(1), np.inf)
            chosen.append(int(distances.argmin()))
            free[chosen[-1]] = False
        return np.array(chosen)
