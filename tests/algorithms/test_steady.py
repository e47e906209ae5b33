"""ECS and FGA without generations: against the same written down plainly, and in any order of results."""

import random
from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from deap import tools

import evo
from evo.algorithms import SteadyState
from evo.algorithms.ecs import _roulette
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


def score(individual: Individual) -> float:
    return 0.05 + float(np.dot(np.arange(len(individual)) % 5, individual)) / len(individual)


def results(algorithm: SteadyState, slots: int, order: int) -> Iterator[Individual]:
    """Keep `slots` busy; yield each individual when it is about to be told, its fitness set."""
    rng = np.random.default_rng(order)
    rows = 0
    while True:
        while len(algorithm.outstanding) < slots and (family := algorithm.ask()) is not None:
            for one in family:
                one.row = rows
                rows += 1
        left = algorithm.outstanding
        if not left:
            return
        one = left[int(rng.integers(len(left)))]
        one.fitness.values = (score(one),)
        yield one
        algorithm.tell([one])


class LiteralQueue:
    """Steady-state ECS with one worker, as its docstring says it: all in turn, a queue in the order of age."""

    def __init__(self, settings: evo.ECS, space: FilterBitsSpace, seed: int) -> None:
        self.settings, self.space = settings, space
        self.rng = np.random.default_rng(seed)
        self.queue: deque[list[int]] = deque()
        self.evaluated: list[list[int]] = []

    def score(self, genes: list[int]) -> float:
        return score(Individual("b", genes, (1.0,)))

    def enter(self, genes: list[int]) -> None:
        self.queue.append(genes)
        if len(self.queue) > self.settings.population:
            oldest = self.queue.popleft()
            if self.score(oldest) >= max(map(self.score, self.queue)):
                self.queue.popleft()
                self.queue.appendleft(oldest)

    def spin(self, ball: float) -> list[int]:
        ball *= sum(map(self.score, self.queue))
        for genes in self.queue:
            ball -= self.score(genes)
            if ball < 0:
                return genes
        return self.queue[-1]

    def run(self, total: int) -> None:
        for _ in range(self.settings.population):
            genes = list(self.space.initial(1, self.rng)[0])
            self.evaluated.append(genes)
            self.enter(genes)
        while len(self.evaluated) < total:
            s = self.rng.random()
            if s < self.settings.copy_share:
                self.enter(self.spin(self.rng.random()))
                continue
            crossed = s < self.settings.copy_share + self.settings.crossover_share
            parents = [self.spin(ball) for ball in self.rng.random(2 if crossed else 1)]
            children = [Individual("b", genes, (1.0,)) for genes in parents]
            if crossed:
                self.space.mate(children[0], children[1], self.rng)
            else:
                self.space.mutate(children[0], self.rng)
            family = [list(one) for one in children][: total - len(self.evaluated)]
            self.evaluated += family
            self.enter(max(family, key=self.score))


@pytest.mark.parametrize("seed", range(5))
def test_ecs_with_one_worker_equals_a_literal_queue(space: FilterBitsSpace, seed: int) -> None:
    algorithm = evo.ECS(generations=15, population=7, asynchronous=True)
    algorithm.start(space, SCORE, seed)
    proposed = [list(one) for one in results(algorithm, 1, 0)]
    literal = LiteralQueue(algorithm, space, seed)
    literal.run(15 * 7)
    # Of two children, whose turn comes first is chance.
    assert sorted(proposed) == sorted(literal.evaluated)
    assert [list(one) for one in algorithm._population] == list(literal.queue)


@pytest.mark.parametrize("slots", [1, 4, 40])
@pytest.mark.parametrize("seed", range(3))
def test_ecs_never_loses_the_best_and_its_queue_is_as_long_as_the_population(
    space: FilterBitsSpace, seed: int, slots: int
) -> None:
    algorithm = evo.ECS(generations=25, population=6, asynchronous=True)
    algorithm.start(space, SCORE, seed)
    rows: set[int | None] = set()
    best = 0.0
    for one in results(algorithm, slots, seed):
        queue = algorithm._population
        assert len(queue) <= 6
        # A family counts when all of it is told.
        assert {other.row for other in queue} <= rows
        now = max((score(other) for other in queue), default=0.0)
        assert now >= best
        best = now
        rows.add(one.row)
    assert len(algorithm._population) == 6
    assert max(map(score, algorithm._population)) > score(
        FilterBits().bind(TASK, (1.0,)).initial(1, np.random.default_rng(0))[0]
    )


