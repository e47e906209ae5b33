"""The parts do what evo relies on, and what they are for."""

import numpy as np
import pytest
from evo_hill.algorithm import HillClimbing
from evo_hill.fitness import Agreement
from evo_hill.importance import geometric_median

import evo
from evo.errors import SettingsError
from evo.importance import Criterion, FilterSelection, Material
from evo.testing import AlgorithmContract, FitnessContract, ImportanceContract, small_task


class TestHillClimbing(AlgorithmContract):
    @pytest.fixture
    def algorithm(self) -> HillClimbing:
        return HillClimbing(steps=5, children=4)


class TestAgreement(FitnessContract):
    @pytest.fixture
    def fitness(self) -> Agreement:
        return Agreement(images=40)


class TestGeometricMedian(ImportanceContract):
    @pytest.fixture
    def criterion(self) -> Criterion:
        return geometric_median


def test_every_step_descends_from_the_best_before() -> None:
    climber, space = HillClimbing(steps=4, children=3), evo.FilterBits().bind(small_task(), (1.0,))
    climber.start(space, Agreement().objectives[:1], 0)
    best, row = None, 0
    while asked := climber.ask():
        for individual in asked:
            assert individual.parents == (() if best is None else (best.row,))
            individual.row, individual.fitness.values = row, (float(sum(individual)),)
            row += 1
        climber.tell(asked)
        # Of equals, the first of the newest.
        best = max([*asked, *([] if best is None else [best])], key=lambda one: one.fitness.values)


def test_the_original_agrees_with_itself() -> None:
    task = small_task()
    whole = evo.Candidate(task, task.network.full, 0)
    assert Agreement(images=48)(whole) == {"score": 1.0, "disagreement": 0.0}
    with pytest.raises(SettingsError, match=r"^Agreement: images is 500, but there are 48 validation images$"):
        Agreement().check(task)


def test_of_two_equal_filters_and_a_far_one_the_far_one_stays() -> None:
    task = small_task()
    network = task.network
    weight = network.tensor(f"{network.groups[0].name}.weight")
    scores = geometric_median(Material(network, None, 0))[network.groups[0].name]
    distances = [[np.linalg.norm(a - b) for b in weight] for a in weight.astype(np.float64)]
    assert np.argmax(np.asarray(scores)) == np.argmax(np.sum(distances, axis=1))
    kept = FilterSelection(network, geometric_median).masks([1, *(group.size for group in network.groups[1:])])
    assert np.flatnonzero(kept[network.groups[0].name]).tolist() == [int(np.argmax(np.asarray(scores)))]
