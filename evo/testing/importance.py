"""What every importance criterion has to do."""

import cloudpickle
import numpy as np
import pytest
import torch
from torch import nn

from evo.blueprint import Blueprint, BoolArray
from evo.importance import Criterion, FilterSelection, Material
from evo.importance.criteria import ScoreCriterion
from evo.network import CouplingGroup
from evo.task import Task
from evo.testing.tasks import small_task
from evo.testing.watching import content_of, global_state, other_global_randomness
from evo.training import Samples


def grouped_task() -> Task:
    """Return a task like `small_task`'s, of a network with a convolution in two parts."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 4, 3),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Conv2d(4, 8, 3, groups=2),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(8 * 16, 3),
        )
        images = torch.randn(48, 1, 8, 8)
    labels = torch.arange(48) % 3
    return Task(model, Samples(images[:32], labels[:32]), Samples(images[32:], labels[32:]))


class ImportanceContract:
    """Conformance tests of an importance criterion.

    A subclass provides the fixture `criterion`. It may also override `task`, by default `small_task()` and one with a
    grouped convolution, of which every part has to keep equally many channels.
    """

    @pytest.fixture
    def criterion(self) -> Criterion:
        """Return the criterion to test: to be overridden."""
        raise NotImplementedError("ImportanceContract: override the fixture `criterion` with one that returns yours")

    @pytest.fixture(params=[small_task, grouped_task], ids=["small_task", "grouped"])
    def task(self, request: pytest.FixtureRequest) -> Task:
        """Return a task whose network's channels are chosen."""
        task: Task = request.param()
        return task

    def masks(self, criterion: Criterion, task: Task, groups: list[CouplingGroup]) -> list[BoolArray]:
        """Return, for each of these groups and every number of channels that it can keep, which stay."""
        selection = FilterSelection(task.network, criterion, samples=task.train)
        chosen = []
        for group in groups:
            for count in sorted({group.legal_count(number) for number in range(1, group.size + 1)}):
                counts = [count if other is group else other.size for other in task.network.groups]
                chosen.append(selection.masks(counts)[group.name])
        return chosen

    def test_keeps_any_number_of_channels(self, criterion: Criterion, task: Task) -> None:
        """Of every group as many as asked for, equally many of each part; what stays can be built and run."""
        for group in task.network.groups:
            for mask in self.masks(criterion, task, [group]):
                kept = mask.reshape(group.parts, -1).sum(1)
                assert len(set(kept.tolist())) == 1
                whole = {other.name: np.ones(other.size, dtype=bool) for other in task.network.groups}
                small = task.network.build(Blueprint.from_masks(whole | {group.name: mask}))
                assert torch.isfinite(small(task.val.x[:2])).all()

    def test_depends_on_its_arguments_alone(self, criterion: Criterion, task: Task) -> None:
        """The same choice again, whichever group comes first and whatever the global generators say."""
        groups = list(task.network.groups)
        first = [self.masks(criterion, task, [group]) for group in groups]
        with other_global_randomness():
            backwards = FilterSelection(task.network, criterion, samples=task.train)
            for group in groups[::-1]:
                one = [1 if other is group else other.size for other in groups]
                backwards.masks([other.legal_count(count) for other, count in zip(groups, one, strict=True)])
            again = [self.masks(criterion, task, [group]) for group in groups[::-1]][::-1]
        assert all(
            np.array_equal(mask, other)
            for masks, others in zip(first, again, strict=True)
            for mask, other in zip(masks, others, strict=True)
        )

    def test_leaves_network_images_and_global_state_as_they_are(self, criterion: Criterion, task: Task) -> None:
        """Not one bit of the trained weights or images changes, nor random generators, threads, gradient mode or type."""
        content, state = content_of(task), global_state()
        self.masks(criterion, task, list(task.network.groups))
        after = content_of(task)
        assert [name for name in content if not torch.equal(content[name], after[name])] == []
        assert global_state() == state

    def test_scores_are_finite_numbers_one_per_channel(self, criterion: Criterion, task: Task) -> None:
        """Of every coupling group, also of those that a search leaves whole."""
        if not isinstance(criterion, ScoreCriterion):
            pytest.skip("it chooses without scores")
        material = Material(task.network, task.train, 0)
        for group in task.network.groups:
            scores = criterion.scores(material, group)
            assert scores.shape == (group.size,)
            assert np.isfinite(scores).all()

    def test_pickles(self, criterion: Criterion, task: Task) -> None:
        """It goes with an encoding to other processes, and chooses alike there."""
        travelled = cloudpickle.loads(cloudpickle.dumps(criterion))
        groups = list(task.network.groups)
        for mask, other in zip(self.masks(criterion, task, groups), self.masks(travelled, task, groups), strict=True):
            assert np.array_equal(mask, other)

    def test_has_a_name_that_a_run_can_note(self, criterion: Criterion) -> None:
        """Module and attribute, with a colon."""
        module, _, attribute = criterion.name.partition(":")
        assert module
        assert attribute
