"""What is searchable in networks of every kind, and what is not and why; each is checked from all sides."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import nn

from tests.network.checking import reasons, searchable, verify
from tests.network.networks import (
    Between,
    ChannelsLast,
    ConvNeXt,
    Dense,
    Fire,
    Flattened,
    GatedHalves,
    Inception,
    InvertedResidual,
    LayerNorm2d,
    Looped,
    Multiplied,
    Net,
    OneShot,
    OptionA,
    PixelShuffle,
    PixelUnshuffle,
    Pooled,
    Residual,
    ResNeXt,
    SelectiveKernel,
    Shuffle,
    Sized,
    Sloppy,
    SpatialAttention,
    SqueezeExcite,
    Standardised,
    TiedWeights,
    Transformer,
    TwoTowers,
    UNet,
    Up,
    WrittenDown,
    images,
)
from tests.network.odd_networks import RMSNorm2d, Scaled, ZeroInit

Groups = Mapping[str, int]
Reasons = Mapping[str, str]

OUTPUT = "the network's output"
BREAKS = "cutting it breaks the network"
NOT_SAME = "cutting it is not the same as silencing it"
COMPUTED = "its weight is computed from other parameters"


def check(model: nn.Module, groups: Groups, frozen: Reasons) -> None:
    """Assert the searchable groups and, for every layer that stays whole, what its reason contains."""
    network = verify(model, (images(),))
    assert searchable(network) == groups
    found = reasons(network)
    assert set(found) == set(frozen)
    for name, reason in frozen.items():
        assert reason in found[name], (name, found[name])


# Block and its width, the groups between the first and the last layer of `Net`, what stays whole in the block.
BLOCKS: dict[str, tuple[Callable[[], nn.Module], int, Groups, Reasons]] = {
    "addition": (lambda: Residual(8, 8), 8, {"conv1": 9}, {}),
    "addition with a projection": (lambda: Residual(8, 10, 2), 10, {"conv1": 11, "conv2": 10}, {}),
    "option A": (lambda: OptionA(8, 12), 12, {"conv1": 12}, {"conv2": "4 of its 12 channels stay: "}),
    "the same layer in a loop": (lambda: Looped(8), 8, {}, {}),
    "two modules with one weight": (lambda: TiedWeights(8), 5, {"enter": 5}, {}),
    "Inception": (
        lambda: Inception(8),
        14,
        {"one": 3, "three.0": 5, "three.2": 4, "five.0": 3, "five.2": 5, "pool.1": 2},
        {},
    ),
    "DenseNet": (lambda: Dense(8), 17, {f"layers.{index}.2": 3 for index in range(3)}, {}),
    "SqueezeNet": (lambda: Fire(8), 10, {"squeeze": 4, "expand1": 5, "expand3": 5}, {}),
    "VoVNet": (lambda: OneShot(8), 8, {f"layers.{index}.0": 4 for index in range(3)}, {}),
    "U-Net": (lambda: UNet(8), 4, {"down": 10, "deep": 7, "up": 5, "join": 4}, {}),
    "AlexNet": (lambda: TwoTowers(8), 10, {"one": 12, "two": 6, "both": 10}, {}),
    "ResNeXt": (lambda: ResNeXt(8, 4, 3), 8, {"enter.0": 12, "grouped.0": 12}, {}),
    "ResNeXt with 8 groups": (lambda: ResNeXt(8, 8, 4), 8, {"enter.0": 32, "grouped.0": 32}, {}),
    "MobileNetV2": (lambda: InvertedResidual(8), 8, {"widen.0": 16}, {}),
    "depthwise": (lambda: Multiplied(8, 1), 8, {}, {}),
    "depthwise, twice": (lambda: Multiplied(8, 2), 16, {}, {}),
    "ShuffleNetV2": (lambda: Shuffle(8, "chunk"), 8, {"pad": 4, "branch.0": 4}, {}),
    "ShuffleNetV2 with nn.ChannelShuffle": (lambda: Shuffle(8, "module"), 8, {"pad": 4, "branch.0": 4}, {}),
    "ShuffleNetV2 with sizes written down": (
        lambda: Shuffle(8, "sizes"),
        8,
        {"branch.0": 4},
        {"pad": BREAKS, "branch.4": BREAKS},
    ),
    "squeeze and excitation": (lambda: SqueezeExcite(8, linear=False), 7, {"conv": 7, "reduce": 4}, {}),
    "squeeze and excitation, linear": (lambda: SqueezeExcite(8, linear=True), 7, {"conv": 7, "reduce": 4}, {}),
    "GLU": (lambda: GatedHalves(8, written=False), 5, {"conv": 5}, {}),
    "GLU by hand": (lambda: GatedHalves(8, written=True), 5, {"conv": 5}, {}),
    "CBAM": (
        lambda: SpatialAttention(8),
        7,
        {},
        {"conv": "mean is taken over its channels", "attend": "it has one channel"},
    ),
    "SKNet": (lambda: SelectiveKernel(8), 7, {"branches.0": 7, "squeeze": 4}, {}),
    "ConvNeXt": (lambda: ConvNeXt(8), 8, {"fc1": 14}, {}),
    "transposed": (lambda: Up(8), 8, {"enter": 8, "up": 8}, {}),
    "transposed, grouped": (lambda: Up(8, 4), 8, {"enter": 8, "up": 2}, {}),
    "transposed, depthwise": (lambda: Up(8, 8), 8, {"enter": 8}, {}),
    "pixel shuffle": (lambda: PixelShuffle(8, written=False), 3, {"conv": 3}, {}),
    "pixel shuffle by hand": (lambda: PixelShuffle(8, written=True), 3, {"conv": 3}, {}),
    "pixel unshuffle": (lambda: PixelUnshuffle(8, written=False), 20, {"conv": 5}, {}),
    "pixel unshuffle by hand": (lambda: PixelUnshuffle(8, written=True), 20, {"conv": 5}, {}),
}


@pytest.mark.parametrize("kind", BLOCKS)
def test_blocks(kind: str) -> None:
    make, width, groups, frozen = BLOCKS[kind]
    inside = {f"block.{name}": size for name, size in groups.items()}
    whole = {f"block.{name}": reason for name, reason in frozen.items()}
    check(Net(make(), width), {"first": 8, **inside, "last": 6}, {**whole, "fc": OUTPUT})


@pytest.mark.parametrize("how", ["module", "einsum", "fused"])
def test_attention_is_left_alone_but_not_what_is_beside_it(how: str) -> None:
    network = verify(Net(Transformer(8, how), 8), (images(),))
    assert searchable(network) == {"block.fc1": 12, "last": 6}
    assert {"first", "block.fc2", "fc"} <= set(reasons(network))


# What may stand between two convolutions of 12 channels without harm.
HARMLESS: dict[str, Callable[[], nn.Module]] = {
    "BatchNorm": lambda: nn.BatchNorm2d(12),
    "BatchNorm without scale": lambda: nn.BatchNorm2d(12, affine=False),
    "BatchNorm without statistics": lambda: nn.BatchNorm2d(12, track_running_stats=False),
    "BatchNorm with nothing": lambda: nn.BatchNorm2d(12, affine=False, track_running_stats=False),
    "InstanceNorm": lambda: nn.InstanceNorm2d(12),
    "InstanceNorm with scale": lambda: nn.InstanceNorm2d(12, affine=True),
    "InstanceNorm with statistics": lambda: nn.InstanceNorm2d(12, track_running_stats=True),
    "InstanceNorm with both": lambda: nn.InstanceNorm2d(12, affine=True, track_running_stats=True),
    "GroupNorm in 4": lambda: nn.GroupNorm(4, 12),
    "GroupNorm in 1": lambda: nn.GroupNorm(1, 12),
    "GroupNorm in 12": lambda: nn.GroupNorm(12, 12),
    "LayerNorm": lambda: LayerNorm2d(12),
    "PReLU": lambda: nn.PReLU(12),
    "PReLU, shared": lambda: nn.PReLU(),
    "scale and shift": lambda: Scaled(12),
    "Dropout": lambda: nn.Sequential(nn.Dropout(), nn.Dropout2d(), nn.AlphaDropout()),
    "activations": lambda: nn.Sequential(nn.Hardswish(), nn.SiLU(), nn.Mish(), nn.ELU(), nn.Softsign(), nn.RReLU()),
    "more activations": lambda: nn.Sequential(nn.GELU(), nn.Softplus(), nn.Tanhshrink(), nn.LogSigmoid(), nn.ReLU6()),
    "nearest": lambda: nn.Upsample(scale_factor=2),
    "bilinear": lambda: nn.Upsample(size=(5, 7), mode="bilinear"),
    "padding": lambda: nn.Sequential(nn.ReflectionPad2d(1), nn.ReplicationPad2d(1), nn.ZeroPad2d(1)),
    "pooling": lambda: nn.Sequential(
        nn.MaxPool2d(2, 1), nn.AvgPool2d(2, 1), nn.LPPool2d(2, 2), nn.AdaptiveMaxPool2d(3)
    ),
    "flatten and back": lambda: nn.Sequential(nn.Flatten(2), nn.Unflatten(2, (4, 16))),
}


@pytest.mark.parametrize("kind", HARMLESS)
def test_harmless_in_between(kind: str) -> None:
    groups = {"first": 8, "block.conv": 12, "block.next": 9, "last": 6}
    check(Net(Between(8, HARMLESS[kind]()), 9), groups, {"fc": OUTPUT})


CONVOLUTIONS: dict[str, dict[str, Any]] = {
    "circular": {"padding": 1, "padding_mode": "circular"},
    "reflected": {"padding": 1, "padding_mode": "reflect"},
    "dilated": {"dilation": 2},
    "same": {"padding": "same"},
    "stride": {"stride": 3, "bias": False},
}


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_options_of_convolutions(kind: str) -> None:
    model = Net(Between(8, nn.Conv2d(12, 12, 3, **CONVOLUTIONS[kind])), 9)
    check(model, {"first": 8, "block.conv": 12, "block.middle": 12, "block.next": 9, "last": 6}, {"fc": OUTPUT})


# What stands between two convolutions and mixes channels in a way that is not known, or computes weights.
HARMFUL: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "softmax over channels": (nn.Softmax2d, "softmax is taken over its channels"),
    "local response normalisation": (lambda: nn.LocalResponseNorm(3), "along its channels"),
    "GroupNorm without scale": (lambda: nn.GroupNorm(4, 12, affine=False), "without a scale for each"),
    "RMS over channels by hand": (lambda: RMSNorm2d(12), "mean is taken over its channels"),
    "no rule": (lambda: nn.FractionalMaxPool2d(2, output_size=4), "in a way that is not known here"),
    "LayerNorm over everything": (lambda: nn.LayerNorm([12, 8, 8]), "without a scale for each"),
}


@pytest.mark.parametrize("kind", HARMFUL)
def test_harmful_in_between(kind: str) -> None:
    make, reason = HARMFUL[kind]
    check(Net(Between(8, make()), 9), {"first": 8, "block.next": 9, "last": 6}, {"block.conv": reason, "fc": OUTPUT})


@pytest.mark.parametrize(
    "make",
    [
        lambda: Standardised(12, 12, 3, padding=1),
        lambda: nn.utils.parametrizations.weight_norm(nn.Conv2d(12, 12, 3, padding=1)),
        lambda: nn.utils.parametrizations.spectral_norm(nn.Conv2d(12, 12, 3, padding=1)),
    ],
    ids=["weight standardisation", "weight_norm", "spectral_norm"],
)
def test_computed_weights_stay_whole(make: Callable[[], nn.Module]) -> None:
    frozen = {"block.conv": COMPUTED, "block.middle": COMPUTED, "fc": OUTPUT}
    check(Net(Between(8, make()), 9), {"first": 8, "block.next": 9, "last": 6}, frozen)


def test_new_channels_that_follow_others_go_with_them() -> None:
    model = Net(Between(8, nn.Sequential(nn.Conv2d(12, 6, 1), ZeroInit())), 9)
    check(model, {"first": 8, "block.conv": 12, "block.middle.0": 6, "block.next": 9, "last": 6}, {"fc": OUTPUT})


def test_pooling_of_channels_that_come_last_in_memory() -> None:
    class ChannelsLastGate(nn.AdaptiveAvgPool2d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = x.contiguous(memory_format=torch.channels_last)
            return x * super().forward(x)

    groups = {"first": 8, "block.conv": 12, "block.next": 9, "last": 6}
    check(Net(Between(8, ChannelsLastGate(1)), 9), groups, {"fc": OUTPUT})


@pytest.mark.parametrize("make", [Flattened, Sized, ChannelsLast, Pooled])
def test_heads(make: Callable[[], nn.Module]) -> None:
    check(make(), {"conv1": 6, "conv2": 5, "fc1": 7}, {"fc2": OUTPUT})


def test_a_head_that_breaks_when_it_is_cut() -> None:
    check(WrittenDown(), {"conv1": 6, "fc1": 7}, {"conv2": BREAKS, "fc2": OUTPUT})


def test_a_head_that_breaks_when_a_single_channel_is_left() -> None:
    check(Sloppy(), {"conv1": 6, "conv2": 5, "fc1": 7}, {"fc2": OUTPUT})
