"""Structures from scores: what is at or above a percentile."""

from collections.abc import Mapping
from functools import partial

import numpy as np
import pytest

import evo
from evo.errors import SettingsError
from evo.importance import structures
from evo.importance.filters import FloatArray
from evo.importance.percentiles import Scope, largest
from tests.importance.zoo import network_of


def random_scores(network: evo.Network) -> Mapping[str, FloatArray]:
    rng = np.random.default_rng(0)
    return {group.name: rng.random(group.size) for group in network.groups}


def test_channels_at_or_above_the_percentile_stay() -> None:
    network = network_of("lenet")
    scores = random_scores(network)
    everything, some, best = structures(network, scores, (0, 40, 100))
    assert everything == network.full
    assert best.counts == {"conv1": 1, "conv2": 1, "fc1": 1}
    assert some.counts == {"conv1": 12, "conv2": 30, "fc1": 300}
    for name, mask in some.masks.items():
        assert (mask == (scores[name] >= np.percentile(scores[name], 40))).all()
        assert best.masks[name].argmax() == scores[name].argmax()


def test_equal_channels_stay_together() -> None:
    network = network_of("lenet")
    equal = {group.name: np.ones(group.size) for group in network.groups}
    assert structures(network, equal, 100) == [network.full]


def test_grouped_convolutions_keep_equally_many_of_each_part() -> None:
    network = network_of("alexnet")
    scores = random_scores(network)
    (structure,) = structures(network, scores, (50,))
    network.build(structure)
    for name, mask in structure.masks.items():
        assert mask[scores[name] >= np.percentile(scores[name], 50)].all()


def test_groups_that_are_not_free_stay_whole() -> None:
    network = network_of("lenet")
    (structure,) = structures(network, random_scores(network), free=("conv*",))
    assert structure.counts == {"conv1": 12, "conv2": 30, "fc1": 500}


def test_wrong_settings_are_refused() -> None:
    network = network_of("lenet")
    scores = random_scores(network)
    with pytest.raises(SettingsError, match=r"^k: a percentile lies between 0 and 100, got 101$"):
        structures(network, scores, (10, 101))
    with pytest.raises(SettingsError, match=r"^k: expected percentiles between 0 and 100, got 'most'$"):
        structures(network, scores, "most")  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match=r"'fc9'"):
        structures(network, scores, free=("fc9",))
    with pytest.raises(SettingsError, match=r"^scores: fc1 has 500 channels and needs as many finite numbers$"):
        structures(network, {**scores, "fc1": np.ones(3)})


def test_a_search_begins_with_them(digits_task: evo.Task) -> None:
    network = digits_task.network
    found = structures(network, random_scores(network), (20, 60))
    space = evo.FilterBits().bind(digits_task, (1.0,))
    assert [space.decode(space.encode(one)) for one in found] == found


def test_all_together_are_compared_relative_to_the_mean_of_their_group() -> None:
    network = network_of("lenet")
    scores = random_scores(network)
    scores = {**scores, "conv2": 1000 * scores["conv2"]}
    relative = {name: own / own.mean() for name, own in scores.items()}
    threshold = np.percentile(np.concatenate(list(relative.values())), 70)
    (structure,) = structures(network, scores, 70, scope="global")
    for name, mask in structure.masks.items():
        assert (mask == (relative[name] >= threshold)).all()
    (structure,) = structures(network, scores, 100, scope="global")
    assert set(structure.counts.values()) == {1}, "the best of a group stays even if those of others are better"
    (structure,) = structures(network, scores, 90, scope="global", free=("conv*",))
    assert structure.counts == {"conv1": 1, "conv2": 7, "fc1": 500}, "7 of 70, and the best of the other group"


def _within(network: evo.Network, limit: int, structure: evo.Blueprint) -> bool:
    return network.cost_of(structure)["params"] <= limit


@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("name", ["lenet", "resnet20", "alexnet"])
def test_the_largest_within_a_budget_is_that_of_the_lowest_percentile(name: str, scope: Scope) -> None:
    network = network_of(name)
    scores = random_scores(network)
    grid = structures(network, scores, np.linspace(0, 100, 301).tolist(), scope=scope)
    sizes = np.array([network.cost_of(one)["params"] for one in grid])
    assert (np.diff(sizes) <= 0).all()
    for limit in (sizes[120], sizes[120] - 1, sizes[-1]):
        found = largest(network, scores, partial(_within, network, limit), scope=scope)
        assert found is not None
        network.build(found)
        first = int((sizes <= limit).argmax())
        assert sizes[first] <= network.cost_of(found)["params"] <= limit
        assert (network.counts(found) >= network.counts(grid[first])).all()
    assert largest(network, scores, lambda one: False, scope=scope) is None
