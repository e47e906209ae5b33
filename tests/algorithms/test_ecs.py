"""ECS against Algorithm 1, read literally."""

import copy
import random
from collections import Counter

import numpy as np
import pytest
from scipy import stats

import evo
from evo.algorithms import Algorithm
from evo.encodings.filter_bits import FilterBits, FilterBitsSpace
from evo.encodings.individual import Individual
from evo.errors import SettingsError
from evo.fitness import Objective
from evo.testing import SteadyStateContract, small_task

TASK = small_task()
NETWORK = TASK.network
SCORE = (Objective("score", True),)


@pytest.fixture(scope="module")
def space() -> FilterBitsSpace:
    return FilterBits().bind(TASK, (1.0,))


class TestECS(SteadyStateContract):
    @pytest.fixture
    def algorithm(self) -> Algorithm:
        return evo.ECS(generations=5, population=8, copy_share=0.3, crossover_share=0.5, mutation_share=0.2)


def score(individual: Individual) -> float:
    """Positive, different for most genomes."""
    return 0.05 + float(np.dot(np.arange(len(individual)) % 5, individual)) / len(individual)


def evaluate(asked: list[Individual], row: int = 0) -> None:
    for number, individual in enumerate(asked, row):
        individual.row = number
        individual.fitness.values = (score(individual),)


class LiteralECS:
    """Algorithm 1 as the paper prints it, one slot after the other, with a roulette wheel of its own."""

    def __init__(self, settings: evo.ECS, space: FilterBitsSpace, seed: int) -> None:
        self.settings, self.space = settings, space
        self.rng = np.random.default_rng(seed)
        self.population = space.initial(settings.population, self.rng)
        self.evaluations = list(self.population)
        evaluate(self.population)

    def spin(self, wheel: random.Random) -> Individual:
        # Eq. 8; the wheel's sectors lie from the fittest to the least fit, as in DEAP.
        sectors = sorted(self.population, key=score, reverse=True)
        ball = wheel.random() * sum(score(one) for one in self.population)
        for individual in sectors:
            ball -= score(individual)
            if ball < 0:
                return individual
        return sectors[-1]

    def next_generation(self) -> None:
        s1, s2 = self.settings.copy_share, self.settings.crossover_share
        draws = self.rng.random(self.settings.population - 1)
        wheel = random.Random(int(self.rng.integers(2**63)))
        following = [max(self.population, key=score)]
        plans: list[tuple[float, list[Individual]]] = []
        for s in draws:
            crossed = s1 <= s < s1 + s2
            plans.append((float(s), [self.spin(wheel) for _ in range(2 if crossed else 1)]))
        for s, parents in plans:
            children = [copy.deepcopy(parent) for parent in parents]
            if s < s1:
                following.append(parents[0])
                continue
            if len(parents) == 2:
                self.space.mate(children[0], children[1], self.rng)
            else:
                self.space.mutate(children[0], self.rng)
            evaluate(children)
            self.evaluations += children
            following.append(max(children, key=score))
        self.population = following


@pytest.mark.parametrize("seed", range(5))
def test_equals_the_literal_algorithm(space: FilterBitsSpace, seed: int) -> None:
    algorithm = evo.ECS(generations=6, population=12)
    algorithm.start(space, SCORE, seed)
    literal = LiteralECS(algorithm, space, seed)
    proposed = []
    for generation in range(6):
        asked = algorithm.ask()
        assert asked is not None
        proposed += [bytes(one) for one in asked]
        evaluate(asked)
        algorithm.tell(asked)
        if generation:
            literal.next_generation()
        assert [bytes(one) for one in algorithm._population] == [bytes(one) for one in literal.population]
    assert proposed == [bytes(one) for one in literal.evaluations]


def generation_of(
    space: FilterBitsSpace, population: int, seed: int = 0, **settings: float
) -> tuple[evo.ECS, list[Individual], list[Individual]]:
    """An algorithm after its first generation, that generation, and the proposals of the second."""
    algorithm = evo.ECS(generations=3, population=population, **settings)
    algorithm.start(space, SCORE, seed)
    first = algorithm.ask()
    assert first is not None
    evaluate(first)
    algorithm.tell(first)
    second = algorithm.ask()
    assert second is not None
    return algorithm, first, second


def test_slots_are_filled_in_their_shares(space: FilterBitsSpace) -> None:
    algorithm, _, proposed = generation_of(space, 2001, copy_share=0.2, crossover_share=0.7, mutation_share=0.1)
    kinds = Counter(algorithm._plan[1:])
    observed = [kinds["copy"], kinds["crossover"], kinds["mutation"]]
    assert sum(observed) == 2000
    assert stats.chisquare(observed, [400, 1400, 200]).pvalue > 0.01
    made = Counter(child.operator for child in proposed)
    assert made == {"crossover": 2 * kinds["crossover"], "mutation": kinds["mutation"]}


