"""NSGA-II against DEAP's selection, on a front that is known, and against chance."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from deap import tools
from scipy import stats

import evo
from evo.algorithms import Algorithm, SteadyState
from evo.encodings.filter_bits import FilterBits, FilterBitsSpace
from evo.encodings.individual import Individual
from evo.errors import SettingsError
from evo.fitness import Objective
from evo.testing import SteadyStateContract, small_task

TASK = small_task()
NETWORK = TASK.network
BOTH = (Objective("width", False), Objective("loss", False))
FIRST = 6  # genes of the first group


class TestNSGA2(SteadyStateContract):
    @pytest.fixture
    def algorithm(self) -> Algorithm:
        return evo.NSGA2(generations=4, population=9)


class TestNSGA2WithOneObjective(SteadyStateContract):
    @pytest.fixture
    def algorithm(self) -> Algorithm:
        return evo.NSGA2(generations=4, population=7, crossover=0.5, mutation=0.5)

    @pytest.fixture
    def objectives(self) -> tuple[Objective, ...]:
        return (Objective("score", True),)


def space_of(*weights: float) -> FilterBitsSpace:
    return FilterBits().bind(TASK, weights)


def scattered(count: int, weights: Sequence[float], seed: int, levels: int = 0) -> list[Individual]:
    """Different genomes with objectives at random; with `levels`, many are equal."""
    rng = np.random.default_rng(seed)
    drawn = {one.tobytes(): one for one in space_of(*weights).initial(3 * count, rng)}
    individuals = list(drawn.values())[:count]
    assert len(individuals) == count
    for row, one in enumerate(individuals):
        one.row = row
        one.fitness.values = tuple(rng.integers(levels, size=len(weights)) if levels else rng.normal(size=len(weights)))
    return individuals


def after_one_generation(first: list[Individual], weights: Sequence[float], population: int) -> evo.NSGA2:
    """An algorithm whose first generation were these individuals."""
    algorithm = evo.NSGA2(generations=3, population=population)
    algorithm.start(space_of(*weights), [Objective(str(index), weight > 0) for index, weight in enumerate(weights)], 0)
    asked = algorithm.ask()
    assert asked is not None
    algorithm.tell(asked)
    algorithm._learn(first)
    return algorithm


@pytest.mark.parametrize("weights", [(1.0, 1.0), (1.0, -1.0), (-1.0, -1.0, 1.0), (1.0, -1.0, 1.0, -1.0)])
@pytest.mark.parametrize("levels", [0, 5])
def test_survivors_are_those_of_deap(weights: tuple[float, ...], levels: int) -> None:
    pool = scattered(60, weights, 1, levels)
    algorithm = after_one_generation(pool, weights, 23)
    survivors = algorithm._population
    ranks = {one.row: rank for rank, front in enumerate(tools.sortNondominated(pool, 60)) for one in front}
    order = [(ranks[one.row], -one.fitness.crowding_dist) for one in survivors]
    assert order == sorted(order), "by rank, then by room"
    # Where objectives are equal, what room there is depends on the order.
    expected = tools.selNSGA2(pool[::-1], 23, nd="log" if levels else "standard")
    assert {one.row for one in survivors} == {one.row for one in expected}


@pytest.mark.parametrize("weight", [1.0, -1.0])
@pytest.mark.parametrize("levels", [0, 5])
def test_with_one_objective_the_best_survive(weight: float, levels: int) -> None:
    pool = scattered(40, [weight], 2, levels)
    survivors = after_one_generation(pool, [weight], 15)._population
    values = [one.fitness.values[0] for one in survivors]
    assert values == sorted((one.fitness.values[0] for one in pool), reverse=weight > 0)[:15]


def test_equal_genomes_survive_once() -> None:
    pool = scattered(20, (1.0, 1.0), 0)
    algorithm = after_one_generation([*pool, *pool[:10]], (1.0, 1.0), 25)
    assert len(algorithm._population) == 20


def test_parents_win_binary_tournaments() -> None:
    algorithm = after_one_generation(scattered(10, (1.0, -1.0), 3), (1.0, -1.0), 10)
    place = {one.row: index for index, one in enumerate(algorithm._population)}
    wins = Counter(place[algorithm._parent().row] for _ in range(5000))
    # The first of N places wins unless it is never drawn: 1 − (1 − 1/N)², and so on.
    expected = [5000 * (2 * (10 - index) - 1) / 100 for index in range(10)]
    assert stats.chisquare([wins[index] for index in range(10)], expected).pvalue > 0.01


def test_children_are_crossed_and_mutated_by_chance() -> None:
    algorithm = evo.NSGA2(generations=2, population=2000, crossover=0.7, mutation=0.4)
    # Crossing two of a few parents makes many repeats, which are drawn again: many parents.
    algorithm.start(evo.FilterBits().bind(TASK, (1.0, -1.0)), BOTH, 0)
    first = algorithm.ask()
    assert first is not None
    for row, one in enumerate(first):
        one.row, one.fitness.values = row, (float(row), float(row))
    algorithm.tell(first)
    children = algorithm.ask()
    assert children is not None
    made = Counter(one.operator for one in children)
    assert set(made) == {"crossover", "mutation", "crossover, mutation"}
    crossed = made["crossover"] + made["crossover, mutation"]
    # A crossover makes two children.
    assert crossed / 2000 == pytest.approx(1.4 / 1.7, abs=0.05)
    assert made["crossover, mutation"] / crossed == pytest.approx(0.4, abs=0.05)
    assert all(len(one.parents) == (1 if one.operator == "mutation" else 2) for one in children)


def width_and_loss(genes: Individual) -> tuple[float, float]:
    """Like ZDT1, of bits, both to be minimised: front (k, 1/k), where everything behind the first group is kept."""
    width = float(sum(genes[:FIRST]))
    zeros = len(genes) - FIRST - sum(genes[FIRST:])
    return width, (1 + zeros) / width


def searched(algorithm: Algorithm, seed: int, slots: int = 5) -> list[tuple[float, float]]:
    """All objectives, in the order told, of a search in which results overtake each other if it is asynchronous."""
    rng = np.random.default_rng(seed)
    algorithm.start(space_of(-1.0, -1.0), BOTH, seed)
    found: list[tuple[float, float]] = []
    while True:
        if isinstance(algorithm, SteadyState) and algorithm.asynchronous:
            while len(algorithm.outstanding) < slots and algorithm.ask() is not None:
                pass
            left = algorithm.outstanding
            asked = [left[int(rng.integers(len(left)))]] if left else None
        else:
            asked = algorithm.ask()
        if asked is None:
            return found
        for one in asked:
            one.row = len(found)
            one.fitness.values = width_and_loss(one)
            found.append(width_and_loss(one))
        algorithm.tell(asked)


def hypervolume(points: list[tuple[float, float]]) -> float:
    """The area that two minimised objectives dominate up to (7, 20), by counting a fine grid's columns."""
    grid = np.linspace(0, 7, 1401)[:-1]
    loss = np.array([min([loss for width, loss in points if width <= left], default=20.0) for left in grid])
    return float((20 - np.minimum(loss, 20)).sum() * 7 / len(grid))


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_reaches_the_known_front_where_chance_does_not(asynchronous: bool, seed: int) -> None:
    found = searched(evo.NSGA2(generations=30, population=40, asynchronous=asynchronous), seed)
    assert len(found) == 1200
    front = {(float(width), 1 / width) for width in range(1, FIRST + 1)}
    assert front <= set(found), "every point of it"
    drawn = searched(evo.RandomSearch(evaluations=1200), seed)
    assert not front <= set(drawn)
    for count in (400, 800, 1200):
        assert hypervolume(found[:count]) > hypervolume(drawn[:count])


