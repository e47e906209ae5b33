"""k-reciprocal nearest filters: those that stand for the others best (FNP, Weight selection)."""

import numpy as np
from numpy.typing import NDArray

from evo.importance.filters import FloatArray

_BLOCK = 512
"""Rows of the table of distances at a time."""

_DIGITS = 11
"""Distances are compared to this many decimals of the largest: rounding must not decide between equal filters."""

_MEAN_DIGITS = 9
"""Logarithms of mean similarities likewise, to fewer: they are sums of exponentials of distances."""


def reciprocal_order(vectors: FloatArray) -> NDArray[np.int64]:
    """Return filters in the order in which FNP keeps them: the first m are its choice of m, for every m.

    FNP: with squared distances d between filters and similarities exp(−d), rows scaled to an L2 norm of one, let k grow
    from m until at least m filters are among the k nearest of *every* filter, itself included; of these take all that were
    among every filter's k − 1 nearest, and fill up with the others by their mean similarity, ties by index.

    A filter is among the k nearest of all if and only if its worst rank over all rows, counted from one, is at most k. So
    the set for k − 1 and those that k adds are the filters sorted by worst rank, cut at m, and the choices are nested. At
    k = m there are never more than m, since a row has but m such filters.

    Exp(−d) of wide filters underflows to zero. Exp and the scaling are monotone within a row, hence ranks are those of d;
    mean similarities, which compare across rows, are computed as logarithms. They are over the *other* filters: that to
    itself would drown them wherever filters are far apart.

    Args:
        vectors: shape (n, length).
    """
    count = len(vectors)
    # Distances do not change, but rounding is small even where filters have much in common.
    vectors = vectors - vectors.mean(0)
    norms = np.einsum("ij,ij->i", vectors, vectors)
    unit = max(float(norms.max(initial=0.0)), np.finfo(float).tiny)
    worst, mean = np.zeros(count, dtype=np.int64), np.full(count, -np.inf)
    for start in range(0, count, _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, count))
        distances = norms[rows, None] + norms - 2 * vectors[rows] @ vectors.T
        distances = np.round(np.maximum(distances, 0) / unit, _DIGITS)
        distances[np.arange(len(rows)), rows] = -1  # a filter is its own nearest, also where it has a twin
        np.maximum(worst, _ranks(distances).max(0), out=worst)
        distances[np.arange(len(rows)), rows] = 0
        similar = -distances * unit
        similar -= 0.5 * _log_sum(2 * similar, axis=1)[:, None]
        similar[np.arange(len(rows)), rows] = -np.inf
        mean = np.logaddexp(mean, _log_sum(similar, axis=0))
    mean = np.round(mean / max(unit, 1.0), _MEAN_DIGITS)
    return np.lexsort((np.arange(count), -mean, worst))


def _ranks(distances: FloatArray) -> NDArray[np.int64]:
    """Return the rank of every entry in its row, from zero, ties by index."""
    order = np.argsort(distances, axis=1, kind="stable")
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.arange(distances.shape[1])[None], axis=1)
    return ranks


def _log_sum(logarithms: FloatArray, axis: int) -> FloatArray:
    """Return the logarithm of the sum of what has these logarithms."""
    top = np.maximum(
        logarithms.max(axis, keepdims=True), np.finfo(float).min
    )  # not −∞, which would make NaN of −∞ − −∞
    with np.errstate(divide="ignore"):
        total = np.log(np.exp(logarithms - top).sum(axis)) + top.squeeze(axis)
    return np.asarray(total)