def test_roulette_draws_in_proportion_to_fitness(space: FilterBitsSpace) -> None:
    algorithm = evo.ECS(generations=2, population=4001, copy_share=1, crossover_share=0, mutation_share=0)
    algorithm.start(space, SCORE, 0)
    first = algorithm.ask()
    assert first is not None
    fitness = np.linspace(0.2, 3.0, 8)
    for index, individual in enumerate(first):
        individual.row = index
        if index < 8:
            individual.fitness.values = (float(fitness[index]),)  # all others failed: they are never parents
    algorithm.tell(first)
    assert algorithm.ask() == []
    algorithm.tell([])
    drawn = Counter(one.row for one in algorithm._population[1:])
    assert set(drawn) == set(range(8))
    observed = [drawn[index] for index in range(8)]
    assert stats.chisquare(observed, 4000 * fitness / fitness.sum()).pvalue > 0.01


@pytest.mark.parametrize("seed", range(5))
def test_the_best_is_never_lost(space: FilterBitsSpace, seed: int) -> None:
    algorithm = evo.ECS(generations=12, population=6, copy_share=0, crossover_share=0.2, mutation_share=0.8)
    algorithm.start(space, SCORE, seed)
    best, seen = 0.0, 0.0
    while (asked := algorithm.ask()) is not None:
        evaluate(asked)
        seen = max([seen, *(score(one) for one in asked)])
        algorithm.tell(asked)
        now = max(score(one) for one in algorithm._population)
        assert now >= best
        best = now
    assert best == seen, "the fitter child is kept, so that nothing good that was evaluated is dropped"


def test_the_fitter_child_is_kept(space: FilterBitsSpace) -> None:
    algorithm, _, proposed = generation_of(space, 40, copy_share=0, crossover_share=1, mutation_share=0)
    evaluate(proposed, 40)
    pairs = list(zip(proposed[::2], proposed[1::2], strict=True))
    assert len(pairs) == 39
    assert any(score(one) < score(other) for one, other in pairs)
    assert any(score(one) > score(other) for one, other in pairs)
    algorithm.tell(proposed)
    assert [score(one) for one in algorithm._population[1:]] == [max(map(score, pair)) for pair in pairs]


def test_a_failed_child_loses_to_its_sibling_and_two_failed_ones_are_no_parents(space: FilterBitsSpace) -> None:
    algorithm, _, proposed = generation_of(space, 4, copy_share=0, crossover_share=1, mutation_share=0)
    evaluate(proposed, 4)
    del proposed[0].fitness.values, proposed[3].fitness.values, proposed[4].fitness.values, proposed[5].fitness.values
    algorithm.tell(proposed)
    assert [one.row for one in algorithm._population[1:]] == [5, 6, 8]
    third = algorithm.ask()
    assert third is not None
    assert not {8, 9} & {parent for one in third for parent in one.parents}


def test_copies_are_not_evaluated_again(space: FilterBitsSpace) -> None:
    algorithm, first, proposed = generation_of(space, 10, copy_share=1, crossover_share=0, mutation_share=0)
    assert proposed == []
    algorithm.tell(proposed)
    assert len(algorithm._population) == 10
    assert all(any(one is before for before in first) for one in algorithm._population)


def test_children_name_their_parents(space: FilterBitsSpace) -> None:
    _, first, proposed = generation_of(space, 30)
    genomes = {one.row: list(one) for one in first}
    for child in proposed:
        assert len(child.parents) == (2 if child.operator == "crossover" else 1)
        assert all(parent in genomes for parent in child.parents)
    assert [list(one) for one in first] == list(genomes.values()), "parents are left as they are"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "every evaluation of generation 0 failed"),
        ([-1.0, 0.0], "ECS needs a positive fitness, the best of generation 0 is 0"),
    ],
)
def test_nothing_to_go_on_with_is_said(space: FilterBitsSpace, values: list[float], message: str) -> None:
    algorithm = evo.ECS(generations=2, population=4)
    algorithm.start(space, SCORE, 0)
    asked = algorithm.ask()
    assert asked is not None
    for individual, value in zip(asked, values, strict=False):
        individual.fitness.values = (value,)
    algorithm.tell(asked)
    with pytest.raises(SettingsError, match=message):
        algorithm.ask()


def test_a_minimised_first_objective_is_refused() -> None:
    with pytest.raises(SettingsError, match="the fitness minimises 'error'"):
        evo.ECS().check((Objective("error", False), Objective("score", True)))


def test_shares_have_to_add_up() -> None:
    with pytest.raises(SettingsError, match=r"must be 1, they add up to 1\.1"):
        evo.ECS(copy_share=0.3)
    assert evo.ECS(copy_share=0.1, crossover_share=0.7, mutation_share=0.2).rounds == 20
