import pytest
import torch

import evo
from evo.network import evaluating
from evo.network.origin import Origin, origin_of
from evo.network.zoo import ZOO, lenet, resnet20

SIDES = {"lenet": 28, "resnet20": 16}


@pytest.mark.parametrize("name", ZOO)
def test_every_network_runs_and_can_be_searched(name: str) -> None:
    torch.manual_seed(0)
    model = ZOO[name](classes=7, in_channels=2)
    images = torch.randn(3, 2, SIDES[name], SIDES[name])
    with evaluating(model):
        assert model(images).shape == (3, 7)
    network = evo.Network.analyse(model, images[:1])
    assert [entry.reason for entry in network.frozen] == ["its channels are the network's output"]
    assert network.cost_of(network.full)["params"] == sum(parameter.numel() for parameter in model.parameters())


def test_resnet20_has_the_published_size() -> None:
    # 0.27 million (He et al. 2016, Table 6); with projections to the unit: 272,474.
    assert sum(parameter.numel() for parameter in resnet20().parameters()) == 272_474


def test_lenet_has_the_papers_weights() -> None:
    weights = [parameter.numel() for name, parameter in lenet().named_parameters() if parameter.dim() > 1]
    assert weights == [500, 25_000, 400_000, 5_000]


def test_networks_know_where_they_come_from() -> None:
    arguments = {"conv1": 3, "conv2": 50, "fc1": 500, "classes": 4, "in_channels": 1}
    assert origin_of(lenet(3, classes=4)) == Origin("lenet", tuple(arguments.items()))
    assert origin_of(torch.nn.Flatten()) == Origin()
