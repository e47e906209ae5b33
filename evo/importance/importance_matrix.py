"""The importance matrix: how wide each layer starts, from all its weights and what they cost (FNP eq. 2 to 7)."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from evo.blueprint import BoolArray
from evo.errors import SettingsError
from evo.importance.filters import FloatArray, filters, free_groups
from evo.network import Network

Counts = NDArray[np.int64]


class ImportanceMatrix:
    """Every weight of the free groups, scored by |k| / FLOPs^λ (FNP eq. 2); FLOPs are a layer's multiply-accumulates.

    Scores are logarithms, log|k| − λ·log FLOPs, since FLOPs^20 is beyond any number; what is compared is the same.
    """

    def __init__(self, network: Network, lam: float, free: Sequence[str] = ("*",), min_channels: int = 1) -> None:
        """Score the weights.

        Args:
            network: with trained weights.
            lam: λ ≥ 0: how much more readily weights of expensive layers fall; 0 compares magnitudes alone.
            free: groups that may shrink, as names or patterns (`fnmatch`).
            min_channels: channels that every free group keeps at least; all, if it has fewer.

        Raises:
            SettingsError: there is no pattern, one matches no group, or `lam` is not a number ≥ 0.
        """
        if not 0 <= lam < np.inf:
            raise SettingsError(f"lam: got {lam}; expected a number ≥ 0")
        self._network = network
        self._free = np.flatnonzero(free_groups(network, free)).tolist()
        self._least = min_channels
        costs = network.costs
        uses = np.array([layer.uses for layer in costs.layers])
        macs = dict(zip((layer.name for layer in costs.layers), costs.weights(costs.sizes) * uses, strict=True))
        self._scores: list[FloatArray] = []
        for index in self._free:
            own = []
            for each in filters(network, network.groups[index]):
                with np.errstate(divide="ignore"):
                    weights = np.log(np.abs(each.rows, dtype=np.float64))
                own.append((weights - lam * np.log(macs[each.layer])).ravel())
            self._scores.append(np.concatenate(own))

    @property
    def size(self) -> int:
        """Number of weights that are scored: N of eq. 2."""
        return sum(scores.size for scores in self._scores)

    def counts(self, gamma: float) -> Counts:
        """Return the kept channels per group, shape (G,), at pruning ratio γ (FNP eq. 3 to 7); groups not free keep all.

        Args:
            gamma: share of all weights that falls, in [0, 1).

        Raises:
            SettingsError: it is not in this range.
        """
        if not 0 <= gamma < 1:
            raise SettingsError(f"gamma: got {gamma}; expected a share in [0, 1)")
        removed = self.size - max(1, round(self.size * (1 - gamma)))
        # The N_m-th largest is the last that is kept (eq. 4): a partial selection finds it without sorting all.
        everything = np.concatenate(self._scores)
        everything.partition(removed)
        return self._counts([int((scores >= everything[removed]).sum()) for scores in self._scores])

    def fitting(self, fits: Callable[[Counts], BoolArray | bool]) -> tuple[float, Counts] | None:
        """Return the smallest γ whose channels are within limits, and these, or None if no γ is large enough.

        Args:
            fits: tells of counts, shape (G,), whether they do; who fits with more channels also fits with fewer.
        """
        groups = [np.sort(scores) for scores in self._scores]
        everything = np.sort(np.concatenate(groups))

        def without(removed: int) -> Counts:
            threshold = everything[removed]
            return self._counts([scores.size - int(np.searchsorted(scores, threshold)) for scores in groups])

        low, high = 0, everything.size - 1
        if not fits(without(high)):
            return None
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if fits(without(middle)) else (middle + 1, high)
        return high / everything.size, without(high)

    def _counts(self, kept: list[int]) -> Counts:
        """Return channels from the number of weights that each free group keeps: C* = ⌊(1 − p)·C⌋ (eq. 6 and 7), legal."""
        counts = self._network.costs.sizes.copy()
        for index, weights, scores in zip(self._free, kept, self._scores, strict=True):
            group = self._network.groups[index]
            channels = weights * group.size // scores.size
            counts[index] = group.legal_count(max(channels, min(self._least, group.size)))
        return counts


def importance_matrix(
    network: Network, gamma: float, lam: float, free: Sequence[str] = ("*",), min_channels: int = 1
) -> Counts:
    """Return FNP's channel vector V*: kept channels per group, shape (G,) (FNP eq. 2 to 7).

    Over all free groups the share γ of the weights with the smallest |k| / FLOPs^λ falls; a group keeps the share of its
    channels that is left of its weights, those of all its layers together, rounded down and at least one.

    Args:
        network: with trained weights.
        gamma: share of all weights that falls, in [0, 1).
        lam: λ ≥ 0, see `ImportanceMatrix`.
        free: groups that may shrink, as names or patterns (`fnmatch`).
        min_channels: channels that every free group keeps at least; all, if it has fewer.

    Raises:
        SettingsError: there is no pattern, one matches no group, or a number is out of range.
    """
    return ImportanceMatrix(network, lam, free, min_channels).counts(gamma)
