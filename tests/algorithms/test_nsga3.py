"""NSGA-III: the contract, its selection against pymoo's, and fronts that are known."""

import pytest

import evo
from evo.algorithms import Algorithm
from evo.fitness import Objective
from evo.testing import SteadyStateContract


class TestNSGA3(SteadyStateContract):
    @pytest.fixture
    def algorithm(self) -> Algorithm:
        return evo.NSGA3(generations=4, population=9)


class TestNSGA3WithOneObjective(SteadyStateContract):
    @pytest.fixture
    def algorithm(self) -> Algorithm:
        return evo.NSGA3(generations=4, population=7, crossover=0.5, mutation=0.5)

    @pytest.fixture
    def objectives(self) -> tuple[Objective, ...]:
        return (Objective("score", True),)


class TestNSGA3WithFourObjectives(SteadyStateContract):
    @pytest.fixture
    def algorithm(self) -> Algorithm:
        return evo.NSGA3(generations=4, population=9, divisions=1)

    @pytest.fixture
    def objectives(self) -> tuple[Objective, ...]:
        return tuple(Objective(name, name == "a") for name in "abcd")
