"""What a coupling group says of itself: names, order, cuts, parts, legal numbers of channels, protection."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import evo
from evo.errors import SettingsError
from evo.network import CouplingGroup, evaluating
from evo.network.groups import Grouping, find_groups
from evo.network.rules import apply
from evo.network.trace import trace
from evo.network.zoo import lenet, resnet20
from tests.network.checking import drawn, searchable, verify
from tests.network.networks import Dense, Inception, Net, ResNeXt, Shuffle, TwoTowers, images


def grouped(model: nn.Module, inputs: Tensor, **options: object) -> Grouping:
    model = model.eval()
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    order = {name: index for index, (name, _) in enumerate(model.named_modules())}
    return find_groups(trace(model, (inputs,), tensors, apply, len(inputs)), order, **options)  # type: ignore[arg-type]


def by_name(network: evo.Network) -> dict[str, CouplingGroup]:
    return {group.name: group for group in network.groups}


def test_lenet_has_a_group_per_hidden_layer() -> None:
    groups = grouped(lenet(), torch.randn(1, 1, 28, 28)).groups
    assert [(group.name, group.size) for group in groups] == [("conv1", 20), ("conv2", 50), ("fc1", 500)]
    assert [group.producers for group in groups] == [("conv1",), ("conv2",), ("fc1",)]
    assert [group.consumers for group in groups] == [("conv2",), ("fc1",), ("fc2",)]


def test_a_channel_cuts_everything_that_belongs_to_it() -> None:
    groups = grouped(lenet(), torch.randn(1, 1, 28, 28)).groups
    cuts = {(cut.tensor, cut.dim): cut for cut in groups[1].cuts}
    norm = {(f"bn2.{name}", 0) for name in ("weight", "bias", "running_mean", "running_var")}
    assert set(cuts) == {("conv2.weight", 0), ("conv2.bias", 0), ("fc1.weight", 1), *norm}
    assert [key for key, cut in cuts.items() if cut.reads] == [("fc1.weight", 1)]
    assert cuts["conv2.weight", 0].channels.tolist() == list(range(50))
    # Flattening hands every channel's 4×4 positions to the linear layer, channel by channel.
    assert cuts["fc1.weight", 1].channels.tolist() == np.repeat(np.arange(50), 16).tolist()


def test_additions_tie_the_layers_of_a_stage() -> None:
    groups = grouped(resnet20(in_channels=1), torch.randn(1, 1, 8, 8)).groups
    found = {group.name: group for group in groups}
    assert found["conv1"].producers == ("conv1", "layer1.0.conv2", "layer1.1.conv2", "layer1.2.conv2")
    assert found["layer3.0.conv2"].consumers == ("layer3.1.conv1", "layer3.2.conv1", "fc")
    assert [group.size for group in groups] == [16] * 4 + [32] * 4 + [64] * 4


def test_concatenated_branches_stay_apart() -> None:
    network = evo.Network.analyse(Net(Inception(8), 14), images())
    reads = {
        group.name: next(cut.channels for cut in group.cuts if cut.tensor == "last.weight")
        for group in network.groups
        if "last" in group.consumers
    }
    starts = {"block.one": (0, 3), "block.three.2": (3, 4), "block.five.2": (7, 5), "block.pool.1": (12, 2)}
    assert set(reads) == set(starts)
    for name, (start, size) in starts.items():
        assert reads[name].tolist() == [-1] * start + list(range(size)) + [-1] * (14 - start - size)


def test_readers_of_a_dense_block_are_all_that_follow() -> None:
    network = evo.Network.analyse(Net(Dense(8), 17), images())
    layers = [f"block.layers.{index}.2" for index in range(3)]
    assert by_name(network)["first"].consumers == (*layers, "last")
    assert by_name(network)[layers[1]].consumers == (layers[2], "last")


@pytest.mark.parametrize(("groups", "each"), [(2, 3), (4, 3), (8, 4)])
def test_grouped_convolutions_keep_equal_parts(groups: int, each: int) -> None:
    network = evo.Network.analyse(Net(ResNeXt(8, groups, each), 8), images())
    enter, middle = by_name(network)["block.enter.0"], by_name(network)["block.grouped.0"]
    assert (enter.size, enter.parts, middle.parts) == (groups * each, groups, groups)
    rng = np.random.default_rng(0)
    for _ in range(5):
        blueprint = drawn(network, rng)
        for group in (enter, middle):
            kept = blueprint.masks[group.name].reshape(groups, each).sum(1)
            assert len(set(kept.tolist())) == 1
        layer = network.build(blueprint).get_submodule("block.grouped.0")
        assert [layer.groups, layer.out_channels] == [groups, blueprint.counts[middle.name]]


def test_the_towers_of_alexnet_need_not_keep_the_same_channels() -> None:
    network = evo.Network.analyse(Net(TwoTowers(8), 10), images())
    masks = {group.name: np.ones(group.size, dtype=bool) for group in network.groups}
    masks["block.one"] = np.array([1, 0, 1, 0, 1, 0, 0, 0, 0, 1, 1, 1], dtype=bool)
    repaired = network.repaired(masks)
    assert np.array_equal(repaired.masks["block.one"], masks["block.one"])
    maps = network.channel_maps(repaired)
    assert maps["block.two"].inputs.tolist() == [[0, -1, 1, -1, 2, -1], [-1, -1, -1, 0, 1, 2]]
    assert maps["block.one"].outputs.tolist() == [0, -1, 1, -1, 2, -1, -1, -1, -1, 3, 4, 5]


def test_halves_that_are_shuffled_share_their_channels() -> None:
    network = evo.Network.analyse(Net(Shuffle(8, "chunk"), 8), images())
    group = by_name(network)["block.pad"]
    assert (group.size, group.producers) == (4, ("block.pad", "block.branch.4"))
    assert next(cut for cut in group.cuts if cut.tensor == "block.pad.weight").channels.tolist() == [0, 1, 2, 3] * 2


@pytest.mark.parametrize(
    ("parts", "multiple", "count", "legal"),
    [
        (1, 1, 0, 1),
        (1, 1, 5, 5),
        (4, 1, 5, 8),
        (4, 1, 1, 4),
        (1, 8, 3, 8),
        (1, 8, 9, 12),
        (2, 3, 7, 12),
        (4, 1, 12, 12),
    ],
)
def test_legal_numbers_of_channels(parts: int, multiple: int, count: int, legal: int) -> None:
    group = CouplingGroup("conv", 12, ("conv",), (), (), parts, multiple)
    assert group.legal_count(count) == legal
    assert group.step == math.lcm(parts, multiple)


def test_widths_are_rounded_to_multiples() -> None:
    model = Net(ResNeXt(20, 4, 6), 20, channels=20)
    network = verify(model, (images(),), multiple=8)
    assert {group.name: group.step for group in network.groups} == {
        "first": 8,
        "block.enter.0": 8,
        "block.grouped.0": 8,
        "last": 8,
    }
    rng = np.random.default_rng(0)
    counts = np.array([list(drawn(network, rng).counts.values()) for _ in range(50)])
    sizes = list(network.full.counts.values())
    assert ((counts % 8 == 0) | (counts == sizes)).all()
    assert (counts % 8 == 0).any(0).tolist() == [size >= 8 for size in sizes]
    with pytest.raises(SettingsError, match="multiple: expected at least 1, got 0"):
        evo.Network.analyse(model, images(), multiple=0)


@pytest.mark.parametrize(
    ("pattern", "kept_whole"),
    [
        ("first", {"first"}),
        ("block.*", {"first", "block.enter.0", "block.grouped.0"}),
        ("block.enter.0", {"block.enter.0"}),
        ("*leave", {"first"}),  # the addition ties it to the first layer
    ],
)
def test_protected_layers_stay_whole(pattern: str, kept_whole: set[str]) -> None:
    model = Net(ResNeXt(8), 8)
    everything = set(searchable(evo.Network.analyse(model, images())))
    network = evo.Network.analyse(model, images(), protect=[pattern])
    assert everything - set(searchable(network)) == kept_whole
    assert kept_whole <= {entry.name for entry in network.frozen if "it is protected" in entry.reason}


def test_a_pattern_without_a_layer_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"protect: unknown layer 'heads.\*'; known are: .*block.enter.0.*first"):
        evo.Network.analyse(Net(ResNeXt(8), 8), images(), protect=["last", "heads.*"])


class Coordinates(nn.Module):
    """A grouped convolution, the second half of which reads channels next to constants."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 6, 3, padding=1)
        self.halves = nn.Conv2d(8, 8, 1, groups=2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        constants = torch.ones(len(x), 2, *x.shape[2:], dtype=x.dtype)
        result: Tensor = self.halves(torch.cat([x, constants], 1))
        return result


@pytest.mark.timeout(60)
def test_groups_that_mix_channels_and_constants_are_settled() -> None:
    network = verify(Net(Coordinates(), 8), (images(),))
    # The two halves keep equally many: channels 0 and 4, 1 and 5 go together, 2 and 3 have constants for partners.
    assert searchable(network) == {"first": 8, "block.conv": 2, "block.halves": 8, "last": 6}
    frozen = {entry.name: entry.reason for entry in network.frozen}
    assert frozen["block.conv"].startswith("2 of its 6 channels stay: ")


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
