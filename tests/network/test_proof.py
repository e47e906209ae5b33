"""The proof has to notice groups that are wrong; right ones come from the analysis."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from evo.blueprint import Blueprint, BoolArray
from evo.errors import NetworkError
from evo.network import CouplingGroup, Cut, Network
from evo.network.groups import find_groups
from evo.network.plan import SlicePlan
from evo.network.proof import proved_groups
from evo.network.rules import apply
from evo.network.template import Template, skeleton_of
from evo.network.trace import trace
from tests.network.checking import searchable


def plain() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 4, 3, padding=1),
        nn.Flatten(),
        nn.Linear(4 * 36, 3),
    )


IMAGES = torch.randn(1, 1, 6, 6, generator=torch.Generator().manual_seed(0))


def groups_of(model: nn.Module) -> list[CouplingGroup]:
    return list(Network.analyse(model, IMAGES).groups)


def prove(model: nn.Module, groups: list[CouplingGroup]) -> dict[str, str]:
    template = Template(skeleton_of(model))

    def cut(kept: Sequence[CouplingGroup], held: Mapping[str, Tensor], masks: Mapping[str, BoolArray]) -> nn.Module:
        return template.make(*SlicePlan(kept, held).apply(held, masks))

    return proved_groups(model.eval(), (IMAGES,), groups, cut)[1]


def with_cuts(group: CouplingGroup, change: Callable[[Cut], Cut | None]) -> CouplingGroup:
    changed = [change(cut) for cut in group.cuts]
    return dataclasses.replace(group, cuts=tuple(cut for cut in changed if cut is not None))


def rotated(cut: Cut) -> Cut:
    return dataclasses.replace(cut, channels=np.roll(cut.channels, 1))


def test_right_groups_pass() -> None:
    groups = groups_of(plain())
    assert [group.name for group in groups] == ["0", "3", "5"]
    assert prove(plain(), groups) == {}
    assert prove(plain(), []) == {}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda cut: rotated(cut) if cut.reads else cut, "not the same as silencing"),
        (lambda cut: rotated(cut) if cut.tensor == "0.bias" else cut, "not the same as silencing"),
        (lambda cut: rotated(cut) if cut.tensor == "1.running_mean" else cut, "not the same as silencing"),
        (lambda cut: None if cut.tensor == "1.running_var" else cut, "breaks the network"),
        (lambda cut: None if cut.reads else cut, "breaks the network"),
    ],
)
def test_a_wrong_group_fails_and_only_that(change: Callable[[Cut], Cut | None], reason: str) -> None:
    groups = groups_of(plain())
    failed = prove(plain(), [with_cuts(groups[0], change), *groups[1:]])
    assert set(failed) == {"0"}
    assert reason in failed["0"]


def test_trained_zeros_do_not_hide_an_error() -> None:
    model = plain()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    groups = groups_of(plain())
    wrong = with_cuts(groups[1], lambda cut: rotated(cut) if cut.reads else cut)
    assert set(prove(model, [groups[0], wrong, groups[2]])) == {"3"}


class Output(nn.Module):
    """A network whose output has its own channels removed along: cutting changes what the user gets."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.fc = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> dict[str, object]:
        features = self.conv(x).mean((2, 3))
        return {"scores": [self.fc(features)], "features": (features, "label")}


def test_every_tensor_of_the_output_counts() -> None:
    cuts = [("conv.weight", 0, False), ("conv.bias", 0, False), ("fc.weight", 1, True)]
    members = tuple(Cut(tensor, dim, np.arange(4, dtype=np.int32), reads) for tensor, dim, reads in cuts)
    group = CouplingGroup("conv", 4, ("conv",), ("fc",), members)
    assert prove(Output(), [group]) == {"conv": "cutting it changes the shape of the network's output"}


class FirstOfAll(nn.Module):
    """Reads the first channels only: a lucky draw of what to remove would not tell."""

    def __init__(self, width: int, read: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, width, 3, padding=1)
        self.second = nn.Conv2d(read, 6, 3, padding=1)
        self.fc = nn.Linear(6, 3)
        self.read = read

    def forward(self, images: Tensor) -> Tensor:
        result: Tensor = self.fc(torch.relu(self.second(self.first(images)[:, : self.read])).mean((2, 3)))
        return result


@pytest.mark.parametrize("width", [2, 3, 4, 5, 8, 13])
@pytest.mark.parametrize("read", [1, 2, 4])
def test_no_group_is_vouched_for_by_a_lucky_draw(width: int, read: int) -> None:
    model = FirstOfAll(width, min(read, width))
    assert searchable(Network.analyse(model, IMAGES)).keys() == ({"first", "second"} if width <= read else {"second"})


class OnlyWhenAlone(nn.Module):
    """Two layers, each of which may be cut, but not both: the product of their widths enters the values."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(1, 4, 3), nn.Conv2d(1, 6, 3)
        self.join = nn.Conv2d(10, 5, 1)
        self.fc = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        one, two = self.one(x), self.two(x)
        missing = (4 - one.shape[1]) * (6 - two.shape[1])
        result: Tensor = self.fc(torch.relu(self.join(torch.cat([one, two], 1))).mean((2, 3))) + missing
        return result


def test_groups_that_fail_together_are_found() -> None:
    model = OnlyWhenAlone()
    found = prove(model, groups_of_any(model))
    assert set(found) == {"one", "two", "join"}
    assert all(reason.startswith("together with other groups") for reason in found.values())
    assert Network.analyse(model, IMAGES).groups == ()


def groups_of_any(model: nn.Module) -> list[CouplingGroup]:
    """Groups of a network before any proof."""
    tensors = dict(model.named_parameters())
    order = {name: index for index, (name, _) in enumerate(model.named_modules())}
    return find_groups(trace(model.eval(), (IMAGES,), tensors, apply, 1), order).groups


def test_a_group_of_which_a_single_channel_breaks_the_network_keeps_two() -> None:
    class Squeezed(FirstOfAll):
        def forward(self, images: Tensor) -> Tensor:
            result: Tensor = self.fc(torch.relu(self.second(self.first(images))).mean((2, 3)).squeeze())
            return result

    model = Squeezed(4, 4)
    network = Network.analyse(model, IMAGES)
    assert {group.name: group.least for group in network.groups} == {"first": 1, "second": 2}
    one = {group.name: np.arange(group.size) < 1 for group in network.groups}
    assert network.repaired(one).counts == {"first": 1, "second": 2}
    with pytest.raises(NetworkError, match="second: it keeps one channel, but the network only works with two or more"):
        network.build(Blueprint.from_masks(one))


def test_noise_and_modes_are_left_as_they_were() -> None:
    model = plain().train()
    state = torch.random.get_rng_state()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    prove(model.eval(), groups_of(model))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
