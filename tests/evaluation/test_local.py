import os
import time
from collections.abc import Callable, Mapping

import pytest

import evo
from evo.blueprint import Blueprint
from evo.candidate import Candidate
from evo.errors import SettingsError
from evo.evaluation import Evaluator, Job, Session
from evo.evaluation.local import InProcessSession
from evo.evaluation.pool import ProcessSession
from evo.testing import EvaluatorContract

Structures = Callable[[int], list[Blueprint]]


class TestInThisProcess(EvaluatorContract):
    apart = False

    @pytest.fixture
    def evaluator(self) -> Evaluator:
        return evo.LocalEvaluator(workers=0)


class TestTwoWorkers(EvaluatorContract):
    @pytest.fixture
    def evaluator(self) -> Evaluator:
        return evo.LocalEvaluator(workers=2)


def session(task: evo.Task, body: Callable[[Candidate], float]) -> Session:
    @evo.fitness(maximize="score")
    def judge(candidate: Candidate) -> Mapping[str, float]:
        return {"score": body(candidate)}

    return evo.LocalEvaluator(workers=0).open(Job(task, judge, 0, 1, None))


def test_evaluations_of_no_time_come_together_and_long_ones_alone(task: evo.Task, structures: Structures) -> None:
    blueprints = structures(100)
    with session(task, lambda candidate: 1.0) as trivial:
        trivial.submit(blueprints)
        outcomes = trivial.receive()
        assert len(outcomes) > 10
        while received := trivial.receive():
            outcomes += received
    assert [outcome.key for outcome in outcomes] == [blueprint.key for blueprint in blueprints]

    def nap(candidate: Candidate) -> float:
        time.sleep(0.06)
        return 1.0

    with session(task, nap) as long:
        long.submit(blueprints)
        for blueprint in blueprints[:3]:
            assert [outcome.key for outcome in long.receive()] == [blueprint.key]


def test_an_interrupt_loses_nothing_that_is_finished(task: evo.Task, structures: Structures) -> None:
    blueprints = structures(3)
    interrupted: list[str] = []

    def body(candidate: Candidate) -> float:
        if candidate.blueprint == blueprints[1] and not interrupted:
            interrupted.append(candidate.blueprint.key)
            raise KeyboardInterrupt
        return 1.0

    with session(task, body) as stopped:
        stopped.submit(blueprints)
        with pytest.raises(KeyboardInterrupt):
            stopped.receive()
        assert [outcome.key for outcome in stopped.receive()] == [blueprint.key for blueprint in blueprints]


def test_the_default_is_a_worker_per_processor(task: evo.Task) -> None:
    @evo.fitness(maximize="score")
    def judge(candidate: Candidate) -> Mapping[str, float]:
        return {"score": 1.0}

    job = Job(task, judge, 0, 1, None)
    with evo.LocalEvaluator().open(job) as session:
        assert isinstance(session, ProcessSession)
        assert session._count == len(os.sched_getaffinity(0))
    assert isinstance(evo.LocalEvaluator(workers=0).open(job), InProcessSession)


@pytest.mark.parametrize(
    "setting",
    [{"workers": -1}, {"threads": 0}, {"timeout": 0}, {"retries": -1}, {"timeout": float("inf")}, {"memory": 0}],
)
def test_wrong_settings_are_refused(setting: dict[str, float]) -> None:
    with pytest.raises(SettingsError, match=rf"^LocalEvaluator\.{next(iter(setting))}: got "):
        evo.LocalEvaluator(**setting)