@pytest.mark.parametrize("asynchronous", [False, True])
def test_the_population_is_spread_along_the_front(asynchronous: bool) -> None:
    algorithm = evo.NSGA2(generations=30, population=13, asynchronous=asynchronous)
    searched(algorithm, 0)
    assert len(algorithm._population) == 13, "no multiple of four"
    assert {one.fitness.values[0] for one in algorithm._population} == set(range(1, FIRST + 1))


@pytest.mark.parametrize("asynchronous", [False, True])
def test_no_genome_is_proposed_twice_while_there_are_new_ones(asynchronous: bool) -> None:
    algorithm = evo.NSGA2(generations=10, population=30, asynchronous=asynchronous)
    algorithm.start(space_of(-1.0, -1.0), BOTH, 0)
    genomes: list[bytes] = []
    duplicates = 0.0
    while (asked := algorithm.ask()) is not None:
        for one in asked:
            one.row = len(genomes)
            one.fitness.values = width_and_loss(one)
            genomes.append(one.tobytes())
        algorithm.tell(asked)
        if len(genomes) % 30 == 0:
            duplicates += algorithm.statistics(asked)["duplicates"]
    assert len(set(genomes)) == len(genomes) == 300
    assert duplicates > 0


def test_where_all_genomes_are_known_repeats_are_proposed_and_survive_once() -> None:
    task = small_task()
    tiny = evo.Network.analyse(task.network.build(task.network.full), task.train.x[:2], protect=["4", "9"])
    algorithm = evo.NSGA2(generations=4, population=40)
    algorithm.start(FilterBits().bind(evo.Task(tiny, task.train, task.val), (1.0,)), (Objective("score", True),), 0)
    asked: list[Individual] | None
    while (asked := algorithm.ask()) is not None:
        assert len(asked) == 40
        for one in asked:
            one.fitness.values = (float(sum(one)),)
        algorithm.tell(asked)
    assert len({one.tobytes() for one in algorithm._population}) == len(algorithm._population)


def test_failures_are_never_parents_and_none_at_all_is_said() -> None:
    algorithm = evo.NSGA2(generations=4, population=10)
    algorithm.start(space_of(-1.0, -1.0), BOTH, 0)
    rows = 0
    good: set[int] = set()
    while (asked := algorithm.ask()) is not None:
        assert all(set(one.parents) <= good for one in asked)
        for one in asked:
            one.row = rows
            rows += 1
            if one.row % 4:
                one.fitness.values = width_and_loss(one)
                good.add(one.row)
        algorithm.tell(asked)
    algorithm.start(space_of(-1.0, -1.0), BOTH, 0)
    asked = algorithm.ask()
    assert asked is not None
    algorithm.tell(asked)
    with pytest.raises(SettingsError, match=r"^NSGA2: every evaluation so far failed; nothing to go on with$"):
        algorithm.ask()
