"""What every network of the zoo can do; `zoo/` has the reference counts of each."""

import inspect
import json
from pathlib import Path
from typing import Any

import pytest
import torch

import evo
from evo.network import evaluating
from evo.network.origin import Origin, origin_of
from evo.network.zoo import INPUTS, ZOO, lenet

SMALL: dict[str, dict[str, Any]] = {  # arguments that make a network quick to train
    "adalayernet": {"widths": [4, 5, 6, 7, 8, 9, 10, 11]},
    "lenet": {},
    "mlp": {"widths": [8, 8]},
    "resnet20": {"width": 4},
    "resnet56": {"width": [2, 3, 5]},
    "vgg16_cifar": {"widths": [4, 5, 6, 7, 8, 9, 4, 5, 6, 7, 8, 9, 4]},
}


@pytest.mark.parametrize("name", ZOO)
def test_every_network_runs_on_its_input(name: str) -> None:
    with torch.device("meta"):
        model = ZOO[name]().eval()
        scores = model(torch.zeros(2, *INPUTS[name]))
    assert scores.dim() == 2
    assert scores.shape[0] == 2


def test_every_input_is_known() -> None:
    assert set(INPUTS) == set(ZOO)


@pytest.mark.parametrize("name", [name for name in ZOO if "classes" in inspect.signature(ZOO[name]).parameters])
def test_classes(name: str) -> None:
    with torch.device("meta"):
        assert ZOO[name](classes=7).eval()(torch.zeros(1, *INPUTS[name])).shape == (1, 7)


@pytest.mark.parametrize("name", [name for name in ZOO if "in_channels" in inspect.signature(ZOO[name]).parameters])
def test_channels_of_the_input(name: str) -> None:
    with torch.device("meta"):
        scores = ZOO[name](in_channels=2).eval()(torch.zeros(1, 2, *INPUTS[name][1:]))
    assert scores.shape[0] == 1


@pytest.mark.parametrize("name", ZOO)
def test_json_holds_the_arguments(name: str) -> None:
    with torch.device("meta"):
        model = ZOO[name](**SMALL.get(name, {}))
        origin = origin_of(model)
        again = ZOO[name](**json.loads(json.dumps(dict(origin.arguments))))
    assert origin.factory == name
    assert {key: value.shape for key, value in model.state_dict().items()} == {
        key: value.shape for key, value in again.state_dict().items()
    }


@pytest.mark.parametrize("name", SMALL)
def test_a_step_of_training_moves_every_parameter(name: str) -> None:
    torch.manual_seed(0)
    model = ZOO[name](**SMALL[name])
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    scores = model(torch.randn(8, *INPUTS[name]))
    loss = distance(scores)
    loss.backward()  # type: ignore[no-untyped-call]
    optimiser.step()
    assert torch.isfinite(loss)
    still = [name for name, parameter in model.named_parameters() if torch.equal(parameter, before[name])]
    # A bias before batch normalisation has no effect but by rounding.
    assert all(name.endswith("bias") for name in still), still


@pytest.mark.parametrize("name", ["adalayernet", "lenet", "resnet20", "vgg16_cifar"])
def test_networks_can_be_searched(name: str) -> None:
    torch.manual_seed(0)
    model = ZOO[name](classes=7, in_channels=2, **SMALL[name])
    images = torch.randn(3, 2, *INPUTS[name][1:])
    with evaluating(model):
        assert model(images).shape == (3, 7)
    network = evo.Network.analyse(model, images[:1])
    assert [entry.reason for entry in network.frozen] == ["its channels are the network's output"]
    assert network.cost_of(network.full)["params"] == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", SMALL)
def test_narrow_networks_come_back_from_a_file(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = ZOO[name](**SMALL[name]).eval()
    again = evo.load(evo.save(model, tmp_path / "narrow.evo"))
    inputs = torch.randn(2, *INPUTS[name])
    assert torch.equal(again(inputs), model(inputs))
    assert origin_of(again).arguments == origin_of(model).arguments


def test_networks_know_where_they_come_from() -> None:
    arguments = {"conv1": 3, "conv2": 50, "fc1": 500, "classes": 4, "in_channels": 1}
    assert origin_of(lenet(3, classes=4)) == Origin("lenet", tuple(arguments.items()))
    assert origin_of(torch.nn.Flatten()) == Origin()


def distance(scores: torch.Tensor) -> torch.Tensor:
    """Return some loss for eight outputs: their distance from fixed targets."""
    return ((scores - torch.linspace(-1, 1, scores.numel()).reshape(scores.shape)) ** 2).mean()