def with_parents(space: FilterBitsSpace, count: int, **settings: Any) -> evo.ECS:
    """An asynchronous ECS after its first population."""
    algorithm = evo.ECS(generations=20, population=count, asynchronous=True, **settings)
    algorithm.start(space, SCORE, 1)
    for row in range(count):
        family = algorithm.ask()
        assert family is not None
        (one,) = family
        one.row, one.fitness.values = row, (score(one),)
        algorithm.tell(family)
    assert [one.row for one in algorithm._population] == list(range(count))
    return algorithm


def test_ecs_lets_the_fitter_of_two_children_in_when_both_are_told(space: FilterBitsSpace) -> None:
    fitter = set()
    for told_first in (0, 1):
        algorithm = with_parents(space, 4, copy_share=0, crossover_share=1, mutation_share=0)
        family = algorithm.ask()
        assert family is not None
        other = algorithm.ask()
        assert other is not None
        assert len(family) == 2
        for row, one in enumerate([*family, *other], 4):
            one.row, one.fitness.values = row, (score(one),)
        before = list(algorithm._population)
        algorithm.tell([family[told_first]])
        algorithm.tell([other[0]])
        assert algorithm._population == before
        algorithm.tell([family[1 - told_first]])
        youngest = algorithm._population[-1]
        assert youngest is max(family, key=score)
        assert len(algorithm._population) == 4
        fitter.add(youngest.row)
    assert len(fitter) == 1


def test_ecs_lets_no_failure_in(space: FilterBitsSpace) -> None:
    algorithm = with_parents(space, 4, copy_share=0, crossover_share=1, mutation_share=0)
    before = list(algorithm._population)
    family = algorithm.ask()
    assert family is not None
    algorithm.tell(family)
    assert algorithm._population == before
    family = algorithm.ask()
    assert family is not None
    family[1].fitness.values = (score(family[1]),)
    algorithm.tell(family)
    assert algorithm._population[-1] is family[1]


def test_ecs_copies_enter_without_evaluation(space: FilterBitsSpace) -> None:
    algorithm = with_parents(space, 5, copy_share=0.9, crossover_share=0, mutation_share=0.1)
    families = [algorithm.ask() for _ in range(5)]
    assert [one.operator for family in families if family for one in family] == ["mutation"] * 5
    rows = [one.row for one in algorithm._population]
    assert rows != [0, 1, 2, 3, 4]
    assert set(rows) < {0, 1, 2, 3, 4}, "copies of parents have displaced others"


def test_ecs_that_only_copies_would_never_end(space: FilterBitsSpace) -> None:
    with pytest.raises(
        SettingsError, match="copy_share 1 makes no child, so that an asynchronous search would never end"
    ):
        evo.ECS(asynchronous=True, copy_share=1, crossover_share=0, mutation_share=0)


def test_ecs_says_so_when_no_fitness_is_positive(space: FilterBitsSpace) -> None:
    algorithm = evo.ECS(population=6, asynchronous=True)
    algorithm.start(space, SCORE, 0)
    families = [algorithm.ask() for _ in range(9)]
    for number, family in enumerate(families[:6]):
        assert family is not None
        family[0].fitness.values = (-2.0 - number,)
        more = algorithm.ask()
        assert more is not None
        assert [one.operator for one in more] == ["initial"], "one that is still being evaluated may do better"
        algorithm.tell(family)
    with pytest.raises(SettingsError, match="ECS needs a positive fitness, the best of the first 6 individuals is -2"):
        algorithm.ask()


