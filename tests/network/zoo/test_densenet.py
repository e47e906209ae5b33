from collections.abc import Callable

import pytest
import torch
from torch import nn

from evo.errors import SettingsError
from evo.network.zoo.densenet import DenseLayer, DenseNet, densenet40, densenet_bc100, densenet_widths
from tests.network.zoo.counting import count
from tests.network.zoo.searches import searched
from tests.network.zoo.steps import assert_learns

CIFAR = (3, 32, 32)


@pytest.mark.parametrize(
    ("make", "params", "macs"),
    [
        (densenet40, 1_019_722, 264_812_928),
        (lambda: densenet40(stem=24), 1_059_298, 282_917_328),
        (densenet_bc100, 769_162, 287_929_692),
    ],
)
def test_size_to_the_unit(make: Callable[[], nn.Module], params: int, macs: int) -> None:
    with torch.device("meta"):
        counts = count(make(), CIFAR)
    assert (counts.params, counts.macs) == (params, macs)


@pytest.mark.parametrize(
    ("depth", "growth", "bottleneck", "millions"),
    [
        (40, 12, False, "1.0"),
        (100, 12, False, "7.0"),
        (100, 24, False, "27.2"),
        (100, 12, True, "0.8"),
        (250, 24, True, "15.3"),
        (190, 40, True, "25.6"),
    ],
)
def test_the_papers_table_2(depth: int, growth: int, bottleneck: bool, millions: str) -> None:
    layers = (depth - 4) // (6 if bottleneck else 3)
    widths = densenet_widths(layers, 2 * growth if bottleneck else 16, growth, bottleneck)
    with torch.device("meta"):
        model = DenseNet(widths, layers, bottleneck, 10, 3)
    assert f"{sum(parameter.numel() for parameter in model.parameters()) / 1e6:.1f}" == millions


def test_widths_are_those_of_the_convolutions_in_their_order() -> None:
    widths = [3 + index % 4 for index in range(39)]
    with torch.device("meta"):
        counts = count(densenet40(widths=widths), CIFAR)
    convolutions = [layer.module for layer in counts.layers.values() if isinstance(layer.module, nn.Conv2d)]
    assert [convolution.out_channels for convolution in convolutions] == widths


def test_every_layer_keeps_what_came_before() -> None:
    torch.manual_seed(0)
    layer = DenseLayer(16, 12).eval()
    x = torch.randn(1, 16, 5, 5)
    with torch.no_grad():
        y = layer(x)
    assert y.shape == (1, 28, 5, 5)
    assert torch.equal(y[:, :16], x)


@pytest.mark.parametrize(("make", "convolutions"), [(densenet40, 39), (densenet_bc100, 99)])
def test_they_learn_with_other_widths(make: Callable[..., DenseNet], convolutions: int) -> None:
    torch.manual_seed(0)
    widths = [3 + index % 3 for index in range(convolutions)]
    assert_learns(make(5, in_channels=2, widths=widths), (2, 16, 16), 5)


@pytest.mark.parametrize(("make", "convolutions"), [(densenet40, 39), (densenet_bc100, 99)])
def test_every_convolution_is_searched(make: Callable[..., DenseNet], convolutions: int) -> None:
    torch.manual_seed(0)
    widths = [3 + index % 3 for index in range(convolutions)]
    assert len(searched(make(widths=widths), CIFAR)) == convolutions


def test_wrong_widths_are_refused() -> None:
    with pytest.raises(SettingsError, match="densenet40: widths has 2 entries, expected 39"):
        densenet40(widths=[16, 12])
    with pytest.raises(SettingsError, match="densenet_bc100: widths are positive integers"):
        densenet_bc100(growth=0)
