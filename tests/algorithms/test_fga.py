"""FGA against Algorithm 2, read literally."""

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest

import evo
from evo.algorithms import Algorithm
from evo.algorithms.novelty import REDRAWS
from evo.budget import Budget
from evo.encodings.base import GenomeSpace
from evo.encodings.budgeted import bind_within
from evo.encodings.filter_bits import FilterBits, FilterBitsSpace
from evo.encodings.individual import Individual
from evo.errors import SettingsError
from evo.fitness import Objective
from evo.testing import SteadyStateContract, small_task

TASK = small_task()
NETWORK = TASK.network
SCORE = (Objective("score", True),)


class TestFGA(SteadyStateContract):
    @pytest.fixture
    def algorithm(self) -> Algorithm:
        return evo.FGA(generations=4, population=9, parents=3)


class TestFGAWithinABudget(SteadyStateContract):
    @pytest.fixture
    def algorithm(self) -> Algorithm:
        return evo.FGA(generations=3, population=8, parents=4, mutation_share=0.7)

    @pytest.fixture
    def space(self, objectives: tuple[Objective, ...]) -> GenomeSpace:
        weights = tuple(objective.weight for objective in objectives)
        return bind_within(FilterBits(), TASK, weights, Budget(params=0.3))


@pytest.fixture(scope="module")
def space() -> FilterBitsSpace:
    return FilterBits().bind(TASK, (1.0,))


def score(genes: "Individual | tuple[int, ...]") -> float:
    """Of either sign; the same for several genomes."""
    return float(np.dot(np.arange(len(genes)) % 5 - 2, list(genes)))


def evaluate(asked: list[Individual], row: int = 0) -> int:
    """Number and score individuals; return the next row."""
    for number, individual in enumerate(asked, row):
        individual.row = number
        individual.fitness.values = (score(individual),)
    return row + len(asked)


def rounds_of(algorithm: Algorithm) -> list[list[Individual]]:
    """Go to the end; return what was proposed in each round."""
    rounds, row = [], 0
    while (asked := algorithm.ask()) is not None:
        row = evaluate(asked, row)
        rounds.append(asked)
        algorithm.tell(asked)
    return rounds


