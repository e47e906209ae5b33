"""The proof has to notice groups that are wrong; right ones come from find_groups."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from evo.network.groups import CouplingGroup, Cut, find_groups
from evo.network.proof import disproved
from evo.network.surgery import Network, skeleton_of


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


def prove(model: nn.Module, groups: list[CouplingGroup]) -> dict[str, str]:
    skeleton = skeleton_of(model)
    return disproved(model, IMAGES, groups, lambda kept, held, masks: Network._slice(skeleton, kept, held, masks))


def with_cuts(group: CouplingGroup, change: Callable[[Cut], Cut | None]) -> CouplingGroup:
    changed = [change(cut) for cut in group.cuts]
    return dataclasses.replace(group, cuts=tuple(cut for cut in changed if cut is not None))


def rotated(cut: Cut) -> Cut:
    return dataclasses.replace(cut, channels=np.roll(cut.channels, 1))


def test_right_groups_pass() -> None:
    groups, _ = find_groups(plain(), IMAGES)
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
    groups, _ = find_groups(plain(), IMAGES)
    failed = prove(plain(), [with_cuts(groups[0], change), *groups[1:]])
    assert set(failed) == {"0"}
    assert reason in failed["0"]


def test_trained_zeros_do_not_hide_an_error() -> None:
    model = plain()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    groups, _ = find_groups(plain(), IMAGES)
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
