"""Which of the candidates that a fidelity has judged are the promising ones."""

import heapq
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def ranking(values: NDArray[np.float64], keys: Sequence[str], before: NDArray[np.float64] | None = None) -> list[int]:
    """Return the rows of `values` from the best to the worst; among equals the key decides, the order of the rows never.

    By a single column that is its order. By several, the first (a score) is traded against the others together (costs): the
    next row is always the one that adds most to the hypervolume of those before it, over the ranks within the two, so that
    scales play no part. Its reference is twice as far as the ranks go: with a nearer one the ends would count for nothing.
    However few are taken, they spread over the whole trade-off, and nobody comes before somebody who is better in both.
    (Fronts and crowding, as NSGA-II sorts, put the two ends first, and of two places they would take both.) What was promoted
    `before` counts as being before them all: first come those that are an advance, where the advance is largest; then the
    others.

    Args:
        values: (N, M), all minimised.
        keys: N names, all different.
        before: (K, M), likewise.
    """
    count = len(keys)
    if values.shape[1] == 1:
        score = _ranks(values[:, 0])
        return sorted(range(count), key=lambda row: (score[row], keys[row]))
    everybody = values if before is None else np.concatenate([values, before])
    score = _ranks(everybody[:, 0])
    cost = _ranks(np.sum([_ranks(column) for column in everybody.T[1:]], axis=0))
    # Over every score, the lowest cost that is dominated.
    nothing = np.full(2 * (score.max() + 1), 2 * (cost.max() + 1))
    heights = nothing.copy()
    for place in range(count, len(everybody)):
        np.minimum(heights[score[place] :], cost[place], out=heights[score[place] :])
    order: list[int] = []
    left = set(range(count))
    while left:
        chosen = _greedy(score, cost, [(keys[row], row) for row in left], heights)
        order += chosen
        left.difference_update(chosen)
        heights = nothing.copy()
    return order


def _ranks(column: NDArray[Any]) -> NDArray[np.int64]:
    """Return the place of every value among the different ones, from 0."""
    return np.asarray(np.unique(column, return_inverse=True)[1], dtype=np.int64)


def _greedy(
    score: NDArray[np.int64], cost: NDArray[np.int64], rows: Sequence[tuple[str, int]], heights: NDArray[np.int64]
) -> list[int]:
    """Return rows in the order in which each adds most area to what those before it dominate, while any adds some.

    `heights` is what is dominated from the beginning, and becomes what they dominate. What a row adds only shrinks as others
    are chosen, so that most need not be looked at again (lazy greedy, Minoux 1978).
    """
    waiting: list[tuple[int, int, str, int]] = []
    for key, row in rows:
        gain = _gain(heights, score[row], cost[row])
        heapq.heappush(waiting, (-gain, int(score[row] + cost[row]), key, row))
    chosen = []
    while waiting:
        _, total, key, row = heapq.heappop(waiting)
        gain = _gain(heights, score[row], cost[row])
        entry = (-gain, total, key, row)
        if waiting and entry > waiting[0]:
            heapq.heappush(waiting, entry)
        elif gain:
            chosen.append(row)
            np.minimum(heights[score[row] :], cost[row], out=heights[score[row] :])
        else:
            break
    return chosen


def _gain(heights: NDArray[np.int64], score: np.int64, cost: np.int64) -> int:
    return int((heights[score:] - cost).clip(min=0).sum())
