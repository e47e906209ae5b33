"""What every evaluator has to do."""

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

from evo.blueprint import Blueprint
from evo.candidate import Candidate
from evo.evaluation import Evaluator, Job, Outcome, evaluate
from evo.fitness.base import Fitness, Objective
from evo.task import Task
from evo.testing.tasks import small_task

TIMEOUT = 1.0


class _Judge(Fitness):
    """Judges by the network's output and a random number; the behaviour of some structures is told beforehand."""

    def __init__(self, behaviour: Mapping[str, str]) -> None:
        self.behaviour = dict(behaviour)

    @property
    def objectives(self) -> tuple[Objective, ...]:
        return Objective("score", True), Objective("params", False)

    def __call__(self, candidate: Candidate) -> Mapping[str, float]:
        match self.behaviour.get(candidate.blueprint.key):
            case "raises":
                raise ArithmeticError("no such number\non two lines")
            case "exits":
                raise SystemExit(3)
            case "nan":
                return {"score": float("nan")}
            case "type":
                return [1.0]  # type: ignore[return-value]
            case "text":
                return {"score": "high"}  # type: ignore[dict-item]
            case "missing":
                return {"speed": 1.0}
            case "hangs":
                time.sleep(3600)
        with torch.no_grad():
            output = candidate.build()(candidate.task.val.x)
        return {"score": float(output.std()) + float(candidate.rng().random())}

    def describe(self) -> dict[str, Any]:
        return {"name": "judge"}

    def check(self, task: Task) -> None:
        pass


class EvaluatorContract:
    """Conformance tests of an evaluator.

    A subclass provides the fixture `evaluator`, with its default timeout and retries. Its workers need to be able to
    import evo.testing.
    """

    @pytest.fixture
    def evaluator(self) -> Evaluator:
        """Return the evaluator to test: to be overridden."""
        raise NotImplementedError("EvaluatorContract: override the fixture `evaluator` with one that returns yours")

    @pytest.fixture
    def task(self) -> Task:
        """Return the task that candidates belong to."""
        return small_task()

    @pytest.fixture
    def blueprints(self, task: Task) -> list[Blueprint]:
        """Return twelve different structures."""
        rng = np.random.default_rng(0)
        found: dict[str, Blueprint] = {}
        while len(found) < 12:
            masks = {group.name: rng.random(group.size) < 0.6 for group in task.network.groups}
            blueprint = task.network.repaired(masks)
            found[blueprint.key] = blueprint
        return list(found.values())

    def test_outcomes_equal_those_of_this_process(
        self, evaluator: Evaluator, task: Task, blueprints: list[Blueprint]
    ) -> None:
        """Every structure has exactly one outcome, bit for bit what one process computes; workers serve several runs."""
        job = Job(task, _Judge({}), 5, evaluator.threads, evaluator.timeout)
        session = evaluator.open(job)
        try:
            outcomes = list(session.run(blueprints[:7]))
            assert list(session.run([])) == []
            outcomes += session.run(blueprints[7:])
        finally:
            session.close()
        session.close()
        expected = {blueprint.key: evaluate(job, blueprint).objectives for blueprint in blueprints}
        assert sorted(outcome.key for outcome in outcomes) == sorted(expected)
        assert {outcome.key: outcome.objectives for outcome in outcomes} == expected
        for outcome in outcomes:
            assert (outcome.status, outcome.reason) == ("ok", "")
            assert list(outcome.objectives) == ["score", "params"]
            assert outcome.seconds > 0
            assert outcome.worker

    def test_misbehaving_fitness_disturbs_nobody(
        self, evaluator: Evaluator, task: Task, blueprints: list[Blueprint]
    ) -> None:
        """What raises, returns rubbish or never returns has an outcome with a reason; the others have theirs."""
        rubbish = {
            "raises": "ArithmeticError: no such number on two lines",
            "exits": "SystemExit",
            "nan": "finite",
            "type": "list",
            "text": "'high'",
            "missing": "'score'",
        }
        behaviour = dict(zip([blueprint.key for blueprint in blueprints], [*rubbish, "hangs"], strict=False))
        evaluator = evaluator.model_copy(update={"timeout": TIMEOUT})
        job = Job(task, _Judge(behaviour), 5, evaluator.threads, evaluator.timeout)
        outcomes: dict[str, Outcome] = {}
        with evaluator.open(job) as session:
            for outcome in session.run(blueprints):
                assert outcome.key not in outcomes
                outcomes[outcome.key] = outcome
        assert set(outcomes) == {blueprint.key for blueprint in blueprints}
        for blueprint in blueprints:
            outcome = outcomes[blueprint.key]
            kind = behaviour.get(blueprint.key)
            if kind is None:
                assert outcome.objectives == evaluate(job, blueprint).objectives
                continue
            assert outcome.objectives == {}
            assert "\n" not in outcome.reason
            if kind == "hangs":
                assert (outcome.status, outcome.reason) == ("timeout", "took longer than its timeout of 1 s")
            else:
                assert outcome.status == "failed"
                assert rubbish[kind] in outcome.reason

    def test_closing_stops_what_is_running(self, evaluator: Evaluator, task: Task, blueprints: list[Blueprint]) -> None:
        """A session may be closed with work left over, and closed again."""
        session = evaluator.open(Job(task, _Judge({}), 5, evaluator.threads, evaluator.timeout))
        outcomes = session.run(blueprints)
        assert next(outcomes).status == "ok"
        session.close()
        session.close()
