"""Who is promoted, against NSGA-II's selection done the slow way by DEAP."""

import numpy as np
import pytest
from deap import base, creator, tools
from hypothesis import given
from hypothesis import strategies as st

from evo.promotion import crowding, ranking

creator.create("Point", list, fitness=type("Both", (base.Fitness,), {"weights": (-1.0, -1.0)}))


def test_by_one_number_it_is_its_order_and_among_equals_that_of_the_keys() -> None:
    values = np.array([[3.0], [1.0], [2.0], [1.0], [3.0]])
    assert ranking(values, ["e", "d", "c", "b", "a"]) == [3, 1, 2, 4, 0]


def test_the_order_of_the_rows_plays_no_part() -> None:
    rng = np.random.default_rng(0)
    values = rng.integers(0, 6, (30, 2)).astype(float)
    keys = [f"{number:02}" for number in range(30)]
    expected = [keys[row] for row in ranking(values, keys)]
    for _ in range(5):
        order = rng.permutation(30)
        names = [keys[row] for row in order]
        assert [names[row] for row in ranking(values[order], names)] == expected


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=1, max_size=25, unique=True))
def test_it_is_the_order_of_fronts_and_room(points: list[tuple[int, int]]) -> None:
    individuals = []
    for point in points:
        individual = creator.Point(point)
        individual.fitness.values = point
        individuals.append(individual)
    order = ranking(np.array(points, dtype=float), [f"{number:02}" for number in range(len(points))])
    assert sorted(order) == list(range(len(points)))
    placed = 0
    for front in tools.sortNondominated(individuals, len(individuals)):
        members = order[placed : placed + len(front)]
        placed += len(front)
        assert sorted(points[member] for member in members) == sorted(map(tuple, front))
        if len(front) == 1:
            continue
        tools.emo.assignCrowdingDist(front)
        room = {tuple(one): one.fitness.crowding_dist for one in front}
        # DEAP divides by the number of objectives as well.
        found = crowding(np.array([points[member] for member in members], dtype=float))
        assert found / 2 == pytest.approx([room[points[member]] for member in members])
        assert (found[:-1] >= found[1:]).all()


def test_the_small_end_of_a_front_is_promoted_with_the_accurate_end() -> None:
    error = np.array([0.1, 0.2, 0.3, 0.4, 0.9])
    size = np.array([500.0, 400.0, 300.0, 600.0, 10.0])
    keys = list("abcde")
    assert set(ranking(np.stack([error, size], 1), keys)[:2]) == {0, 4}
    assert ranking(error[:, None], keys)[:2] == [0, 1]


def test_copies_have_the_room_of_one() -> None:
    room = crowding(np.array([[0.0, 4.0], [1.0, 1.0], [4.0, 0.0], [1.0, 1.0]]))
    assert room.tolist() == [np.inf, 2.0, np.inf, 0.0]
    assert crowding(np.array([[1.0, 2.0], [1.0, 2.0]])).tolist() == [0.0, 0.0]
