"""Criteria: the built-in ones and one's own keep the contract."""

import pickle
from collections.abc import Mapping

import cloudpickle
import numpy as np
import pytest
from numpy.typing import NDArray

import evo
from evo.errors import NetworkError, SettingsError
from evo.importance import CRITERIA, Criterion, FilterSelection, Material, criterion
from evo.importance.criteria import Choice
from evo.importance.filters import filter_vectors
from evo.network import CouplingGroup
from evo.testing import ImportanceContract
from evo.testing.importance import grouped_task


@criterion
def variance(material: Material) -> Mapping[str, NDArray[np.float64]]:
    """Variance of a filter's weights."""
    network = material.network
    return {group.name: filter_vectors(network, group).var(1) for group in network.groups}


class Every(Criterion):
    """Every n-th channel: no scores, and choices that are not nested."""

    name = f"{__name__}:SECOND"

    def __init__(self, step: int) -> None:
        self.step = step

    def choices(self, material: Material, group: CouplingGroup) -> list[Choice]:
        size = group.size // group.parts
        order = np.argsort(np.arange(size) % self.step, kind="stable")
        return [lambda count: order[:count]] * group.parts


SECOND = Every(2)


class TestBuiltIn(ImportanceContract):
    @pytest.fixture(params=sorted({*CRITERIA} - {"bn_scale"}))
    def criterion(self, request: pytest.FixtureRequest) -> Criterion:
        return CRITERIA[request.param]


class TestNormScale(ImportanceContract):
    @pytest.fixture
    def criterion(self) -> Criterion:
        return CRITERIA["bn_scale"]

    @pytest.fixture
    def task(self) -> evo.Task:
        """A network whose every group is normalised."""
        return grouped_task()


class TestScores(ImportanceContract):
    @pytest.fixture
    def criterion(self) -> Criterion:
        return variance


class TestChoices(ImportanceContract):
    @pytest.fixture
    def criterion(self) -> Criterion:
        return SECOND


def test_an_own_criterion_is_named_like_what_it_decorates(task: evo.Task) -> None:
    assert variance.name == f"{__name__}:variance"
    assert variance.__doc__ == "Variance of a filter's weights."
    assert set(variance(Material(task.network, None, 0))) == {group.name for group in task.network.groups}
    assert evo.ChannelVector(select=variance).to_dict()["select"] == f"{__name__}:variance"
    assert evo.ChannelVector(select=CRITERIA["l1"]).to_dict()["select"] == "l1"
    assert evo.ChannelVector(select=variance) == evo.ChannelVector(select=variance)


def test_it_is_pickled_by_name_and_by_value_where_it_has_none(task: evo.Task) -> None:
    assert pickle.loads(pickle.dumps(CRITERIA["knn"])) is CRITERIA["knn"]
    local = criterion(lambda material: variance(material))
    travelled = cloudpickle.loads(cloudpickle.dumps(local))
    counts = [3] * len(task.network.groups)
    expected = FilterSelection(task.network, variance).masks(counts)
    for name, mask in FilterSelection(task.network, travelled).masks(counts).items():
        assert np.array_equal(mask, expected[name])


def test_what_raises_is_one_sentence_and_what_refuses_is_left(task: evo.Task) -> None:
    def broken(material: Material) -> dict[str, float]:
        return {"0": 1 / 0}

    def refusing(material: Material) -> dict[str, float]:
        raise NetworkError("not this one")

    counts = [3] * len(task.network.groups)
    with pytest.raises(
        SettingsError, match=r"^select: .*broken raised ZeroDivisionError: division by zero \(test_crit"
    ):
        FilterSelection(task.network, criterion(broken)).masks(counts)
    with pytest.raises(NetworkError, match=r"^not this one$"):
        FilterSelection(task.network, criterion(refusing)).masks(counts)


def test_a_criterion_that_keeps_other_numbers_is_refused(task: evo.Task) -> None:
    class Wrong(Every):
        def choices(self, material: Material, group: CouplingGroup) -> list[Choice]:
            return [lambda count: np.arange(count + 1)]

    with pytest.raises(
        SettingsError, match=r"^select: .*:SECOND keeps \[4\] channels of the parts of 0; expected 3 of"
    ):
        FilterSelection(task.network, Wrong(2)).masks([3] * len(task.network.groups))


def test_images_and_seed_reach_it_and_it_is_asked_once(task: evo.Task) -> None:
    asked: list[Material] = []

    def watching(material: Material) -> Mapping[str, NDArray[np.float64]]:
        asked.append(material)
        return variance(material)  # type: ignore[return-value]

    selection = FilterSelection(task.network, criterion(watching), 5, samples=task.train)
    for count in (2, 3):
        selection.masks([count] * len(task.network.groups))
    (material,) = asked
    assert (material.network, material.samples, material.seed) == (task.network, task.train, 5)