class LiteralFGA:
    """Algorithm 2 as the paper prints it; genomes are tuples, all that were ever proposed are ranked again every round."""

    def __init__(self, settings: evo.FGA, space: FilterBitsSpace, seed: int) -> None:
        self.settings, self.space = settings, space
        self.rng = np.random.default_rng(seed)
        self.proposed: list[tuple[int, ...]] = []
        self.fill(settings.population, lambda missing: [tuple(one) for one in space.initial(missing, self.rng)])

    def fill(self, total: int, draw: Callable[[int], list[tuple[int, ...]]], *, repeat: bool = True) -> None:
        repeats = 0
        while len(self.proposed) < total and (repeat or repeats <= REDRAWS):
            for genes in draw(total - len(self.proposed)):
                repeats = repeats + 1 if genes in self.proposed else 0
                if repeats in range(1, REDRAWS + 1) or len(self.proposed) == total or (repeats and not repeat):
                    continue
                self.proposed.append(genes)

    def individual(self, genes: tuple[int, ...]) -> Individual:
        return Individual("b", genes, (1.0,))

    def next_round(self) -> None:
        top = sorted(dict.fromkeys(self.proposed), key=score, reverse=True)[: self.settings.parents]

        def mutation(_: int) -> list[tuple[int, ...]]:
            return [tuple(self.space.mutate(self.individual(top[self.rng.integers(len(top))]), self.rng)[0])]

        def crossover(_: int) -> list[tuple[int, ...]]:
            one, other = self.rng.choice(len(top), 2, replace=False)
            children = self.space.mate(self.individual(top[one]), self.individual(top[other]), self.rng)
            return [tuple(child) for child in children]

        before = len(self.proposed)
        self.fill(before + self.settings.population // 2, mutation)
        self.fill(before + self.settings.population, crossover, repeat=False)
        self.fill(before + self.settings.population, mutation)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("parents", [2, 4])
def test_equals_the_literal_algorithm(space: FilterBitsSpace, parents: int, seed: int) -> None:
    algorithm = evo.FGA(generations=6, population=12, parents=parents)
    algorithm.start(space, SCORE, seed)
    literal = LiteralFGA(algorithm, space, seed)
    for _ in range(6):
        literal.next_round()
    proposed = [tuple(one) for asked in rounds_of(algorithm) for one in asked]
    assert proposed == literal.proposed
    assert len(proposed) == 12 + 6 * 12


def test_every_round_has_its_share_of_mutations_and_crossovers(space: FilterBitsSpace) -> None:
    # Crossovers alone soon have nothing new to offer.
    for share, mutants, generations in ((0.5, 10, 3), (0.25, 5, 3), (0.0, 0, 1), (1.0, 20, 3)):
        algorithm = evo.FGA(generations=generations, population=20, parents=5, mutation_share=share)
        algorithm.start(space, SCORE, 0)
        first, *later = rounds_of(algorithm)
        assert Counter(one.operator for one in first) == {"initial": 20}
        for asked in later:
            assert Counter(one.operator for one in asked) == Counter({"mutation": mutants, "crossover": 20 - mutants})


def test_parents_are_the_best_so_far_drawn_alike(space: FilterBitsSpace) -> None:
    algorithm = evo.FGA(generations=2, population=600, parents=4)
    algorithm.start(space, SCORE, 0)
    first, second, third = rounds_of(algorithm)
    for asked, before in ((second, first), (third, [*first, *second])):
        best = sorted(before, key=lambda one: -one.fitness.values[0])[:4]
        drawn = Counter(parent for one in asked for parent in one.parents)
        assert set(drawn) == {one.row for one in best}
        assert all(len(one.parents) == (1 if one.operator == "mutation" else 2) for one in asked)
        shares = [count / drawn.total() for count in drawn.values()]
        assert shares == pytest.approx([0.25] * 4, abs=0.08), "not exactly: repeats are drawn again"
        assert not any(one.parents[0] == one.parents[-1] for one in asked if one.operator == "crossover")


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("maximize", [True, False])
def test_the_best_is_never_lost_whatever_its_direction(maximize: bool, seed: int) -> None:
    space = FilterBits().bind(TASK, (1.0 if maximize else -1.0,))
    algorithm = evo.FGA(generations=8, population=10, parents=2)
    algorithm.start(space, (Objective("score", maximize),), seed)
    values: list[float] = []
    better = max if maximize else min
    while (asked := algorithm.ask()) is not None:
        evaluate(asked, len(values))
        values += [one.fitness.values[0] for one in asked]
        algorithm.tell(asked)
        assert algorithm._best[0].fitness.values[0] == better(values)
    assert better(values) != better(values[:10]), "eight rounds are better than none"


def test_no_genome_is_proposed_twice_and_repeats_are_counted(space: FilterBitsSpace) -> None:
    algorithm = evo.FGA(generations=6, population=15, parents=6)
    algorithm.start(space, SCORE, 3)
    proposed: set[bytes] = set()
    repeats, row = [], 0
    while (asked := algorithm.ask()) is not None:
        genomes = {one.tobytes() for one in asked}
        assert len(genomes) == 15
        assert not genomes & proposed
        proposed |= genomes
        row = evaluate(asked, row)
        repeats.append(algorithm.statistics(asked)["duplicates"])
        algorithm.tell(asked)
    assert repeats[0] == 0
    assert max(repeats) > 0, "a few parents have few children"


def test_a_space_without_anything_new_repeats_itself_instead_of_searching_for_ever() -> None:
    task = small_task()
    model = task.network.build(task.network.full)
    tiny = evo.Network.analyse(model, task.train.x[:2], protect=["4", "9"])
    space = FilterBits().bind(evo.Task(tiny, task.train, task.val), (1.0,))
    assert space.size == 6
    algorithm = evo.FGA(generations=3, population=40, parents=3)
    algorithm.start(space, SCORE, 0)
    row = 0
    proposed: list[bytes] = []
    for number in range(4):
        asked = algorithm.ask()
        assert asked is not None
        assert len(asked) == 40
        row = evaluate(asked, row)
        proposed += [one.tobytes() for one in asked]
        if number == 3:
            assert algorithm.statistics(asked)["duplicates"] > REDRAWS
        algorithm.tell(asked)
        assert len({one.tobytes() for one in algorithm._best}) == 3, "a repeated genome is one parent"
    assert 40 < len(set(proposed)) <= 63


class Coarse(FilterBitsSpace):
    """Crossover swaps all or nothing: two parents have no new children."""

    def mate(self, first: Individual, second: Individual, rng: np.random.Generator) -> tuple[Individual, Individual]:
        return (first, second) if rng.random() < 0.5 else (second, first)


def test_where_crossover_makes_nothing_new_mutation_does() -> None:
    algorithm = evo.FGA(generations=3, population=10, parents=2)
    algorithm.start(Coarse(FilterBits(), NETWORK, (1.0,)), SCORE, 0)
    rounds = rounds_of(algorithm)
    assert len({one.tobytes() for asked in rounds for one in asked}) == 40
    for asked in rounds[1:]:
        assert Counter(one.operator for one in asked) == {"mutation": 10}
        assert all(len(one.parents) == 1 for one in asked)


class Still(FilterBitsSpace):
    """Nine mutations of ten do nothing."""

    def mutate(self, individual: Individual, rng: np.random.Generator) -> tuple[Individual]:
        return (individual,) if rng.random() < 0.9 else super().mutate(individual, rng)


def test_a_mutation_changes_something() -> None:
    space = Still(FilterBits(), NETWORK, (1.0,))
    algorithm = evo.FGA(generations=3, population=20, mutation_share=1)
    algorithm.start(space, SCORE, 0)
    genomes: dict[int, bytes] = {}
    for asked in rounds_of(algorithm):
        for one in asked:
            assert one.row is not None
            genomes[one.row] = one.tobytes()
            assert all(genomes[parent] != one.tobytes() for parent in one.parents)


def test_failures_are_no_parents_and_are_not_proposed_again(space: FilterBitsSpace) -> None:
    algorithm = evo.FGA(generations=5, population=12, parents=3)
    algorithm.start(space, SCORE, 0)
    failed: set[int] = set()
    lost: set[bytes] = set()
    row = 0
    while (asked := algorithm.ask()) is not None:
        assert not failed & {parent for one in asked for parent in one.parents}
        assert not lost & {one.tobytes() for one in asked}
        evaluate(asked, row)
        for one in sorted(asked, key=lambda one: -one.fitness.values[0])[:6]:  # the better half
            del one.fitness.values
            assert one.row is not None
            failed.add(one.row)
            lost.add(one.tobytes())
        row += len(asked)
        algorithm.tell(asked)


def test_a_lone_parent_is_mutated_and_none_at_all_is_said(space: FilterBitsSpace) -> None:
    algorithm = evo.FGA(generations=2, population=6, parents=3)
    algorithm.start(space, SCORE, 0)
    asked = algorithm.ask()
    assert asked is not None
    asked[2].row, asked[2].fitness.values = 2, (-5.0,)
    algorithm.tell(asked)
    asked = algorithm.ask()
    assert asked is not None
    assert {(one.operator, one.parents) for one in asked} == {("mutation", (2,))}
    algorithm.start(space, SCORE, 0)
    asked = algorithm.ask()
    assert asked is not None
    algorithm.tell(asked)
    with pytest.raises(SettingsError, match=r"^FGA: every evaluation so far failed; nothing to go on with$"):
        algorithm.ask()


def test_the_papers_numbers_are_the_defaults() -> None:
    algorithm = evo.FGA()
    assert (algorithm.population, algorithm.parents, algorithm.mutation_share, algorithm.rounds) == (50, 10, 0.5, 21)
    with pytest.raises(evo.EvoError, match=r"^FGA\.parents: got 1; input should be greater than or equal to 2$"):
        evo.FGA(parents=1)
