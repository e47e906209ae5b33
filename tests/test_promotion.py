"""Who is promoted, against the slow and obvious way."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from evo.promotion import ranking


def names(count: int) -> list[str]:
    return [f"{number:02}" for number in range(count)]


def area(points: NDArray[np.int64]) -> int:
    """Count the squares of a board, twice as large as the ranks of nine, that a point is at or before in both directions."""
    rows, columns = np.indices((18, 18))
    dominated = np.zeros((18, 18), dtype=bool)
    for x, y in points:
        dominated |= (rows >= x) & (columns >= y)
    return int(dominated.sum())


def test_by_one_number_it_is_its_order_and_among_equals_that_of_the_keys() -> None:
    values = np.array([[3.0], [1.0], [2.0], [1.0], [3.0]])
    assert ranking(values, ["e", "d", "c", "b", "a"]) == [3, 1, 2, 4, 0]


@pytest.mark.parametrize("columns", [1, 2, 4])
def test_the_order_of_the_rows_plays_no_part(columns: int) -> None:
    rng = np.random.default_rng(0)
    values = rng.integers(0, 6, (30, columns)).astype(float)
    keys = names(30)
    expected = [keys[row] for row in ranking(values, keys)]
    assert sorted(expected) == keys
    for _ in range(5):
        order = rng.permutation(30)
        shuffled = [keys[row] for row in order]
        assert [shuffled[row] for row in ranking(values[order], shuffled)] == expected


@given(st.permutations(range(9)))
def test_everybody_adds_the_most_to_those_before(costs: list[int]) -> None:
    points = np.stack([np.arange(9), costs], axis=1)
    order = ranking(points.astype(float), names(9))
    assert sorted(order) == list(range(9))
    before: list[int] = []
    for place, row in enumerate(order):
        gains = {other: area(points[[*before, other]]) - area(points[before]) for other in order[place:]}
        if not any(gains.values()):  # all others are dominated: it begins anew with those
            before = []
            gains = {other: area(points[[other]]) for other in order[place:]}
        assert gains[row] == max(gains.values())
        before.append(row)


@given(st.permutations(range(9)), st.sets(st.integers(0, 8), max_size=4))
def test_what_was_promoted_before_counts_as_being_before_them_all(costs: list[int], promoted: set[int]) -> None:
    points = np.stack([np.arange(9), costs], axis=1)
    old = sorted(promoted)
    new = [row for row in range(9) if row not in promoted]
    order = [
        new[row]
        for row in ranking(points[new].astype(float), names(len(new)), points[old].astype(float).reshape(-1, 2))
    ]
    assert sorted(order) == new
    before = old
    for place, row in enumerate(order):
        gains = {other: area(points[[*before, other]]) - area(points[before]) for other in order[place:]}
        if not any(gains.values()):
            before = []
            gains = {other: area(points[[other]]) for other in order[place:]}
        assert gains[row] == max(gains.values())
        before = [*before, row]


def test_one_number_knows_no_before() -> None:
    values = np.array([[3.0], [1.0], [2.0]])
    assert ranking(values, ["a", "b", "c"], np.array([[0.0]])) == [1, 2, 0]


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=25))
def test_nobody_comes_before_somebody_who_is_better_in_everything(points: list[tuple[int, int, int]]) -> None:
    values = np.array(points, dtype=float)
    order = ranking(values, names(len(points)))
    for place, row in enumerate(order):
        for later in order[place + 1 :]:
            assert not ((values[later] <= values[row]).all() and (values[later] < values[row]).any())


def test_few_spread_over_the_trade_off_and_scales_play_no_part() -> None:
    error = np.linspace(0.1, 0.9, 15)
    size = 1000 * np.exp(-8 * error)
    order = ranking(np.stack([error, size], axis=1), names(15))
    assert order[0] == 7, "the middle comes first"
    assert set(order[1:3]) == {0, 14}, "then both ends"
    assert order == ranking(np.stack([np.exp(error), np.log(size)], axis=1), names(15))
