import numpy as np
import pytest
import torch
from torch import nn

import evo
from evo.importance import magnitude
from evo.importance.magnitude import l1
from evo.network.zoo import LeNet, resnet20
from tests.importance.zoo import network_of


def norms(weight: torch.Tensor) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.array([sum(float(value) ** 2 for value in one.flatten()) for one in weight.double()])


def test_a_filters_importance_is_proportional_to_its_norm(trained_lenet: LeNet, lenet_network: evo.Network) -> None:
    scores = magnitude(lenet_network)
    assert list(scores) == ["conv1", "conv2", "fc1"]
    for name, score in scores.items():
        expected = norms(trained_lenet.get_submodule(name).get_parameter("weight").detach())
        np.testing.assert_allclose(score, np.sqrt(expected / expected.mean()), rtol=1e-12)


def test_tied_layers_add_up_each_on_the_same_scale() -> None:
    torch.manual_seed(0)
    model = resnet20(in_channels=1, width=4)
    with torch.no_grad():
        model.conv1.weight *= 100  # a layer of large weights must not outvote the others
    scores = magnitude(evo.Network.analyse(model, torch.randn(1, 1, 8, 8)))
    expected = np.zeros(4)
    for layer in ("conv1", "layer1.0.conv2", "layer1.1.conv2", "layer1.2.conv2"):
        squares = norms(model.get_submodule(layer).get_parameter("weight").detach())
        expected += squares / squares.mean()
    np.testing.assert_allclose(scores["conv1"], np.sqrt(expected), rtol=1e-12)


def test_dead_layers_and_dead_filters_score_zero() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 3), nn.Flatten(), nn.Linear(12, 2))
    with torch.no_grad():
        model.get_parameter("0.weight").zero_()
        model.get_parameter("2.weight")[1] = 0
    scores = magnitude(evo.Network.analyse(model, torch.randn(1, 1, 6, 6)))
    assert scores["0"].tolist() == [0, 0, 0, 0]
    assert scores["2"][1] == 0
    assert (scores["2"][[0, 2]] > 0).all()


@pytest.mark.parametrize("factor", [1e-3, 1e3])
def test_scale_of_a_layer_does_not_matter(factor: float) -> None:
    torch.manual_seed(0)
    model = resnet20(in_channels=1, width=4)
    images = torch.randn(1, 1, 8, 8)
    before = magnitude(evo.Network.analyse(model, images))
    with torch.no_grad():
        model.get_parameter("layer1.0.conv1.weight").mul_(factor)
    after = magnitude(evo.Network.analyse(model, images))
    np.testing.assert_allclose(after["layer1.0.conv1"], before["layer1.0.conv1"], rtol=1e-5)


def test_l1_is_the_sum_of_absolute_weights() -> None:
    network = network_of("alexnet")
    for group in network.groups:
        weight = network.tensor(f"{group.name}.weight")
        expected = np.array([sum(abs(float(value)) for value in one.flat) for one in weight])
        np.testing.assert_allclose(l1(network, group), expected / expected.mean(), rtol=1e-12)


def test_l1_of_tied_layers_adds_up_each_on_the_same_scale() -> None:
    network = network_of("mobilenet_v2")
    group = next(group for group in network.groups if len(group.producers) == 2)
    expected = np.zeros(group.size)
    for layer in group.producers:
        sums = np.abs(network.tensor(f"{layer}.weight").astype(float)).sum((1, 2, 3))
        expected += sums / sums.mean()
    np.testing.assert_allclose(l1(network, group), expected, rtol=1e-12)


def test_scales_that_are_no_filters_do_not_count() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.last = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 2, 1)
            self.scale = nn.Parameter(torch.randn(4, 1, 1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last((self.scale * self.conv(x)).relu())  # type: ignore[no-any-return]

    network = evo.Network.analyse(Scaled(), torch.randn(2, 1, 5, 5))
    (group,) = network.groups
    assert "scale" in {cut.tensor for cut in group.cuts}
    expected = norms(torch.from_numpy(network.tensor("conv.weight")))
    np.testing.assert_allclose(magnitude(network)["conv"], np.sqrt(expected / expected.mean()), rtol=1e-12)
