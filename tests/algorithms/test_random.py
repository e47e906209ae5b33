import numpy as np
import pytest

import evo
from evo.algorithms import Algorithm
from evo.fitness import Objective
from evo.testing import AlgorithmContract, small_task


class TestRandomSearch(AlgorithmContract):
    @pytest.fixture
    def algorithm(self) -> Algorithm:
        return evo.RandomSearch(evaluations=17, batch=5)


def test_draws_as_many_as_it_should_from_the_initial_distribution() -> None:
    space = evo.FilterBits().bind(small_task(), (1.0,))
    algorithm = evo.RandomSearch(evaluations=7, batch=3)
    algorithm.start(space, (Objective("score", True),), 4)
    proposed = []
    sizes = []
    while (asked := algorithm.ask()) is not None:
        assert {one.operator for one in asked} == {"random"}
        proposed += [one.tobytes() for one in asked]
        sizes.append(len(asked))
        algorithm.tell(asked)
    assert sizes == [3, 3, 1]
    rng = np.random.default_rng(4)
    assert proposed == [one.tobytes() for size in sizes for one in space.initial(size, rng)]
