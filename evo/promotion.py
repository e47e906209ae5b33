"""Which of the candidates that a fidelity has judged are the promising ones."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from evo.run import non_dominated


def ranking(values: NDArray[np.float64], keys: Sequence[str]) -> list[int]:
    """Return the rows of `values` from the best to the worst, as NSGA-II selects.

    Front by front, within a front those with the most room around them first (crowding distance, Deb et al. 2002); by a
    single column that is its order. The order of the rows plays no part: among equals that of the keys decides.

    Args:
        values: (N, M), all minimised.
        keys: N names, all different.
    """
    order = sorted(range(len(keys)), key=keys.__getitem__)
    values = values[order]
    rank, room = np.zeros(len(values)), np.zeros(len(values))
    left, front = np.arange(len(values)), 0
    while len(left):
        best = non_dominated(values[left])
        chosen, left = left[best], left[~best]
        rank[chosen], room[chosen] = front, crowding(values[chosen])
        front += 1
    return [order[row] for row in np.lexsort((-room, rank))]


def crowding(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the crowding distance of every row of a front (N, M): the ends have infinitely much room, copies none.

    Rows that are equal share the room of one of them; all but the first have none.
    """
    distinct, first = np.unique(values, axis=0, return_index=True)
    room = np.zeros(len(distinct))
    for column in distinct.T:
        order = np.argsort(column, kind="stable")
        span = column[order[-1]] - column[order[0]]
        if span == 0:
            continue
        room[order[[0, -1]]] = np.inf
        room[order[1:-1]] += (column[order[2:]] - column[order[:-2]]) / span
    result = np.zeros(len(values))
    result[first] = room
    return result
