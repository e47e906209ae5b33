"""DEAP's own algorithms, unchanged, on our parts."""

import copy
import random
from collections.abc import Iterator, Mapping

import numpy as np
import pytest
from deap import algorithms, tools

import evo
from evo.algorithms import Toolbox
from evo.candidate import Candidate
from evo.encodings.individual import Individual
from evo.fitness import Fitness


def counting(calls: list[str]) -> Fitness:
    @evo.fitness(maximize="score", minimize="params")
    def judge(candidate: Candidate) -> Mapping[str, float]:
        calls.append(candidate.blueprint.key)
        if sum(candidate.blueprint.counts.values()) > 22:
            raise ValueError("too large for this test")
        return {"score": float(sum(mask[::2].sum() - mask[1::2].sum() for mask in candidate.blueprint.masks.values()))}

    return judge


@pytest.fixture
def calls() -> list[str]:
    return []


@pytest.fixture
def box(task: evo.Task, calls: list[str]) -> Iterator[Toolbox]:
    before = random.getstate()
    random.seed(0)
    with evo.toolbox(task, evo.FilterBits(), counting(calls), evo.LocalEvaluator(workers=0), seed=3) as toolbox:
        yield toolbox
    random.setstate(before)


def test_ea_simple_runs_unchanged(box: Toolbox, task: evo.Task, calls: list[str]) -> None:
    population = box.population(n=12)
    hall = tools.HallOfFame(3)
    statistics = tools.Statistics(lambda one: one.fitness.values[0])
    statistics.register("max", np.max)
    last, log = algorithms.eaSimple(
        population, box, cxpb=0.7, mutpb=0.3, ngen=8, halloffame=hall, stats=statistics, verbose=False
    )
    assert len(last) == 12
    assert max(log.select("max")) == hall[0].fitness.values[0] > log.select("max")[0]
    assert len(calls) == len(set(calls)) < sum(log.select("nevals")), "equal structures are measured once"
    blueprint = evo.FilterBits().bind(task, (1.0, -1.0)).decode(hall[0])
    assert hall[0].fitness.values[1] == task.network.cost_of(blueprint)["params"]


def test_mu_plus_lambda_runs_unchanged_with_a_pareto_front(box: Toolbox) -> None:
    box.register("select", tools.selNSGA2)
    population = box.population(n=10)
    front = tools.ParetoFront()
    hall = tools.HallOfFame(5)

    class Both:
        def update(self, individuals: list[Individual]) -> None:
            front.update(individuals)
            hall.update(individuals)

    last, _ = algorithms.eaMuPlusLambda(
        population, box, mu=10, lambda_=10, cxpb=0.6, mutpb=0.4, ngen=6, halloffame=Both(), verbose=False
    )
    assert len(last) == 10
    assert all(one.fitness.valid for one in last)
    assert max(one.fitness for one in last) == hall[0].fitness, "the best survives"
    for one in front:
        assert not any(other.fitness.dominates(one.fitness) for other in front)
    assert len({one.fitness.values for one in front}) > 1


def test_same_seed_gives_the_same_search(task: evo.Task) -> None:
    def search() -> list[list[int]]:
        random.seed(5)
        with evo.toolbox(task, evo.FilterBits(), counting([]), evo.LocalEvaluator(workers=0), seed=1) as box:
            last, _ = algorithms.eaSimple(box.population(n=6), box, 0.5, 0.5, 4, verbose=False)
        return [list(one) for one in last]

    before = random.getstate()
    try:
        assert search() == search()
    finally:
        random.setstate(before)


def test_deaps_own_algorithm_obeys_a_budget(task: evo.Task) -> None:
    limits = evo.Budget(params=0.3).bind(task.network.costs)
    seen: list[int] = []

    @evo.fitness(maximize="params")
    def judge(candidate: Candidate) -> Mapping[str, float]:
        seen.append(candidate.costs["params"])
        return {}

    before = random.getstate()
    random.seed(0)
    try:
        evaluator = evo.LocalEvaluator(workers=0)
        with evo.toolbox(task, evo.FilterBits(), judge, evaluator, budget=evo.Budget(params=0.3)) as box:
            last, _ = algorithms.eaSimple(box.population(n=20), box, 0.5, 0.5, 6, verbose=False)
    finally:
        random.setstate(before)
    assert 0.9 * limits.maxima[0] < max(seen) <= limits.maxima[0], "it is drawn to the limit and stays below it"
    assert all(one.fitness.values[0] <= limits.maxima[0] for one in last)


def test_objectives_come_in_the_fitnesss_order(box: Toolbox, task: evo.Task) -> None:
    individual = box.individual()
    while sum(individual) > 22:
        individual = box.individual()
    score, params = box.evaluate(individual)
    blueprint = evo.FilterBits().bind(task, (1.0, -1.0)).decode(individual)
    expected = counting([])(Candidate(task, blueprint, 0))["score"]
    assert (score, params) == (expected, task.network.cost_of(blueprint)["params"])


def test_a_failed_evaluation_is_infinitely_bad(box: Toolbox, task: evo.Task) -> None:
    whole = evo.FilterBits().bind(task, (1.0, -1.0)).encode(task.network.full)
    good = box.individual()
    while sum(good) > 22:
        good = box.individual()
    whole.fitness.values, good.fitness.values = box.map(box.evaluate, [whole, good])
    assert whole.fitness.values == (float("-inf"), float("inf"))
    assert good.fitness.dominates(whole.fitness)
    assert tools.selBest([whole, good], 1) == [good]


def test_map_of_anything_else_is_pythons(box: Toolbox) -> None:
    assert box.map(lambda a, b: a + b, [1, 2], [3, 4]) == [4, 6]
    individual = box.individual()
    clones = box.map(box.clone, [individual])
    assert clones[0] == individual
    assert clones[0] is not individual
    assert copy.deepcopy(individual) == individual


def test_a_fitness_that_does_not_suit_the_task_is_refused(task: evo.Task) -> None:
    with pytest.raises(evo.EvoError, match="larger than the 96 images"):
        evo.toolbox(task, evo.FilterBits(), evo.SubsetFineTune(batch_size=1000))
    with pytest.raises(evo.EvoError, match="even the smallest candidate has 34"):
        evo.toolbox(task, evo.FilterBits(), counting([]), budget=evo.Budget(params=33))
