import random

import numpy as np
import pytest

import evo
from evo.algorithms import ALGORITHMS
from evo.algorithms.base import deap_random
from evo.fitness import Objective


def test_deap_draws_from_our_generator_and_gives_pythons_back() -> None:
    before = random.getstate()

    def draw(seed: int) -> list[float]:
        with deap_random(np.random.default_rng(seed)):
            return [random.random() for _ in range(3)]

    assert draw(1) == draw(1) != draw(2)
    assert random.getstate() == before
    rng = np.random.default_rng(1)
    draws = []
    for _ in range(2):
        with deap_random(rng):
            draws.append(random.random())
    assert draws[0] != draws[1], "the generator moves on"


def test_pythons_generator_comes_back_after_an_error() -> None:
    before = random.getstate()

    def fail() -> None:
        with deap_random(np.random.default_rng(1)):
            random.random()
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert random.getstate() == before


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_algorithm_has_defaults_and_cannot_be_changed(name: str) -> None:
    algorithm = ALGORITHMS[name]()
    assert algorithm.rounds >= 1
    algorithm.check((Objective("score", True),))
    field = next(iter(type(algorithm).model_fields))
    with pytest.raises(ValueError, match="frozen"):
        setattr(algorithm, field, 3)


def test_a_wrong_setting_is_refused_in_one_sentence() -> None:
    with pytest.raises(evo.EvoError, match=r"^ECS\.population: got 1; input should be greater than or equal to 2$"):
        evo.ECS(population=1)
    with pytest.raises(evo.EvoError, match=r"^ECS: unknown setting 'generation'; did you mean 'generations'\?$"):
        evo.ECS(**{"generation": 3})
