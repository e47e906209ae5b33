import json

import numpy as np
import pytest

import evo
from evo.algorithms import genomes
from evo.algorithms.novelty import REDRAWS, Novelty
from evo.encodings.base import GenomeSpace
from evo.encodings.individual import Individual
from evo.testing import small_task

TASK = small_task()
NETWORK = TASK.network


@pytest.mark.parametrize("encoding", [evo.FilterBits(), evo.ChannelVector()])
def test_individuals_come_back_from_json_as_they_were(encoding: evo.FilterBits | evo.ChannelVector) -> None:
    space: GenomeSpace = encoding.bind(TASK, (1.0, -1.0))
    before = space.initial(5, np.random.default_rng(0))
    for row, one in enumerate(before):
        one.row, one.operator, one.parents = row, "crossover", (row + 7, 2)
    before[1].fitness.values = (0.1 + 0.2, -1e-300)
    before[4].row = None
    after = genomes.unpack(space, json.loads(json.dumps(genomes.pack(space, before))))
    assert [list(one) for one in after] == [list(one) for one in before]
    for name in ("operator", "parents", "row", "typecode"):
        assert [getattr(one, name) for one in after] == [getattr(one, name) for one in before]
    assert [one.fitness.values for one in after] == [(), (0.1 + 0.2, -1e-300), (), (), ()]
    assert [one.fitness.weights for one in after] == [(1.0, -1.0)] * 5
    assert genomes.unpack(space, genomes.pack(space, [])) == []


def test_a_child_is_an_unevaluated_copy_of_its_first_parent() -> None:
    space = evo.FilterBits().bind(TASK, (1.0,))
    first, second = space.initial(2, np.random.default_rng(0))
    first.row, second.row, first.fitness.values = 4, 9, (0.5,)
    made = genomes.child("crossover", first, second)
    assert (list(made), made.parents, made.operator, made.row) == (list(first), (4, 9), "crossover", None)
    assert not made.fitness.valid
    made[0] ^= 1
    assert list(made) != list(first), "its genes are its own"


def drawn(space: GenomeSpace, *numbers: int) -> list[Individual]:
    """Individuals that differ if their numbers do."""
    return [Individual("b", [number >> bit & 1 for bit in range(space.size)], (1.0,)) for number in numbers]


def test_what_repeats_is_drawn_again_and_counted() -> None:
    space = evo.FilterBits().bind(TASK, (1.0,))
    novelty = Novelty()
    stream = iter(drawn(space, 1, 2, 1, 3, 3, 2, 4, 5))
    fresh = novelty.draw(space, 4, lambda missing: [next(stream)])
    assert [list(one) for one in fresh] == [list(one) for one in drawn(space, 1, 2, 3, 4)]
    assert novelty.duplicates == 0, "the generation is not over"
    novelty.end_generation()
    assert novelty.duplicates == 3
    again = Novelty()
    again.restore(json.loads(json.dumps(novelty.save())))
    stream = iter(drawn(space, 4, 3, 6))
    assert [list(one) for one in again.draw(space, 1, lambda missing: [next(stream)])] == [list(drawn(space, 6)[0])]
    again.end_generation()
    assert again.duplicates == 2


def test_where_there_is_nothing_new_it_is_repeated_or_left_out() -> None:
    space = evo.FilterBits().bind(TASK, (1.0,))
    novelty = Novelty()
    calls: list[int] = []

    def draw(missing: int) -> list[Individual]:
        calls.append(missing)
        return drawn(space, 7)

    assert len(novelty.draw(space, 1, draw)) == 1
    assert novelty.draw(space, 2, draw, repeat=False) == []
    assert calls[1:] == [2] * (REDRAWS + 1)
    assert len(novelty.draw(space, 3, draw)) == 3
