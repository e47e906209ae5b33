"""What every fitness has to do."""

import json
import math

import cloudpickle
import numpy as np
import pytest
import torch

from evo.blueprint import Blueprint
from evo.candidate import Candidate
from evo.fitness.base import Fitness, measure
from evo.network import COSTS
from evo.task import Task
from evo.testing.tasks import small_task
from evo.testing.watching import content_of, global_state, other_global_randomness


class FitnessContract:
    """Conformance tests of a fitness.

    A subclass provides the fixture `fitness`, set up to judge a candidate within a second or so. It may also override
    `task`, by default `small_task()`.
    """

    @pytest.fixture
    def fitness(self) -> Fitness:
        """Return the fitness to test: to be overridden."""
        raise NotImplementedError("FitnessContract: override the fixture `fitness` with one that returns yours")

    @pytest.fixture
    def task(self) -> Task:
        """Return the task that candidates belong to."""
        return small_task()

    @pytest.fixture
    def blueprints(self, task: Task) -> list[Blueprint]:
        """Return the structures to judge: everything, about half, and one channel per group."""
        rng = np.random.default_rng(0)
        half, one = {}, {}
        for group in task.network.groups:
            half[group.name] = rng.permutation(np.arange(group.size) < max(1, group.size // 2))
            one[group.name] = rng.permutation(np.arange(group.size) < 1)
        return [task.network.full, task.network.repaired(half), task.network.repaired(one)]

    def test_returns_its_objectives_as_finite_numbers(
        self, fitness: Fitness, task: Task, blueprints: list[Blueprint]
    ) -> None:
        """Every objective is declared once; each is returned or is a cost; all are finite."""
        names = [objective.name for objective in fitness.objectives]
        assert names
        assert len(set(names)) == len(names)
        fitness.check(task)
        for blueprint in blueprints:
            candidate = Candidate(task, blueprint, 0)
            assert set(names) - set(COSTS) <= set(fitness(candidate))
            values = measure(fitness, candidate)
            assert list(values) == names
            assert all(math.isfinite(value) for value in values.values())

    def test_depends_on_the_candidate_alone(self, fitness: Fitness, task: Task, blueprints: list[Blueprint]) -> None:
        """The same numbers again, in any order, from fresh candidates, whatever the global generators say."""
        first = [measure(fitness, Candidate(task, blueprint, 0)) for blueprint in blueprints]
        with other_global_randomness():
            again = [measure(fitness, Candidate(task, blueprint, 0)) for blueprint in reversed(blueprints)]
        assert again[::-1] == first
        candidate = Candidate(task, blueprints[1], 0)
        assert measure(fitness, candidate) == first[1]
        assert measure(fitness, candidate) == first[1]

    def test_leaves_network_and_data_as_they_are(
        self, fitness: Fitness, task: Task, blueprints: list[Blueprint]
    ) -> None:
        """Not one bit of the trained weights, batch statistics or images changes: other candidates share them."""
        before = content_of(task)
        for blueprint in blueprints:
            measure(fitness, Candidate(task, blueprint, 0))
        after = content_of(task)
        assert [name for name in before if not torch.equal(before[name], after[name])] == []

    def test_leaves_global_state_as_it_is(self, fitness: Fitness, task: Task, blueprints: list[Blueprint]) -> None:
        """Random generators, thread count, gradient mode and default type are as before."""
        before = global_state()
        measure(fitness, Candidate(task, blueprints[1], 0))
        assert global_state() == before
        with torch.no_grad():
            before = global_state()
            measure(fitness, Candidate(task, blueprints[2], 0))
            assert global_state() == before

    def test_pickles(self, fitness: Fitness, task: Task, blueprints: list[Blueprint]) -> None:
        """It travels to workers, and judges alike there."""
        travelled = cloudpickle.loads(cloudpickle.dumps(fitness))
        assert travelled.objectives == fitness.objectives
        assert travelled.describe() == fitness.describe()
        candidate = Candidate(task, blueprints[1], 0)
        assert measure(travelled, candidate) == measure(fitness, candidate)

    def test_describes_itself_in_plain_values(self, fitness: Fitness) -> None:
        """What goes into run.toml has a name and survives JSON."""
        described = fitness.describe()
        assert described["name"]
        assert json.loads(json.dumps(described)) == described
