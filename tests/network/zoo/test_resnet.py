import re
from collections.abc import Callable

import pytest
import torch

from evo.errors import SettingsError
from evo.network.zoo import CifarResNet, ResNet, resnet18, resnet20, resnet50, resnet56, resnet110
from evo.network.zoo.cifar_resnet import BasicBlock, Shortcut
from tests.network.zoo.counting import Counts, agrees, count

SMALL, LARGE = (3, 32, 32), (3, 224, 224)


def counted(factory: Callable[..., CifarResNet | ResNet], shape: tuple[int, int, int], shortcut: str = "") -> Counts:
    with torch.device("meta"):
        return count(factory(shortcut=shortcut) if shortcut else factory(), shape)


@pytest.mark.parametrize(
    ("factory", "shortcut", "params", "macs"),
    [
        (resnet20, "A", 269_722, 40_551_040),  # He et al., Table 6: 0.27 million, 0.85 and 1.7 for the others
        (resnet20, "B", 272_474, 40_813_184),
        (resnet56, "A", 853_018, 125_485_696),
        (resnet56, "B", 855_770, 125_747_840),
        (resnet110, "A", 1_727_962, 252_887_680),
        (resnet110, "B", 1_730_714, 253_149_824),
    ],
)
def test_exact_counts(factory: Callable[..., CifarResNet], shortcut: str, params: int, macs: int) -> None:
    counts = counted(factory, SMALL, shortcut)
    assert (counts.params, counts.macs) == (params, macs)


def test_resnet56_against_the_figures_of_fnp() -> None:
    counts = counted(resnet56, SMALL)
    assert (counts.normalised, counts.without_norm()) == (532_480, 848_954)
    assert f"{counts.params / 1e6:.2f} {counts.without_norm() / 1e6:.2f}" == "0.85 0.85"
    # 127.62 million: an average pooling of 8×8 adds 65 operations per channel.
    assert counts.operations(pooling=65 * 64) == 127_620_406
    # In multiply-accumulates alone it is 2.13 million (1.7 %) less; projections would print 127.93.
    assert 127_620_000 - counts.macs == 2_134_304
    assert f"{counted(resnet56, SMALL, 'B').operations(pooling=65 * 64) / 1e6:.2f}" == "127.93"


def test_resnet110_against_the_figure_of_fnp() -> None:
    # 1.72 million is without batch normalisation, or 1.727962 million cut off; ResNet-50 speaks for the first.
    counts = counted(resnet110, SMALL)
    assert f"{counts.without_norm() / 1e6:.2f} {counts.params / 1e6:.2f}" == "1.72 1.73"


def test_resnet50_against_the_figures_of_fnp() -> None:
    counts = counted(resnet50, LARGE)
    assert (counts.params, counts.weights, counts.macs) == (25_557_032, 25_502_912, 4_089_184_256)
    # 25.50 million: without batch normalisation. All parameters are 25.56.
    assert counts.without_norm() == 25_503_912
    # 4135.70 million: an average pooling given 7 as its size adds 8 operations per channel, as the tool forgot the square.
    assert counts.operations(pooling=8 * 2048) == 4_135_703_576
    assert f"{counts.operations(pooling=50 * 2048) / 1e6:.2f}" == "4135.79"
    # In multiply-accumulates alone it is 46.5 million (1.1 %) less.
    assert 4_135_700_000 - counts.macs == 46_515_744


def test_resnet50s_feature_maps_in_table_4_of_ecs() -> None:
    """137.25 MB are the outputs of convolutions, normalisation, ReLU, additions and pooling where the 1×1 has the stride."""
    layers = counted(resnet50, LARGE).layers
    outputs = {name: layer.outputs for name, layer in layers.items()}
    for stage in (2, 3, 4):
        outputs[f"layer{stage}.0.conv1"] //= 4
    convolutions = sum(value for name, value in outputs.items() if name != "fc")
    shortcuts = sum(value for name, value in outputs.items() if "downsample" in name)
    additions = sum(value for name, value in outputs.items() if "conv3" in name)
    pooled = 64 * 56**2 + 2048
    maps = 2 * convolutions + (convolutions - shortcuts) + additions + pooled + outputs["fc"]
    assert agrees(4 * maps / 2**20, "137.25")


