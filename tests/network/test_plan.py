"""Networks made anew: they hold what the original holds, share nothing that can change, and know their sizes."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import evo
from evo.errors import NetworkError
from evo.network import CouplingGroup, Cut
from evo.network.plan import SlicePlan
from evo.network.template import Template, fill, skeleton_of, tensors_of
from tests.network.checking import drawn, outputs
from tests.network.networks import Between, Looped, Net, OneShot, Residual, ResNeXt, TiedWeights, Up, images
from tests.network.odd_networks import Attributes, Hooked, LazyCache, OwnCopy, OwnState

MAKES: dict[str, Callable[[], nn.Module]] = {
    "plain": lambda: Net(OneShot(8), 8),
    "own copy": lambda: Net(OwnCopy(8, 7, 3, padding=1), 7),
    "own state": lambda: Net(OwnState(8, 7, 3, padding=1), 7),
    "attributes": lambda: Net(Attributes(8), 7),
    "hooks": lambda: Net(Hooked(8), 7),
    "cache": lambda: Net(LazyCache(8), 7),
    "tied": lambda: Net(TiedWeights(8), 5),
}


def sizes(model: nn.Module, layer: str, *names: str) -> list[Any]:
    return [getattr(model.get_submodule(layer), name) for name in names]


def made(model: nn.Module) -> nn.Module:
    tensors = {name: tensor.clone() for name, tensor in tensors_of(model).items()}
    return Template(skeleton_of(model)).make(tensors, {})


@pytest.mark.parametrize("kind", MAKES)
def test_a_template_makes_what_a_deep_copy_is(kind: str) -> None:
    model = MAKES[kind]().eval()
    again = made(model)
    assert [(name, type(module)) for name, module in again.named_modules()] == [
        (name, type(module)) for name, module in model.named_modules()
    ]
    assert list(again.state_dict()) == list(model.state_dict())
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in again.state_dict().items())
    assert all(map(torch.equal, outputs(again, (images(),)), outputs(model, (images(),))))
    mine = {id(module) for module in model.modules()} | {id(parameter) for parameter in model.parameters()}
    assert not mine & ({id(module) for module in again.modules()} | {id(parameter) for parameter in again.parameters()})


def test_a_skeleton_takes_no_memory_and_keeps_what_is_shared() -> None:
    model = TiedWeights(8)
    model.enter.weight.requires_grad_(False)
    skeleton = skeleton_of(model)
    assert {parameter.device.type for parameter in skeleton.parameters()} == {"meta"}
    assert isinstance(skeleton, TiedWeights)
    assert skeleton.one.weight is skeleton.two.weight
    assert not skeleton.enter.weight.requires_grad
    filled = fill(skeleton, tensors_of(model))
    assert isinstance(filled, TiedWeights)
    assert filled.one.weight is filled.two.weight
    assert torch.equal(filled.one.weight, model.one.weight)


def test_references_inside_lead_to_the_copy() -> None:
    model = Attributes(8)
    again, other = made(model), made(model)
    assert isinstance(again, Attributes)
    assert isinstance(other, Attributes)
    assert again.stages[0] is again.conv
    assert again.lookup["second"] is again.again
    assert again.bound.__self__ is again  # type: ignore[attr-defined]
    again(images(channels=8))
    again.constant.fill_(9)
    assert (again.calls, other.calls, model.calls) == ([1], [0], [0])
    assert float(other.constant) == float(model.constant) == 0.5
    hooked = made(Hooked(8))
    (hook,) = hooked.get_submodule("conv")._forward_hooks.values()
    assert hook.__self__ is hooked  # type: ignore[attr-defined]


def test_modules_that_copy_themselves_are_asked_to() -> None:
    model = OwnCopy(2, 3, 3, padding=1)
    template = Template(skeleton_of(model))
    before = OwnCopy.copies
    template.make(tensors_of(model), {})
    assert OwnCopy.copies == before + 1


def test_layers_know_their_sizes() -> None:
    network = evo.Network.analyse(Net(ResNeXt(8, 4, 3), 8), images())
    masks = {group.name: np.arange(group.size) % 3 < 2 for group in network.groups}
    small = network.build(network.repaired(masks))
    assert sizes(small, "block.grouped.0", "in_channels", "out_channels", "groups") == [8, 8, 4]
    assert sizes(small, "block.grouped.1", "num_features") == [8]
    assert sizes(small, "fc", "in_features", "out_features") == [4, 3]
    up = evo.Network.analyse(Net(Up(8, 8), 8), images())
    masks = {group.name: np.arange(group.size) < 5 for group in up.groups}
    assert sizes(up.build(up.repaired(masks)), "block.up", "in_channels", "out_channels", "groups") == [5, 5, 5]


@pytest.mark.parametrize(
    ("make", "attribute", "expected"),
    [
        (lambda: nn.InstanceNorm2d(12), "num_features", 5),
        (lambda: nn.BatchNorm2d(12, affine=False, track_running_stats=False), "num_features", 5),
        (lambda: nn.BatchNorm2d(12), "num_features", 5),
        (lambda: nn.GroupNorm(12, 12), "num_groups", 5),
        (lambda: nn.GroupNorm(1, 12), "num_channels", 5),
        (lambda: nn.PReLU(12), "num_parameters", 5),
    ],
)
def test_what_stands_between_knows_its_size(make: Callable[[], nn.Module], attribute: str, expected: int) -> None:
    network = evo.Network.analyse(Net(Between(8, make()), 9), images())
    masks = {group.name: np.ones(group.size, dtype=bool) for group in network.groups}
    masks["block.conv"] = np.arange(12) < 5
    small = network.build(network.repaired(masks))
    assert sizes(small, "block.middle", attribute) == [expected]


def test_parameters_that_do_not_learn_still_do_not() -> None:
    model = Net(Looped(8), 8)
    model.last.requires_grad_(False)
    network = evo.Network.analyse(model, images())
    small = network.build(drawn(network, np.random.default_rng(0)))
    learning = {name for name, parameter in small.named_parameters() if parameter.requires_grad}
    assert learning == {name for name, _ in model.named_parameters() if not name.startswith("last.")}


def test_sizes_that_a_users_module_notes_are_its_own_affair() -> None:
    class Noted(Residual):
        def __init__(self) -> None:
            super().__init__(8, 8)
            self.num_features = self.width = 8

    network = evo.Network.analyse(Net(Noted(), 8), images())
    small = network.build(drawn(network, np.random.default_rng(0)))
    assert small.get_submodule("block").width == 8
    assert small.get_submodule("block").num_features == 8


def test_copies_are_deep() -> None:
    model = Net(OneShot(8), 8)
    network = evo.Network.analyse(model, images())
    small = network.build(network.full)
    twin = copy.deepcopy(small)
    with torch.no_grad():
        small.get_parameter("first.weight").zero_()
    assert isinstance(twin.get_parameter("first.weight"), Tensor)
    assert twin.get_parameter("first.weight").abs().min() > 0


@pytest.mark.parametrize("block", [lambda: ResNeXt(8), lambda: Residual(8, 8), lambda: OneShot(8)])
def test_lengths_follow_from_counts(block: Callable[[], nn.Module]) -> None:
    network = evo.Network.analyse(Net(block(), 8), (images(),))
    plan = SlicePlan(network.groups, network.tensors())
    rng = np.random.default_rng(0)
    for _ in range(5):
        blueprint = drawn(network, rng)
        kept = plan.entries(blueprint.masks)
        rows = [entries.reshape(len(entries), -1) if entries.ndim > 1 else entries[None] for entries in kept]
        lengths, totals = plan.lengths(network.counts(blueprint))
        assert totals == [int(entries.sum()) for entries in kept]
        assert all((entries.sum(1) == length).all() for entries, length in zip(rows, lengths, strict=True))


def test_counts_do_not_tell_lengths_if_channels_differ() -> None:
    cut = Cut("weight", 0, np.array([0, 0, 1], np.int32), reads=False)
    plan = SlicePlan([CouplingGroup("odd", 2, ("odd",), (), (cut,))], {"weight": torch.zeros(3)})
    with pytest.raises(NetworkError, match="odd: its channels differ in how many entries of a weight they own"):
        plan.lengths(np.array([1]))
