from collections.abc import Mapping
from pathlib import Path

import cloudpickle
import numpy as np
import pytest

import evo
from evo.blueprint import Blueprint
from evo.candidate import Candidate
from evo.errors import SettingsError
from evo.fitness.base import Fitness, Objective, measure
from evo.fitness.latency import LATENCY, LatencySettings, WithLatency
from evo.task import Task
from evo.testing import FitnessContract, small_task


@evo.fitness(maximize="score", minimize="macs")
def judged(candidate: Candidate) -> Mapping[str, float]:
    """Draw a number that depends on the candidate."""
    return {"score": float(candidate.rng().random())}


def without_latency(fitness: Fitness, task: Task, blueprints: list[Blueprint]) -> list[dict[str, float]]:
    found = [measure(fitness, Candidate(task, blueprint, 0)) for blueprint in blueprints]
    assert all(values.pop(LATENCY) > 0 for values in found)
    return found


class TestWithLatency(FitnessContract):
    """The contract, less that the latency itself is the same twice: it is measured."""

    @pytest.fixture
    def fitness(self) -> Fitness:
        return WithLatency(judged, repeats=20, warmup=1, threads=2)

    def test_depends_on_the_candidate_alone(self, fitness: Fitness, task: Task, blueprints: list[Blueprint]) -> None:
        first = without_latency(fitness, task, blueprints)
        assert without_latency(fitness, task, blueprints) == first
        assert first == [measure(judged, Candidate(task, blueprint, 0)) for blueprint in blueprints]

    def test_pickles(self, fitness: Fitness, task: Task, blueprints: list[Blueprint]) -> None:
        travelled = cloudpickle.loads(cloudpickle.dumps(fitness))
        assert travelled.objectives == fitness.objectives
        assert travelled.describe() == fitness.describe()
        assert without_latency(travelled, task, blueprints) == without_latency(fitness, task, blueprints)


def test_adds_one_objective_to_another_fitness() -> None:
    fitness = WithLatency(judged, batch=3)
    assert fitness.objectives == (*judged.objectives, Objective("latency_ms", False))
    assert fitness.describe() == {**judged.describe(), "latency": LatencySettings(batch=3).to_dict()}
    with pytest.raises(SettingsError, match="WithLatency: WithLatency has an objective 'latency_ms' already"):
        WithLatency(fitness)


def test_measures_the_candidate_with_its_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    task = small_task()
    group = task.network.groups[0]
    masks = {each.name: np.ones(each.size, dtype=bool) for each in task.network.groups}
    masks[group.name][1:] = False
    candidate = Candidate(task, Blueprint.from_masks(masks), 0)
    seen = []
    built = candidate.build

    def build() -> object:
        model = built()
        model.register_forward_hook(
            lambda module, inputs, output: seen.append((tuple(inputs[0].shape), output.shape[1]))
        )
        return model

    monkeypatch.setattr(candidate, "build", build)
    fitness = WithLatency(judged, batch=7, repeats=20, warmup=2, tolerance=1e-12)
    values = fitness(candidate)
    assert values[LATENCY] > 0
    assert seen == [((7, 1, 8, 8), 3)] * 22


@pytest.mark.parametrize("settings", [{"batch": 0}, {"repeats": 3}, {"tolerance": 0}, {"speed": 1}])
def test_wrong_settings_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(SettingsError, match=f"LatencySettings.*{next(iter(settings))}"):
        WithLatency(judged, **settings)


def test_checks_the_other_fitness_and_the_device() -> None:
    task = small_task()
    with pytest.raises(SettingsError, match="batch_size 1000 is larger"):
        WithLatency(evo.SubsetFineTune(batch_size=1000)).check(task)
    with pytest.raises(SettingsError, match="device 'abacus' cannot be used"):
        WithLatency(judged, device="abacus").check(task)
    WithLatency(judged).check(task)


def test_a_search_records_the_latency(tmp_path: Path) -> None:
    run = evo.search(
        small_task(),
        encoding=evo.FilterBits(),
        fitness=WithLatency(judged, repeats=20, warmup=1),
        algorithm=evo.RandomSearch(evaluations=4),
        evaluator=evo.LocalEvaluator(workers=0),
        out=tmp_path / "run",
    )
    frame = run.history
    assert (frame["status"] == "ok").all()
    assert (frame[LATENCY] > 0).all()
    assert set(run.pareto(["score", LATENCY])["key"]) <= set(frame["key"])
