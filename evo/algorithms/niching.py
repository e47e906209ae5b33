"""NSGA-III's niches: reference points on a plane through what is extreme, and whom each of them has (Deb & Jain 2014).

As in pymoo, but no unit of an objective matters. DEAP's `selNSGA3` (1.4.4) will not do: it takes the ideal point from the
intercepts twice, and draws from NumPy's global generator. Objectives are arrays of shape (N, M), all minimised.
"""

from math import comb
from typing import Any, Self

import numpy as np
from deap import tools
from numpy.typing import NDArray

Values = NDArray[np.float64]
Indices = NDArray[np.int64]

_SMALL = 1e-6
"""Share of the front's range below which an intercept is none; its inverse is the weight of the axes beside (eq. 4)."""

_NOTHING = 1e-3
"""Share of the front's range that makes no difference to whether a point is extreme."""


def reference_points(objectives: int, most: int, divisions: int | None = None) -> Values:
    """Return evenly spaced points of the simplex, shape (H, objectives): all sums are 1 (Das & Dennis 1998).

    Args:
        objectives: M, at least 1.
        most: how many there may be, unless `divisions` says so; M if that is more.
        divisions: p, the parts that every axis is cut into; H = (p + M − 1 choose p). Default the most for which H is no
            larger than `most`. If that is fewer than M, all of these points have a 0: as many as there is room for are
            added halfway to the centre, as the paper does (sec. IV-A).
    """
    if divisions is not None:
        return _simplex(objectives, divisions)
    if objectives == 1:
        return np.ones((1, 1))
    outer = _divisions(objectives, most)
    inner = _divisions(objectives, most - how_many(objectives, outer)) if outer < objectives else 0
    points = _simplex(objectives, max(1, outer))
    return np.vstack([points, _simplex(objectives, inner, scaling=0.5)]) if inner else points


def how_many(objectives: int, divisions: int) -> int:
    """Return the number of reference points H of so many divisions."""
    return comb(divisions + objectives - 1, divisions)


def _divisions(objectives: int, most: int) -> int:
    """Return the largest number of divisions that makes at most `most` points; 0 if one is too many."""
    divisions = 0
    while how_many(objectives, divisions + 1) <= most:
        divisions += 1
    return divisions


def _simplex(objectives: int, divisions: int, scaling: float | None = None) -> Values:
    return np.asarray(tools.uniform_reference_points(objectives, divisions, scaling))


class Plane:
    """The plane through the extreme points of all fronts so far, which scales the objectives (Deb & Jain 2014, algorithm 2).

    Attributes:
        ideal: best value of every objective so far, shape (M,); empty before the first front.
        worst: worst value so far.
        extremes: for every axis, the point closest to it so far, shape (M, M).
    """

    def __init__(self) -> None:
        self.ideal = self.worst = np.empty(0)
        self.extremes = np.empty((0, 0))

    def update(self, values: Values, front: Values) -> Values:
        """Take in all points and the non-dominated of them; return the nadir point, where the plane cuts the axes.

        Where there is no such plane, or it cuts an axis too near, the worst of the front is the nadir point.
        """
        if not self.ideal.size:
            self.ideal = self.worst = values[0]
            self.extremes = np.empty((0, values.shape[1]))
        self.ideal = np.minimum(self.ideal, values.min(0))
        self.worst = np.maximum(self.worst, values.max(0))
        span = front.max(0) - self.ideal
        span = np.where(span > 0, span, 1.0)
        candidates = np.vstack([self.extremes, front])
        offsets = (candidates - self.ideal) / span
        offsets[offsets < _NOTHING] = 0.0
        beside = np.where(np.eye(len(span), dtype=bool), 1.0, 1 / _SMALL)
        self.extremes = candidates[(offsets * beside[:, None]).max(2).argmin(1)]
        intercepts = _intercepts((self.extremes - self.ideal) / span)
        nadir = front.max(0) if intercepts is None else np.minimum(self.ideal + intercepts * span, self.worst)
        return np.where(nadir - self.ideal > _SMALL * span, nadir, values.max(0))

    def save(self) -> dict[str, Any]:
        """Return all of it as plain values for JSON."""
        return {name: array.tolist() for name, array in vars(self).items()}

    @classmethod
    def restored(cls, saved: dict[str, Any]) -> Self:
        """Return what `save` returned."""
        plane = cls()
        vars(plane).update({name: np.array(values) for name, values in saved.items()})
        return plane


def _intercepts(extremes: Values) -> Values | None:
    """Return where the plane through these points, shape (M, M), cuts the axes; None if it does not cut all beyond 0."""
    ones = np.ones(len(extremes))
    try:
        normal = np.linalg.solve(extremes, ones)
    except np.linalg.LinAlgError:
        return None
    if not np.allclose(extremes @ normal, ones) or (normal <= 0).any() or (normal >= 1 / _SMALL).any():
        return None
    return np.asarray(1 / normal)


def associate(scaled: Values, points: Values) -> tuple[Indices, Values]:
    """Return, for points of shape (N, M), the nearest line from 0 through a reference point, and how far (algorithm 3)."""
    lines = points / np.linalg.norm(points, axis=1, keepdims=True)
    along = scaled @ lines.T
    distances = np.linalg.norm(scaled[:, None] - along[:, :, None] * lines, axis=2)
    niches = distances.argmin(1)
    return niches, distances[np.arange(len(scaled)), niches]


def fill(niches: Indices, distances: Values, taken: Indices, count: int, rng: np.random.Generator) -> list[int]:
    """Return which `count` of some individuals survive: those of the emptiest niches (Deb & Jain 2014, algorithm 4).

    Args:
        niches: of each individual.
        distances: from the lines of these.
        taken: how many every niche has already; counted on in place.
        count: at most as many as there are individuals.
        rng: chooses among niches that are as empty; an empty one takes its nearest individual, another one any.
    """
    chosen: list[int] = []
    left = np.ones(len(niches), dtype=bool)
    while len(chosen) < count:
        open_niches = np.unique(niches[left])
        emptiest = open_niches[taken[open_niches] == taken[open_niches].min()]
        for niche in emptiest[rng.permutation(len(emptiest))[: count - len(chosen)]]:
            members = np.flatnonzero((niches == niche) & left)
            rng.shuffle(members)
            one = int(members[distances[members].argmin() if taken[niche] == 0 else 0])
            left[one] = False
            taken[niche] += 1
            chosen.append(one)
    return chosen
