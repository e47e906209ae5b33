"""Fronts and hypervolumes against pymoo, against obvious loops, and against closed forms."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from pymoo.indicators.hv import HV
from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting

from evo.errors import SettingsError
from evo.fitness import Objective
from evo.front import Archive, Box, Criteria, hypervolume, non_dominated

Values = NDArray[np.float64]


def dominated_by_any(values: Values, index: int) -> bool:
    """Slow and obvious."""
    mine = values[index]
    return any((other <= mine).all() and (other < mine).any() for other in values)


@given(
    arrays.arrays(
        float,
        st.tuples(st.integers(0, 25), st.integers(1, 4)),
        elements=st.one_of(st.integers(0, 3).map(float), st.floats(-1e9, 1e9)),
    )
)
def test_non_dominated_equals_comparing_all_pairs(values: Values) -> None:
    expected = [not dominated_by_any(values, index) for index in range(len(values))]
    assert non_dominated(values).tolist() == expected


def test_equal_rows_stay_together() -> None:
    values = np.array([[1.0, 2.0], [0.0, 3.0], [1.0, 2.0], [1.0, 3.0], [0.0, 3.0]])
    assert non_dominated(values).tolist() == [True, True, True, False, True]


def points(objectives: int, kind: str, seed: int) -> Values:
    """Random points in [0, 1], of which some are beyond 0.9 in some objective; with ties, or some of them twice."""
    rng = np.random.default_rng(seed)
    values = rng.random((60, objectives))
    if kind == "ties":
        values = np.round(values * 4) / 4
    if kind == "duplicates":
        values = np.vstack([values, values[rng.integers(60, size=40)]])
    return values


OBJECTIVES = (2, 3, 4, 5)
KINDS = ("scattered", "ties", "duplicates")


@pytest.mark.parametrize("objectives", OBJECTIVES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(3))
def test_they_equal_those_of_pymoo(objectives: int, kind: str, seed: int) -> None:
    values, reference = points(objectives, kind, seed), np.full(objectives, 0.9)
    front = NonDominatedSorting().do(values, only_non_dominated_front=True)
    assert np.flatnonzero(non_dominated(values)).tolist() == sorted(front)
    expected = HV(ref_point=reference)(values)
    assert 0 < expected < 1
    assert hypervolume(values, reference) == pytest.approx(expected, rel=1e-12)
    assert hypervolume(values[non_dominated(values)], reference) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("objectives", [1, *OBJECTIVES])
@pytest.mark.parametrize("kind", KINDS)
def test_an_archive_grows_to_the_same(objectives: int, kind: str) -> None:
    values, reference = points(objectives, kind, 7), np.full(objectives, 0.9)
    archive, last = Archive(reference), 0.0
    for index, point in enumerate(values):
        seen = values[: index + 1]
        kept = non_dominated(seen)
        assert archive.add(point) == kept[-1]
        assert sorted(map(tuple, archive.values)) == sorted(map(tuple, seen[kept]))
        assert archive.hypervolume == pytest.approx(hypervolume(seen, reference), rel=1e-9)
        assert archive.hypervolume >= last
        last = archive.hypervolume


def test_nothing_dominates_nothing() -> None:
    reference = np.ones(3)
    assert hypervolume(np.empty((0, 3)), reference) == Archive(reference).hypervolume == 0
    assert hypervolume(np.ones((2, 3)), reference) == 0, "what is not better than the reference"


def test_fronts_of_known_volume() -> None:
    """ZDT1's (f₂ = 1 − √f₁), ZDT2's (f₂ = 1 − f₁²) and DTLZ2's (the unit sphere), sampled ever finer, from below."""
    first = np.linspace(0, 1, 4001)
    for second, exact in ((1 - np.sqrt(first), 2 / 3), (1 - first**2, 1 / 3)):
        reached = hypervolume(np.stack([first, second], 1), np.ones(2))
        assert exact - 1e-3 < reached < exact
    angles = (np.arange(80) + 0.5) / 80 * np.pi / 2
    tilt, turn = (grid.ravel() for grid in np.meshgrid(angles, angles))
    sphere = np.stack([np.cos(tilt) * np.cos(turn), np.cos(tilt) * np.sin(turn), np.sin(tilt)], 1)
    exact = 1 - math.pi / 6
    assert exact - 0.03 < hypervolume(sphere, np.ones(3)) < exact
    assert hypervolume(np.array([[0.2, 0.5, 0.0, 0.9]]), np.ones(4)) == pytest.approx(0.8 * 0.5 * 1.0 * 0.1)


