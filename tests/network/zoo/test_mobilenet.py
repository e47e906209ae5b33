from collections.abc import Callable

import pytest
import torch
from torch import nn

from evo.errors import SettingsError
from evo.network.zoo.mobilenet import InvertedResidual, mobilenet_v1, mobilenet_v2
from tests.network.zoo.counting import count
from tests.network.zoo.searches import searched
from tests.network.zoo.steps import assert_learns

BOTH = pytest.mark.parametrize("make", [mobilenet_v1, mobilenet_v2])


# Howard et al. (2017, Table 6) print 569, 325, 149 and 41 million multiply-accumulates and 4.2, 2.6, 1.3 and 0.5 million
# parameters. V2 has torchvision's parameters; Sandler et al. (2018, Table 4) print 300 and 585 million, 3.4 and 6.9 million.
@pytest.mark.parametrize(
    ("make", "multiplier", "params", "macs"),
    [
        (mobilenet_v1, 1.0, 4_231_976, 568_740_352),
        (mobilenet_v1, 0.75, 2_585_560, 325_400_448),
        (mobilenet_v1, 0.5, 1_331_592, 149_497_088),
        (mobilenet_v1, 0.25, 470_072, 41_030_272),
        (mobilenet_v2, 1.0, 3_504_872, 300_774_272),
        (mobilenet_v2, 1.4, 6_108_776, 582_195_824),
        (mobilenet_v2, 0.5, 1_968_680, 97_131_840),
    ],
)
def test_size_to_the_unit(make: Callable[..., nn.Module], multiplier: float, params: int, macs: int) -> None:
    with torch.device("meta"):
        counts = count(make(multiplier=multiplier), (3, 224, 224))
    assert (counts.params, counts.macs) == (params, macs)


@pytest.mark.parametrize(
    ("make", "params", "macs"),
    [(mobilenet_v1, 3_217_226, 46_354_432), (mobilenet_v2, 2_236_682, 87_976_448)],
)
def test_size_for_small_images(make: Callable[..., nn.Module], params: int, macs: int) -> None:
    with torch.device("meta"):
        counts = count(make(10, small_input=True), (3, 32, 32))
    assert (counts.params, counts.macs) == (params, macs)


@pytest.mark.parametrize(("make", "side"), [(mobilenet_v1, 2), (mobilenet_v2, 4)])
def test_small_images_keep_some_space(make: Callable[..., nn.Module], side: int) -> None:
    with torch.device("meta"):
        counts = count(make(10, small_input=True), (3, 32, 32))
    last = list(counts.layers.values())[-2]
    assert last.outputs // last.module.get_parameter("weight").shape[0] == side**2


@BOTH
def test_they_learn_at_another_width(make: Callable[..., nn.Module]) -> None:
    torch.manual_seed(0)
    assert_learns(make(5, in_channels=2, multiplier=0.25, small_input=True), (2, 32, 32), 5)


@pytest.mark.parametrize(("make", "groups"), [(mobilenet_v1, 1 + 13), (mobilenet_v2, 1 + 7 + 16 + 1)])
def test_every_width_is_searched(make: Callable[..., nn.Module], groups: int) -> None:
    # Depthwise convolutions share their channels with what they read. V2: stem, stages, insides of all blocks but the first,
    # which does not expand, and the last convolution.
    torch.manual_seed(0)
    assert len(searched(make(multiplier=0.5, small_input=True), (3, 32, 32))) == groups


def test_the_input_is_added_only_where_shapes_are_the_same() -> None:
    with torch.device("meta"):
        blocks = [module for module in mobilenet_v2().modules() if isinstance(module, InvertedResidual)]
    assert "".join("+" if block.residual else "." for block in blocks) == "..+.++.+++.++.++."


@BOTH
def test_no_width_is_refused(make: Callable[..., nn.Module]) -> None:
    with pytest.raises(SettingsError, match=f"{make.__name__}: multiplier is positive, got 0"):
        make(multiplier=0)
