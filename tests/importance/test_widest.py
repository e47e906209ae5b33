import itertools
import math

import numpy as np
import pytest
import torch

import evo
from evo.importance.widest import widest
from evo.network import Network
from evo.network.zoo import lenet
from tests.importance.zoo import task_around


@pytest.fixture(scope="module")
def network() -> Network:
    return Network.analyse(lenet(6, 8, 12), torch.zeros(1, 1, 28, 28))


def test_capacity_is_the_sum_over_layers_by_hand(network: Network) -> None:
    first, second, third = 3, 5, 7
    layers = [(25 * first, 24 * 24), (25 * first * second, 8 * 8), (16 * second * third, 1), (10 * third, 1)]
    for resolution in (0.0, 0.2, 1.0):
        expected = sum((places / 576) ** resolution * math.log(weights) for weights, places in layers)
        assert network.costs.capacity([first, second, third], resolution) == pytest.approx(expected)
    population = np.array([[3, 5, 7], [1, 1, 1], [6, 8, 12]])
    assert network.costs.capacity(population).tolist() == [network.costs.capacity(counts) for counts in population]


@pytest.mark.parametrize("share", [0.1, 0.3, 0.7])
@pytest.mark.parametrize("cost", ["params", "macs"])
def test_finds_what_trying_everything_finds(network: Network, cost: str, share: float) -> None:
    limits = evo.Budget(**{cost: share}).bind(network.costs)
    everything = np.array(list(itertools.product(range(1, 7), range(1, 9), range(1, 13))))
    everything = everything[limits.fits(everything)]
    best = network.costs.capacity(everything).max()
    levels = widest(
        lambda levels: network.costs.capacity(levels + 1),
        lambda levels: limits.fits(levels + 1),
        network.costs.sizes - 1,
        np.random.default_rng(0),
    )
    assert limits.fits(levels + 1)
    assert network.costs.capacity(levels + 1) == pytest.approx(best, rel=1e-12)


def test_with_everything_allowed_nothing_is_removed(network: Network) -> None:
    everything = evo.Budget(params=1.0).bind(network.costs)
    space = evo.ChannelVector(initial="capacity").bind(task_around(network, 1, 28, 28), (1.0,), everything)
    assert list(space.start) == [6, 8, 12]


def test_a_vector_starts_from_the_largest_capacity_within_the_budget(network: Network) -> None:
    limits = evo.Budget(params=0.3, macs=0.4).bind(network.costs)
    encoding = evo.ChannelVector(initial="capacity", free=("conv*",))
    space, again = (encoding.bind(task_around(network, 1, 28, 28), (1.0,), limits) for _ in range(2))
    counts = space.counts(space.start)
    assert counts[2] == 12
    assert limits.fits(counts)
    assert list(again.start) == list(space.start)
    others = [np.array([a, b, 12]) for a, b in itertools.product(range(1, 7), range(1, 9))]
    best = max(float(network.costs.capacity(other)) for other in others if limits.fits(other))
    assert float(network.costs.capacity(counts)) == pytest.approx(best)
    drawn = space.initial(20, np.random.default_rng(0))
    assert all(list(one) != list(space.start) for one in drawn)


def test_a_budget_that_only_the_smallest_meets(network: Network) -> None:
    limits = evo.Budget(params=int(network.costs.costs(network.fewest, ["params"])["params"])).bind(network.costs)
    assert list(evo.ChannelVector(initial="capacity").bind(task_around(network, 1, 28, 28), (1.0,), limits).start) == [
        1,
        1,
        1,
    ]


def test_without_a_budget_there_is_no_largest(network: Network) -> None:
    with pytest.raises(evo.EvoError, match="'capacity' looks for the best within a budget, but there is none"):
        evo.ChannelVector(initial="capacity").bind(task_around(network, 1, 28, 28), (1.0,))