ALL = (Objective("score", True), Objective("error", False), Objective("macs", False))
ORIGINAL = {"params": 100, "macs": 1000}


def test_directions_are_flipped_once() -> None:
    criteria = Criteria.choose(ALL, ("params", "score"))
    assert criteria.names == ["params", "score"]
    given = np.array([[50.0, 0.7], [20.0, 0.1]])
    assert criteria.minimised(given).tolist() == [[50.0, -0.7], [20.0, -0.1]]
    assert (criteria.minimised(criteria.minimised(given)) == given).all()
    assert Criteria.choose(ALL).chosen == ALL
    assert Criteria.choose(ALL, "error").names == ["error"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("eror",), "unknown objective 'eror'; did you mean 'error'"),
        ((), r"objectives: expected at least one, each once, got \[\]"),
        (("macs", "macs"), r"objectives: expected at least one, each once, got \['macs', 'macs'\]"),
    ],
)
def test_what_cannot_be_chosen(names: tuple[str, ...], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        Criteria.choose(ALL, names)


def test_the_box_is_that_of_the_original_and_of_what_was_measured() -> None:
    criteria = Criteria.choose(ALL)
    measured = criteria.minimised(np.array([[0.2, 0.4, 300.0], [0.8, 0.1, 700.0]]))
    box = criteria.box(measured, ORIGINAL)
    assert criteria.minimised(box.reference).tolist() == [0.2, 0.4, 1000]
    assert criteria.minimised(box.ideal).tolist() == [0.8, 0.1, 0]
    own = criteria.box(measured, ORIGINAL, {"score": 0.0, "macs": 500}, {"error": 0})
    assert criteria.minimised(own.reference).tolist() == [0.0, 0.4, 500]
    assert criteria.minimised(own.ideal).tolist() == [0.8, 0.0, 0]
    maximised = Criteria((Objective("macs", True),))
    box = maximised.box(np.array([[-300.0], [-700.0]]), ORIGINAL)
    assert (box.ideal.tolist(), box.reference.tolist()) == ([-700], [-300]), (
        "the original is the best there is, not the worst"
    )


def test_a_share_of_the_box_has_no_units() -> None:
    rng = np.random.default_rng(0)
    values = rng.random((30, 3))
    box = Box(np.zeros(3), np.ones(3))
    factors, shifts = np.array([1e-4, 1.0, 1e7]), np.array([3.0, -1.0, 0.0])
    other = Box(shifts, shifts + factors)
    assert other.hypervolume(values * factors + shifts) == pytest.approx(box.hypervolume(values))
    assert box.hypervolume(values) == pytest.approx(hypervolume(values, np.ones(3)))


def test_an_objective_that_never_changes_says_nothing() -> None:
    criteria = Criteria.choose(ALL, ("error", "score"))
    values = criteria.minimised(np.array([[0.5, 0.3], [0.2, 0.3]]))
    assert criteria.box(values, ORIGINAL).hypervolume(values) == 1.0


def test_a_reference_that_nothing_beats_leaves_nothing() -> None:
    criteria = Criteria.choose(ALL, ("error", "macs"))
    values = np.array([[0.5, 300.0], [0.2, 700.0]])
    for reference in ({"error": 0.2}, {"error": 0.1}):
        assert criteria.box(values, ORIGINAL, reference).hypervolume(values) == 0.0


@pytest.mark.parametrize(
    ("corner", "message"),
    [
        ({"eror": 1.0}, "reference: unknown objective 'eror'; did you mean 'error'"),
        ({"error": math.nan}, "reference: expected a finite number for error, got nan"),
        ({"error": "1"}, "reference: expected a finite number for error, got '1'"),
        ({"error": True}, "reference: expected a finite number for error, got True"),
    ],
)
def test_what_cannot_be_a_corner(corner: dict[str, float], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        Criteria.choose(ALL).box(np.zeros((1, 3)), ORIGINAL, corner)