def test_roulette_is_that_of_deap(space: FilterBitsSpace) -> None:
    individuals = space.initial(20, np.random.default_rng(0))
    for one in individuals:
        one.fitness.values = (score(one),)
    before = random.getstate()
    try:
        random.seed(5)
        expected = tools.selRoulette(individuals, 500)
    finally:
        random.setstate(before)
    stream = random.Random(5)
    ordered = sorted(individuals, key=lambda one: one.fitness, reverse=True)
    drawn = _roulette(ordered, [stream.random() for _ in range(500)])
    assert [id(one) for one in drawn] == [id(one) for one in expected]
    assert _roulette(ordered, [1.0]) == ordered[-1:], "rounding takes no ball off the wheel"


@pytest.mark.parametrize("slots", [1, 5, 30])
def test_fga_descends_from_the_best_told_so_far(space: FilterBitsSpace, slots: int) -> None:
    algorithm = evo.FGA(generations=9, population=20, parents=4, asynchronous=True)
    algorithm.start(space, SCORE, 0)
    told: list[Individual] = []
    best_when_asked: dict[int, set[int | None]] = {}
    made = []
    for one in results(algorithm, slots, 0):
        best = {other.row for other in sorted(told, key=lambda other: -score(other))[:4]}
        for other in algorithm.outstanding:
            assert other.row is not None
            if other.row not in best_when_asked:
                best_when_asked[other.row] = best
                worst = min((score(parent) for parent in told if parent.row in best), default=0.0)
                by_row = {parent.row: parent for parent in told}
                assert all(score(by_row[parent]) >= worst for parent in other.parents)
                made.append(other.operator)
        told.append(one)
    assert len(made) == len(told) == 200
    assert made[: max(20, slots)] == ["initial"] * max(20, slots)
    children = made[max(20, slots) + 10 :]
    assert set(children) == {"mutation", "crossover"}
    assert len({one.tobytes() for one in told}) == 200, "no genome twice"


def test_fga_has_its_share_of_mutations_and_counts_repeats() -> None:
    space = FilterBits().bind(TASK, (1.0,))
    for share in (0.0, 0.3, 1.0):
        # Few parents soon have no new children to cross.
        algorithm = evo.FGA(generations=1, population=400, parents=300, mutation_share=share, asynchronous=True)
        algorithm.start(space, SCORE, 0)
        for one in results(algorithm, 1, 0):
            last = one
        assert algorithm.statistics([last])["duplicates"] > 0
        algorithm.start(space, SCORE, 0)
        made = [one.operator for one in results(algorithm, 1, 0)][400:]
        assert made.count("mutation") / 400 == pytest.approx(share, abs=0.07)


class Coarse(FilterBitsSpace):
    """Crossover swaps all or nothing: two parents have no new children."""

    crossings = 0

    def mate(self, first: Individual, second: Individual, rng: np.random.Generator) -> tuple[Individual, Individual]:
        self.crossings += 1
        return (first, second) if rng.random() < 0.5 else (second, first)


def test_fga_crosses_no_more_once_its_parents_have_nothing_new() -> None:
    space = Coarse(FilterBits(), NETWORK, (1.0,))
    algorithm = evo.FGA(generations=4, population=10, parents=2, asynchronous=True)
    algorithm.start(space, SCORE, 0)
    changes, before = 0, algorithm._best
    for one in results(algorithm, 1, 0):
        assert one.operator in ("initial", "mutation")
        changes += algorithm._best != before
        before = algorithm._best
    assert 0 < space.crossings <= (changes + 1) * 101


class Forgetful(evo.ECS):
    """Saves what is in its queue, but not what is outstanding."""

    def state(self) -> dict[str, Any]:
        return {**super().state(), "families": {"sizes": [], "open": [], "members": {name: [] for name in COLUMNS}}}


COLUMNS = ("genome", "values", "operator", "parents", "row")


@pytest.mark.parametrize("kind", [Forgetful, evo.ECS])
def test_the_contract_notices_an_algorithm_that_forgets(kind: type[evo.ECS], space: FilterBitsSpace) -> None:
    test = SteadyStateContract().test_asynchronous_a_saved_state_goes_on_bit_for_bit
    algorithm = kind(generations=4, population=6, asynchronous=True)
    if kind is Forgetful:
        with pytest.raises(AssertionError):
            test(algorithm, space, SCORE, 6, 0)
    else:
        test(algorithm, space, SCORE, 6, 0)