def test_resnet18() -> None:
    counts = counted(resnet18, LARGE)
    assert (counts.params, counts.weights, counts.macs) == (11_689_512, 11_678_912, 1_814_073_344)


def test_parameters_have_torchvisions_names() -> None:
    with torch.device("meta"):
        small, large = resnet18().state_dict(), resnet50().state_dict()
    assert (len(small), len(large)) == (122, 320)
    assert small["layer4.1.bn2.running_mean"].shape == (512,)
    assert large["layer3.0.downsample.0.weight"].shape == (1024, 512, 1, 1)
    assert large["layer3.0.downsample.1.num_batches_tracked"].shape == ()
    assert large["layer4.2.conv2.weight"].shape == (512, 512, 3, 3)
    assert {name.partition(".")[0] for name in large} == {"conv1", "bn1", "layer1", "layer2", "layer3", "layer4", "fc"}
    assert "layer1.0.downsample.0.weight" in large
    assert "layer1.0.downsample.0.weight" not in small


def test_the_stride_is_in_the_3x3_convolution() -> None:
    layers = counted(resnet50, LARGE).layers
    sides = [(layers[f"layer2.0.{name}"].outputs // width) ** 0.5 for name, width in (("conv1", 128), ("conv2", 128))]
    assert sides == [56, 28]


def test_shortcut_a_appends_zeros_to_every_second_pixel() -> None:
    block = BasicBlock(3, 5, 7, 2, "A").eval()
    torch.nn.init.zeros_(block.conv2.weight)
    x = torch.rand(2, 3, 6, 6)
    y = block(x)
    assert torch.equal(y[:, :3], x[:, :, ::2, ::2])
    assert y.shape == (2, 7, 3, 3)
    assert not y[:, 3:].any()
    assert not any("shortcut" in name for name in block.state_dict())


@pytest.mark.parametrize("shortcut", ["A", "B"])
def test_the_same_basic_blocks_narrower(shortcut: Shortcut) -> None:
    inner = [3, 4, 5, 6, 7, 8, 9, 10, 11]
    model = resnet20(width=[5, 9, 17], inner=inner, shortcut=shortcut).eval()
    assert filters(model, "conv1")[1:] == inner
    assert filters(model, "conv2") == [5] * 3 + [9] * 3 + [17] * 3
    assert model(torch.rand(2, *SMALL)).shape == (2, 10)


def test_the_same_bottlenecks_narrower() -> None:
    model = resnet50(5, width=[6, 8, 12, 16, 20], inner=list(range(1, 33))).eval()
    assert filters(model, "conv1") == [6, *range(1, 33, 2)]
    assert filters(model, "conv2") == [*range(2, 33, 2)]
    assert filters(model, "conv3") == [8] * 3 + [12] * 4 + [16] * 6 + [20] * 3
    assert model(torch.rand(2, 3, 64, 64)).shape == (2, 5)


def filters(model: CifarResNet | ResNet, layer: str) -> list[int]:
    """Return the filters of every layer of that name, in order."""
    return [value.shape[0] for name, value in model.state_dict().items() if name.endswith(f"{layer}.weight")]


def test_one_width_scales_everything() -> None:
    assert count(resnet20(width=8), SMALL).weights == count(resnet20(width=[8, 16, 32]), SMALL).weights
    with torch.device("meta"):
        assert count(resnet50(width=16), LARGE).params == count(resnet50(width=[16, 64, 128, 256, 512]), LARGE).params


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: resnet20(width=0), "resnet20: widths are positive integers"),
        (lambda: resnet56(width=[16, 32]), "resnet56: widths has 2 entries, expected 3"),
        (lambda: resnet110(inner=[16] * 9), "resnet110, inner: widths has 9 entries, expected 54"),
        (lambda: resnet56(width=[16, 32, 31]), "resnet56: width is [16, 32, 31], expected no stage narrower"),
        (lambda: resnet20(shortcut=_unknown()), "resnet20: shortcut is 'C', expected 'A' or 'B'"),
        (lambda: resnet18(width=[64]), "resnet18: widths has 1 entries, expected 5"),
        (lambda: resnet50(inner=[64]), "resnet50, inner: widths has 1 entries, expected 32"),
    ],
)
def test_refused_arguments(make: Callable[[], object], message: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(message)):
        make()


def _unknown() -> Shortcut:
    shortcut: Shortcut = "C"  # type: ignore[assignment]
    return shortcut
