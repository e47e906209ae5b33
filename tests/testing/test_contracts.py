"""The contracts have to notice parts that break them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import evo
from evo.algorithms import Algorithm, genomes
from evo.candidate import Candidate
from evo.encodings.filter_bits import FilterBits, FilterBitsSpace
from evo.encodings.individual import Individual
from evo.evaluation import Evaluator, Job, Outcome, Session
from evo.evaluation.local import InProcessSession
from evo.fitness import Fitness, Objective
from evo.testing import AlgorithmContract, EncodingContract, EvaluatorContract, FitnessContract, small_task

TASK = small_task()
WEIGHTS = (1.0, -1.0)


def judging(body: Callable[[Candidate], float]) -> Fitness:
    @evo.fitness(maximize="score")
    def judge(candidate: Candidate) -> Mapping[str, float]:
        return {"score": body(candidate)}

    return judge


def writes_weights(candidate: Candidate) -> float:
    candidate.task.network._tensors["0.weight"].add_(1e-6)
    return 1.0


def writes_images(candidate: Candidate) -> float:
    candidate.task.train.x.mul_(0.999)
    return 1.0


def draws_globally(_: Candidate) -> float:
    return float(torch.rand(()))


def counts_calls() -> Callable[[Candidate], float]:
    calls: list[int] = []

    def body(_: Candidate) -> float:
        calls.append(1)
        return float(len(calls))

    return body


def sets_threads(_: Candidate) -> float:
    torch.set_num_threads(torch.get_num_threads() + 1)
    return 1.0


@pytest.mark.parametrize(
    ("body", "test"),
    [
        (writes_weights, FitnessContract.test_leaves_network_and_data_as_they_are),
        (writes_images, FitnessContract.test_leaves_network_and_data_as_they_are),
        (draws_globally, FitnessContract.test_depends_on_the_candidate_alone),
        (draws_globally, FitnessContract.test_leaves_global_state_as_it_is),
        (counts_calls(), FitnessContract.test_depends_on_the_candidate_alone),
        (sets_threads, FitnessContract.test_leaves_global_state_as_it_is),
    ],
)
def test_a_fitness_that_is_impure_is_noticed(body: Callable[[Candidate], float], test: Any) -> None:
    contract, task, threads = FitnessContract(), small_task(), torch.get_num_threads()
    rng = np.random.default_rng(0)
    space = FilterBits().bind(task, (1.0,))
    blueprints = [space.decode(one) for one in space.initial(3, rng)]
    try:
        test(contract, judging(lambda candidate: 1.0), task, blueprints)
        with pytest.raises(AssertionError):
            test(contract, judging(body), task, blueprints)
    finally:
        torch.set_num_threads(threads)


class Unrepaired(FilterBitsSpace):
    def mutate(self, individual: Individual, rng: np.random.Generator) -> tuple[Individual]:
        for index in range(len(individual)):
            individual[index] = 0
        return (individual,)


class OutOfPlace(FilterBitsSpace):
    def mutate(self, individual: Individual, rng: np.random.Generator) -> tuple[Individual]:
        return super().mutate(self.unpack(self.pack(individual)), rng)


@pytest.mark.parametrize("kind", [Unrepaired, OutOfPlace])
def test_an_encoding_with_a_wrong_operator_is_noticed(kind: type[FilterBitsSpace]) -> None:
    test = EncodingContract().test_mutate_works_in_place_and_stays_legal
    test(FilterBitsSpace(FilterBits(), TASK.network, WEIGHTS), TASK.network, 0)
    with pytest.raises(AssertionError):
        test(kind(FilterBits(), TASK.network, WEIGHTS), TASK.network, 0)


class Miscounted(FilterBitsSpace):
    def counts(self, individual: Individual) -> NDArray[np.int64]:
        return super().counts(individual)[::-1]


def test_an_encoding_with_wrong_counts_is_noticed() -> None:
    test = EncodingContract().test_counts_are_those_of_the_structure
    test(FilterBitsSpace(FilterBits(), TASK.network, WEIGHTS), TASK.network)
    with pytest.raises(AssertionError):
        test(Miscounted(FilterBits(), TASK.network, WEIGHTS), TASK.network)


class Forgetful(evo.ECS):
    """Saves the number of its generation but not its population."""

    def _save(self) -> dict[str, Any]:
        return {"population": genomes.pack(self.space, [])}


@pytest.mark.parametrize("algorithm", [Forgetful(generations=4, population=6), evo.ECS(generations=4, population=6)])
def test_an_algorithm_that_cannot_go_on_is_noticed(algorithm: Algorithm) -> None:
    objectives = (Objective("score", True), Objective("cost", False))
    space = FilterBits().bind(TASK, WEIGHTS)
    test = AlgorithmContract().test_a_saved_state_goes_on_bit_for_bit
    if isinstance(algorithm, Forgetful):
        with pytest.raises((AssertionError, evo.EvoError)):
            test(algorithm, space, objectives, 2, 0)
    else:
        test(algorithm, space, objectives, 2, 0)


class Twice(evo.LocalEvaluator):
    """Hands every outcome out twice."""

    def open(self, job: Job) -> Session:
        class Session(InProcessSession):
            def receive(self) -> list[Outcome]:
                return 2 * super().receive()

        return Session(job, self.retries)


class Shuffled(evo.LocalEvaluator):
    """Gives every outcome the key of another structure."""

    def open(self, job: Job) -> Session:
        class Session(InProcessSession):
            def receive(self) -> list[Outcome]:
                outcomes = super().receive()
                keys = [outcome.key for outcome in outcomes]
                return [replace(outcome, key=key) for outcome, key in zip(outcomes, keys[::-1], strict=True)]

        return Session(job, self.retries)


class Lossy(evo.LocalEvaluator):
    """Keeps the last outcome to itself."""

    def open(self, job: Job) -> Session:
        class Session(InProcessSession):
            def receive(self) -> list[Outcome]:
                return super().receive()[:-1]

        return Session(job, self.retries)


class Hopeful(evo.LocalEvaluator):
    """Never tries again."""

    def open(self, job: Job) -> Session:
        return InProcessSession(job, 0)


class Insatiable(evo.LocalEvaluator):
    """Has room for ever more."""

    def open(self, job: Job) -> Session:
        class Session(InProcessSession):
            def room(self, population: int) -> int:
                return population

        return Session(job, self.retries)


class Persistent(evo.LocalEvaluator):
    """Goes on with what was cancelled."""

    def open(self, job: Job) -> Session:
        class Session(InProcessSession):
            def cancel(self) -> None:
                self._pending.pop()

        return Session(job, self.retries)


class Alone(EvaluatorContract):
    apart = False


@pytest.mark.parametrize(
    ("evaluator", "test"),
    [
        (Twice(), Alone.test_outcomes_equal_those_of_this_process),
        (Shuffled(), Alone.test_outcomes_equal_those_of_this_process),
        (Lossy(), Alone.test_outcomes_equal_those_of_this_process),
        (Hopeful(), Alone.test_misbehaving_fitness_disturbs_nobody),
        (Insatiable(), Alone.test_candidates_come_in_any_rhythm),
        (Persistent(), Alone.test_candidates_come_in_any_rhythm),
    ],
)
def test_an_evaluator_that_breaks_its_contract_is_noticed(evaluator: Evaluator, test: Any, tmp_path: Path) -> None:
    space = FilterBits().bind(TASK, (1.0,))
    drawn = [space.decode(one) for one in space.initial(12, np.random.default_rng(0))]
    blueprints = list({blueprint.key: blueprint for blueprint in drawn}.values())
    with pytest.raises((AssertionError, evo.EvoError)):
        test(Alone(), evaluator, TASK, blueprints, tmp_path)


class Reversed(evo.LocalEvaluator):
    """Returns the results of a map as they happen to come."""

    workers: int | None = 0

    def map(self, function: Callable[[Any, Any], Any], shared: Any, items: Sequence[Any], /) -> list[Any]:
        return super().map(function, shared, items)[::-1]


def test_an_evaluator_that_mixes_up_the_results_of_a_map_is_noticed(tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        Alone().test_a_map_returns_what_one_process_would(Reversed(), tmp_path)


def test_the_task_is_the_same_at_every_call() -> None:
    assert small_task().digest() == TASK.digest()
    assert TASK.network.channels == 26
