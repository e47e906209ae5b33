"""NSGA-III's niches against pymoo's, and what ours can do besides: any units, and no randomness but the generator's."""

from math import comb

import numpy as np
import pytest
from numpy.typing import NDArray
from pymoo.algorithms.moo.nsga3 import HyperplaneNormalization, associate_to_niches, niching
from pymoo.util.ref_dirs import get_reference_directions

from evo.algorithms.niching import Plane, associate, fill, reference_points
from evo.front import non_dominated

Values = NDArray[np.float64]


def cloud(objectives: int, seed: int, levels: int = 0) -> tuple[Values, Values]:
    """Points and their front, which reaches from 0 to 1 in every objective; with `levels`, many have equal values."""
    rng = np.random.default_rng(seed)
    values = np.abs(rng.normal(size=(80, objectives)))
    values = values / np.linalg.norm(values, axis=1, keepdims=True) * rng.uniform(1, 2, (80, 1))
    if levels:
        values = np.round(values * levels) / levels
    front = values[non_dominated(values)]
    values = (values - front.min(0)) / np.ptp(front, axis=0)
    return values, values[non_dominated(values)]


@pytest.mark.parametrize("objectives", [2, 3, 4, 5])
@pytest.mark.parametrize("levels", [0, 8])
@pytest.mark.parametrize("seed", range(5))
def test_the_plane_is_that_of_pymoo(objectives: int, levels: int, seed: int) -> None:
    values, front = cloud(objectives, seed, levels)
    theirs = HyperplaneNormalization(objectives)
    theirs.update(values.copy(), np.flatnonzero(non_dominated(values)))
    ours = Plane()
    nadir = ours.update(values, front)
    np.testing.assert_array_equal(ours.extremes, theirs.extreme_points)
    np.testing.assert_array_equal(ours.ideal, theirs.ideal_point)
    np.testing.assert_allclose(nadir, theirs.nadir_point, rtol=1e-12)
    points = reference_points(objectives, 30)
    niches, distances, _ = associate_to_niches(values, points, theirs.ideal_point, theirs.nadir_point.copy())
    own, far = associate((values - ours.ideal) / (nadir - ours.ideal), points)
    assert (own == niches).mean() > 0.98, "where two lines are as near, the last bit decides"
    np.testing.assert_allclose(far, distances, atol=1e-12)


@pytest.mark.parametrize("objectives", [2, 3, 4])
def test_units_do_not_matter(objectives: int) -> None:
    factors, shifts = np.logspace(-3, 6, objectives), np.linspace(-0.9, 5, objectives)
    plain, scaled = Plane(), Plane()
    for seed in range(4):  # what is remembered of earlier fronts, too
        values, front = cloud(objectives, seed)
        nadir = plain.update(values, front)
        np.testing.assert_allclose(
            scaled.update(values * factors + shifts, front * factors + shifts), nadir * factors + shifts
        )
        np.testing.assert_allclose(scaled.extremes, plain.extremes * factors + shifts)


@pytest.mark.parametrize(
    "values",
    [
        np.array([[0.3, 0.7]]),
        np.array([[0.0, 1.0], [0.0, 1.0]]),
        np.array([[1.0, 2.0, 5.0], [2.0, 1.0, 5.0], [3.0, 3.0, 6.0]]),
        np.array([[4.0], [2.0]]),
    ],
    ids=["one point", "equal points", "an objective that is the same on the front", "one objective"],
)
def test_where_there_is_no_plane_it_scales_by_what_there_is(values: Values) -> None:
    nadir = Plane().update(values, values[non_dominated(values)])
    assert np.isfinite(nadir).all()
    assert (nadir >= values[non_dominated(values)].max(0) - 1e-9).all() or values.shape[1] == 1


def test_a_plane_remembers_through_plain_values() -> None:
    plane = Plane()
    assert vars(Plane.restored(plane.save())).keys() == vars(plane).keys()
    for seed in range(3):
        plane.update(*cloud(3, seed))
        twin = Plane.restored(plane.save())
        np.testing.assert_array_equal(twin.update(*cloud(3, 9)), Plane.restored(plane.save()).update(*cloud(3, 9)))
        np.testing.assert_array_equal(Plane.restored(plane.save()).extremes, plane.extremes)


@pytest.mark.parametrize("seed", range(20))
def test_niches_are_filled_as_pymoo_fills_them(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count, points = int(rng.integers(5, 60)), int(rng.integers(2, 30))
    niches = rng.integers(0, points, count)
    distances = np.round(rng.random(count), 1)
    taken = rng.integers(0, 3, points)
    wanted = int(rng.integers(1, count + 1))
    theirs, ours = taken.copy(), taken.copy()
    expected = niching(np.arange(count), wanted, theirs, niches, distances, random_state=np.random.default_rng(seed))
    state = repr(np.random.get_state())  # noqa: NPY002
    assert fill(niches, distances, ours, wanted, np.random.default_rng(seed)) == expected
    assert repr(np.random.get_state()) == state, "a global generator"  # noqa: NPY002
    assert ours.tolist() == theirs.tolist()


@pytest.mark.parametrize(("objectives", "divisions"), [(1, 3), (2, 7), (3, 4), (4, 3), (5, 2)])
def test_reference_points_are_evenly_spaced(objectives: int, divisions: int) -> None:
    points = reference_points(objectives, 0, divisions)
    assert len(points) == comb(divisions + objectives - 1, divisions)
    assert sorted(map(tuple, np.round(points, 9))) == sorted(
        map(tuple, np.round(get_reference_directions("das-dennis", objectives, n_partitions=divisions), 9))
    )


@pytest.mark.parametrize("objectives", range(1, 11))
@pytest.mark.parametrize("most", [1, 10, 50, 92, 300])
def test_there_are_as_many_as_there_is_room_for(objectives: int, most: int) -> None:
    points = reference_points(objectives, most)
    assert len(points) <= max(most, objectives)
    assert len(np.unique(points, axis=0)) == len(points)
    np.testing.assert_allclose(points.sum(1), 1)
    assert (points >= 0).all()
    if objectives >= 3 and most >= 10 * objectives:
        assert (points > 0).all(1).any(), "one inside"
