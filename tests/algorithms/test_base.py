import pytest

import evo
from evo.algorithms import ALGORITHMS
from evo.fitness import Objective


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
