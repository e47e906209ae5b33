import numpy as np
import pytest
import torch
from torch import nn

from evo.network import evaluating
from evo.network.groups import find_groups
from evo.network.zoo import lenet, resnet20


def test_lenet_has_a_group_per_hidden_layer() -> None:
    groups, frozen = find_groups(lenet(), torch.randn(1, 1, 28, 28))
    assert [(group.name, group.size) for group in groups] == [("conv1", 20), ("conv2", 50), ("fc1", 500)]
    assert [group.producers for group in groups] == [("conv1",), ("conv2",), ("fc1",)]
    assert [group.consumers for group in groups] == [("conv2",), ("fc1",), ("fc2",)]
    assert [(entry.name, entry.reason) for entry in frozen] == [("fc2", "its channels are the network's output")]


def test_a_channel_cuts_everything_that_belongs_to_it() -> None:
    groups, _ = find_groups(lenet(), torch.randn(1, 1, 28, 28))
    cuts = {(cut.tensor, cut.dim): cut for cut in groups[1].cuts}
    assert set(cuts) == {
        ("conv2.weight", 0),
        ("conv2.bias", 0),
        ("bn2.weight", 0),
        ("bn2.bias", 0),
        ("bn2.running_mean", 0),
        ("bn2.running_var", 0),
        ("fc1.weight", 1),
    }
    assert [key for key, cut in cuts.items() if cut.reads] == [("fc1.weight", 1)]
    assert cuts["conv2.weight", 0].channels.tolist() == list(range(50))
    # Flattening hands every channel's 4×4 positions to the linear layer, channel by channel.
    assert cuts["fc1.weight", 1].channels.tolist() == np.repeat(np.arange(50), 16).tolist()


def test_additions_tie_the_layers_of_a_stage() -> None:
    groups, _ = find_groups(resnet20(in_channels=1), torch.randn(1, 1, 8, 8))
    by_name = {group.name: group for group in groups}
    assert by_name["conv1"].producers == ("conv1", "layer1.0.conv2", "layer1.1.conv2", "layer1.2.conv2")
    assert by_name["layer2.0.conv2"].producers == (
        "layer2.0.conv2",
        "layer2.0.shortcut.0",
        "layer2.1.conv2",
        "layer2.2.conv2",
    )
    assert by_name["layer3.0.conv2"].consumers == ("layer3.1.conv1", "layer3.2.conv1", "fc")
    assert [group.size for group in groups] == [16] * 4 + [32] * 4 + [64] * 4


class Branches(nn.Module):
    """Two convolutions joined by concatenation, and a depth-dependent order of names."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(1, 4, 3, padding=1)
        self.right = nn.Conv2d(1, 6, 1)
        self.joined = nn.Conv2d(10, 5, 3, padding=1)
        self.fc = nn.Linear(5, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(torch.cat([self.left(x), self.right(x)], 1))
        result: torch.Tensor = self.fc(torch.relu(self.joined(x)).amax((2, 3)))
        return result


def test_concatenated_branches_stay_apart() -> None:
    groups, _ = find_groups(Branches(), torch.randn(1, 1, 6, 6))
    by_name = {group.name: group for group in groups}
    assert set(by_name) == {"left", "right", "joined"}
    reads = {name: next(cut.channels.tolist() for cut in by_name[name].cuts if cut.reads) for name in ("left", "right")}
    assert reads == {"left": [0, 1, 2, 3] + [-1] * 6, "right": [-1] * 4 + [0, 1, 2, 3, 4, 5]}


class Untraceable(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled():
            raise RuntimeError("not with gradients")
        return x


def test_a_network_that_cannot_be_traced_has_no_groups_but_a_reason() -> None:
    groups, frozen = find_groups(Untraceable(), torch.randn(1, 1, 6, 6))
    assert groups == []
    assert [entry.reason for entry in frozen] == [
        "the dependency graph could not be traced (RuntimeError: not with gradients)"
    ]


def test_evaluating_restores_every_modules_mode_even_after_an_error() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).train()
    model[1].eval()

    def work() -> None:
        with evaluating(model):
            assert not any(module.training for module in model.modules())
            assert not torch.is_grad_enabled()
            raise KeyError

    with pytest.raises(KeyError):
        work()
    assert [module.training for module in model.modules()] == [True, True, False]
    assert torch.is_grad_enabled()
