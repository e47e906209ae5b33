"""The widths that a closed form likes best: an evolution of whole populations as arrays, without any network."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from evo.blueprint import BoolArray

Levels = NDArray[np.int64]

PARENTS, CHILDREN = 256, 4096
PATIENCE, ROUNDS = 20, 1000


def widest(
    score: Callable[[Levels], NDArray[np.float64]],
    fits: Callable[[Levels], BoolArray],
    top: Levels,
    rng: np.random.Generator,
) -> Levels:
    """Return the best vector of levels that was found within limits, shape (F,).

    Every round keeps the best `PARENTS` of what is there, crosses them gene by gene, and mutates the `CHILDREN`, some a
    little and some much; it ends when `PATIENCE` rounds have gained less than a hundred-thousandth.

    Args:
        score: of levels, shape (N, F); larger is better, and what is larger everywhere is never worse.
        fits: which levels are within the limits, shape (N,). Level 0 of everything is.
        top: the highest level of every gene, shape (F,).
        rng: source of all randomness.
    """
    shares = np.linspace(0, 1, PARENTS)[:, None]
    even = np.rint(shares * top).astype(np.int64)
    uneven = np.rint(shares * rng.random((PARENTS, top.size)) * top).astype(np.int64)
    pool = np.concatenate([even, uneven])
    pool = pool[fits(pool)]
    values = score(pool)
    progress = [float(values.max())]
    for _ in range(ROUNDS):
        children = _children(pool, top, rng)
        children = children[fits(children)]
        # What scores the same is as good as the same.
        found, first = np.unique(np.concatenate([values, score(children)]), return_index=True)
        kept = first[::-1][:PARENTS]
        pool, values = np.concatenate([pool, children])[kept], found[::-1][:PARENTS]
        progress.append(float(values[0]))
        if len(progress) > PATIENCE and values[0] - progress[-PATIENCE] <= 1e-5 * abs(values[0]):
            break
    return np.asarray(pool[0])


def _children(pool: Levels, top: Levels, rng: np.random.Generator) -> Levels:
    """Cross random pairs of the pool and mutate what comes of it."""
    # Two draws, of which the lower counts: the better half of the pool has three quarters of the children.
    first, second = (rng.integers(len(pool), size=(2, CHILDREN)).min(0) for _ in range(2))
    mixed = np.where(rng.random((CHILDREN, top.size)) < 0.5, pool[first], pool[second])
    genes = np.where(rng.random((CHILDREN, 1)) < 0.5, mixed, pool[first])
    reach = np.array([0.005, 0.02, 0.1, 0.4])[rng.integers(4, size=(CHILDREN, 1))] * top
    moved = np.nonzero(rng.random(genes.shape) < rng.choice([1, 2, 4], size=(CHILDREN, 1)) / top.size)
    genes[moved] += np.rint(rng.normal(size=len(moved[0])) * np.maximum(reach, 0.7)[moved]).astype(np.int64)
    return np.asarray(np.clip(genes, 0, top))
