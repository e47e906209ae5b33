import decimal
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

import evo
from evo.candidate import Candidate
from evo.fitness import Fitness, Objective, measure
from evo.network import COSTS
from evo.testing import FitnessContract


@evo.fitness(maximize="score", minimize=("macs", "noise"))
def judged(candidate: Candidate) -> Mapping[str, float]:
    with torch.no_grad():
        score = candidate.build()(candidate.task.val.x).std()
    return {"score": float(score), "noise": float(candidate.rng("noise").random()), "ignored": 1.0}


class TestFunctionFitness(FitnessContract):
    @pytest.fixture
    def fitness(self) -> Fitness:
        return judged


def returning(value: Any) -> Fitness:
    @evo.fitness(maximize=("score",), minimize=("params",))
    def constant(candidate: Candidate) -> Any:
        return value

    return constant


@pytest.fixture
def candidate(task: evo.Task) -> Candidate:
    return Candidate(task, task.network.full, 0)


def test_decorator_names_objectives_with_directions() -> None:
    assert judged.objectives == (Objective("score", True), Objective("macs", False), Objective("noise", False))
    assert [objective.weight for objective in judged.objectives] == [1.0, -1.0, -1.0]
    described = judged.describe()
    assert described["name"].endswith("test_base:judged")
    assert (described["maximize"], described["minimize"]) == (["score"], ["macs", "noise"])


@pytest.mark.parametrize("names", [{}, {"maximize": "a", "minimize": "a"}, {"minimize": ("b", "b")}])
def test_no_objective_or_one_named_twice_is_refused(names: dict[str, Any]) -> None:
    with pytest.raises(evo.EvoError, match="name every objective once"):
        evo.fitness(**names)


def test_costs_need_not_be_returned(candidate: Candidate) -> None:
    values = measure(judged, candidate)
    assert list(values) == ["score", "macs", "noise"]
    assert values["macs"] == candidate.costs["macs"]


@pytest.mark.parametrize(
    "number", [1, 1.5, np.float32(2.5), np.array([3.0])[0], torch.tensor(4.0), decimal.Decimal("0.5"), True]
)
def test_every_kind_of_number_counts(candidate: Candidate, number: Any) -> None:
    values = measure(returning({"score": number}), candidate)
    assert values == {"score": float(number), "params": float(candidate.costs["params"])}
    assert all(type(value) is float for value in values.values())


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (0.5, "returned float, expected a dictionary"),
        (None, "returned NoneType, expected a dictionary"),
        ({"accuracy": 1.0}, r"returned \['accuracy'\], without its objective 'score'"),
        ({"score": "good"}, "objective 'score' is 'good', expected a number"),
        ({"score": None}, "objective 'score' is None, expected a number"),
        ({"score": float("nan")}, "objective 'score' is nan, expected a finite number"),
        ({"score": float("-inf")}, "objective 'score' is -inf, expected a finite number"),
        ({"score": 1.0, "params": 12.0}, "'params' is the exact cost"),
    ],
)
def test_anything_else_is_refused_with_the_reason(candidate: Candidate, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        measure(returning(value), candidate)


def test_a_returned_cost_may_agree(candidate: Candidate) -> None:
    values = measure(returning({"score": 1.0, "params": candidate.costs["params"]}), candidate)
    assert values["params"] == candidate.costs["params"]
    assert "params" in COSTS
