import copy
import pickle

import pytest
from deap import tools

from evo.encodings.individual import Individual, ObjectiveValues


def make(*genes: int, weights: tuple[float, ...] = (1.0, -1.0)) -> Individual:
    return Individual("b", genes, weights)


def test_objectives_read_as_they_were_written_and_compare_by_direction() -> None:
    low, high = make(0), make(1)
    low.fitness.values = (0.5, 10.0)
    high.fitness.values = (0.5, 20.0)
    assert high.fitness.values == (0.5, 20.0)
    assert low.fitness > high.fitness, "the second objective is minimised"
    assert low.fitness.dominates(high.fitness)
    assert tools.selBest([high, low], 1) == [low]


def test_one_class_serves_different_objectives() -> None:
    one, two = make(weights=(1.0,)), make(weights=(-1.0,))
    one.fitness.values = two.fitness.values = (3.0,)
    assert one.fitness.wvalues == (3.0,)
    assert two.fitness.wvalues == (-3.0,)


def test_unevaluated_until_values_are_set_and_again_once_deleted() -> None:
    individual = make(1, 0)
    assert not individual.fitness.valid
    individual.fitness.values = (1.0, 2.0)
    assert individual.fitness.valid
    del individual.fitness.values
    assert not individual.fitness.valid


@pytest.mark.parametrize("evaluated", [False, True])
def test_deep_copies_and_pickles_are_complete_and_independent(evaluated: bool) -> None:
    original = make(1, 0, 1)
    original.row, original.parents, original.operator = 7, (1, 2), "mutation"
    if evaluated:
        original.fitness.values = (0.1, 3.0)
    for copied in (copy.deepcopy(original), pickle.loads(pickle.dumps(original))):
        assert copied == original
        assert (copied.row, copied.parents, copied.operator) == (7, (1, 2), "mutation")
        assert copied.fitness.valid == evaluated
        assert copied.fitness.values == original.fitness.values
        assert isinstance(copied.fitness, ObjectiveValues)
        copied[0] = 0
        copied.fitness.values = (9.0, 9.0)
        assert list(original) == [1, 0, 1]
        assert original.fitness.valid == evaluated


def test_deap_operators_swap_genes() -> None:
    first, second = make(0, 0, 0, 0), make(1, 1, 1, 1)
    tools.cxTwoPoint(first, second)
    assert sorted([*first, *second]) == [0] * 4 + [1] * 4
    assert 0 < sum(first) < 4
