"""NSGA-III: the contract, its selection against pymoo's, and fronts of three objectives that are known."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pymoo.algorithms.moo.nsga3 import ReferenceDirectionSurvival
from pymoo.core.population import Population

import evo
from evo.algorithms import Algorithm
from evo.algorithms.niching import associate, reference_points
from evo.encodings.base import GenomeSpace
from evo.encodings.individual import Individual
from evo.errors import SettingsError
from evo.fitness import Objective
from evo.front import hypervolume, non_dominated
from evo.testing import SteadyStateContract, small_task

TASK = small_task()
Values = NDArray[np.float64]


class Contract(SteadyStateContract):
    @pytest.fixture
    def space(self, objectives: tuple[Objective, ...]) -> GenomeSpace:
        return evo.FilterBits().bind(TASK, tuple(objective.weight for objective in objectives))


class TestNSGA3(Contract):
    @pytest.fixture
    def algorithm(self) -> Algorithm:
        return evo.NSGA3(generations=4, population=9)


class TestNSGA3WithOneObjective(Contract):
    @pytest.fixture
    def algorithm(self) -> Algorithm:
        return evo.NSGA3(generations=4, population=7, crossover=0.5, mutation=0.5)

    @pytest.fixture
    def objectives(self) -> tuple[Objective, ...]:
        return (Objective("score", True),)


class TestNSGA3WithFourObjectives(Contract):
    @pytest.fixture
    def algorithm(self) -> Algorithm:
        return evo.NSGA3(generations=4, population=9, divisions=1)

    @pytest.fixture
    def objectives(self) -> tuple[Objective, ...]:
        return tuple(Objective(name, name == "a") for name in "abcd")


def test_more_reference_points_than_individuals_are_refused() -> None:
    algorithm = evo.NSGA3(population=50, divisions=12)
    three = [Objective(name, False) for name in "abc"]
    message = (
        r"^NSGA3: 12 divisions make 91 reference points of 3 objectives, more than the population of 50; give fewer "
        r"divisions or a larger population$"
    )
    with pytest.raises(SettingsError, match=message):
        algorithm.check(three)
    algorithm.check(three[:2])


def selected(values: Values, signs: Values, population: int) -> list[int]:
    """Which rows survive of points that are all minimised, handed over with other signs."""
    algorithm = evo.NSGA3(generations=2, population=population)
    objectives = [Objective(str(index), sign < 0) for index, sign in enumerate(signs)]
    algorithm.start(evo.FilterBits().bind(TASK, tuple(entry.weight for entry in objectives)), objectives, 0)
    asked = algorithm.ask()
    assert asked is not None
    algorithm.tell(asked)
    genomes = {one.tobytes(): one for one in algorithm.space.initial(4 * len(values), np.random.default_rng(0))}
    pool = list(genomes.values())[: len(values)]
    assert len(pool) == len(values)
    for row, (one, point) in enumerate(zip(pool, values * signs, strict=True)):
        one.row, one.fitness.values = row, tuple(point)
    algorithm._learn(pool)
    return [one.row for one in algorithm._population if one.row is not None]


@pytest.mark.parametrize("signs", [(1, 1, 1), (1, -1, 1), (-1, -1, -1), (1, 1, -1, 1)])
@pytest.mark.parametrize("seed", range(4))
def test_survivors_fill_the_niches_as_those_of_pymoo_do(signs: tuple[int, ...], seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = np.abs(rng.normal(size=(60, len(signs))))
    values = values / np.linalg.norm(values, axis=1, keepdims=True) * rng.uniform(1, 1.5, (60, 1))
    front = values[non_dominated(values)]
    values = (values - front.min(0)) / np.ptp(front, axis=0)
    points = reference_points(len(signs), 21)
    theirs = ReferenceDirectionSurvival(points)
    kept = theirs._do(None, Population.new(F=values.copy()), 21, random_state=np.random.default_rng(0)).get("F")
    ours = values[selected(values, np.array(signs, dtype=float), 21)]
    assert len(ours) == len(kept) == 21

    def niches(some: Values) -> int:
        norm = theirs.norm
        found, _ = associate((some - norm.ideal_point) / (norm.nadir_point - norm.ideal_point), points)
        return len({*found.tolist()})

    # Which of two points is the extreme one may depend on their order, hence where exactly the plane is.
    assert abs(niches(ours) - niches(kept)) <= 1
    dominance = [(other <= one).all(1) & (other < one).any(1) for other, one in ((values, point) for point in ours)]
    assert sum(map(np.any, dominance)) == sum(
        bool(((values <= point).all(1) & (values < point).any(1)).any()) for point in kept
    ), "as many of later fronts"


def sphere(counts: Mapping[str, int]) -> tuple[float, float, float]:
    """Like DTLZ2, of channels: two groups say where on the sphere, a third how far outside; exactly on it with 5 of 12."""
    tilt, turn = (counts["0"] - 1) / 5 * np.pi / 2, (counts["4"] - 1) / 7 * np.pi / 2
    radius = 1 + abs(counts["9"] - 5) / 7
    return (
        float(radius * np.cos(tilt) * np.cos(turn)),
        float(radius * np.cos(tilt) * np.sin(turn)),
        float(radius * np.sin(tilt)),
    )


@evo.fitness(minimize=("x", "y", "z"))
def on_the_sphere(candidate: evo.Candidate) -> dict[str, float]:
    return dict(zip("xyz", sphere(candidate.blueprint.counts), strict=True))


FRONT = np.array([sphere({"0": one, "4": two, "9": 5}) for one in range(1, 7) for two in range(1, 9)])
REFERENCE = np.full(3, 2.1)
WHOLE = hypervolume(FRONT, REFERENCE)


@pytest.mark.parametrize(
    "algorithm",
    [
        evo.NSGA3(generations=8, population=28),
        evo.NSGA3(generations=8, population=28, asynchronous=True),
        evo.NSGA2(generations=8, population=28),
    ],
    ids=["NSGA3", "NSGA3 asynchronous", "NSGA2"],
)
def test_a_search_finds_the_front_of_a_sphere(algorithm: Algorithm, tmp_path: Path) -> None:
    def found(algorithm: Algorithm, name: str) -> float:
        run = evo.search(
            TASK,
            encoding=evo.ChannelVector(select="l1", initial="random"),
            fitness=on_the_sphere,
            algorithm=algorithm,
            evaluator=evo.LocalEvaluator(workers=0),
            out=tmp_path / name,
            reuse=False,
        )
        share = run.hypervolume(reference=dict.fromkeys("xyz", 2.1), ideal=dict.fromkeys("xyz", 0.0))
        values = run.pareto()[["x", "y", "z"]].to_numpy()
        assert share == pytest.approx(hypervolume(values, REFERENCE) / 2.1**3)
        assert len(run.history) == 224, "of 576 networks"
        return share * 2.1**3 / WHOLE

    share = found(algorithm, "run")
    assert share > 0.98
    assert share > found(evo.RandomSearch(evaluations=224), "random")


def test_parents_are_drawn_evenly() -> None:
    algorithm = evo.NSGA3(generations=2, population=10)
    algorithm.start(evo.FilterBits().bind(TASK, (-1.0, -1.0)), [Objective(name, False) for name in "ab"], 0)
    asked = algorithm.ask()
    assert asked is not None
    for row, one in enumerate(asked):
        one.row, one.fitness.values = row, (float(row), float(row))
    algorithm.tell(asked)
    drawn: list[Individual] = [algorithm._parent() for _ in range(2000)]
    counts = Counter(one.row for one in drawn)
    assert len(counts) == 10
    assert max(counts.values()) < 1.4 * min(counts.values())
