import math
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import nn

from evo.errors import SettingsError
from evo.network.zoo import vgg16, vgg16_cifar, vgg19, vgg19_cifar
from evo.network.zoo.vgg import HIDDEN, STAGES_16, VGG, conv_widths
from tests.network.zoo.counting import Counts, agrees, count

COMPRESSED = [12, 28, 57, 61, 133, 127, 137, 194, 119, 320, 72, 62, 122, 2300, 125]

TABLE_3 = {  # layer: size and MB, new size and MB, r_c
    "conv1_1": ((3, 3, 3, 64), "12.26", (3, 3, 3, 12), "0.001", "5.33"),
    "conv1_2": ((3, 3, 64, 64), "12.39", (3, 3, 12, 28), "0.01", "12.19"),
    "conv2_1": ((3, 3, 64, 128), "6.41", (3, 3, 28, 57), "0.05", "5.13"),
    "conv2_2": ((3, 3, 128, 128), "6.69", (3, 3, 57, 61), "0.12", "4.71"),
    "conv3_1": ((3, 3, 128, 256), "4.19", (3, 3, 61, 133), "0.28", "4.04"),
    "conv3_2": ((3, 3, 256, 256), "5.31", (3, 3, 133, 127), "0.58", "3.88"),
    # Printed are 3×3×256×512 here and 3×3×512×512 below; the printed MB, r_c and total belong to what is right.
    "conv3_3": ((3, 3, 256, 256), "5.31", (3, 3, 127, 137), "0.60", "3.77"),
    "conv4_1": ((3, 3, 256, 512), "6.03", (3, 3, 137, 194), "0.91", "4.93"),
    "conv4_2": ((3, 3, 512, 512), "10.53", (3, 3, 194, 119), "0.79", "11.36"),
    "conv4_3": ((3, 3, 512, 512), "10.53", (3, 3, 119, 320), "1.31", "6.88"),
    "conv5_1": ((3, 3, 512, 512), "9.38", (3, 3, 320, 72), "0.79", "11.38"),
    "conv5_2": ((3, 3, 512, 512), "9.38", (3, 3, 72, 62), "0.15", "58.72"),
    "conv5_3": ((3, 3, 512, 512), "9.38", (3, 3, 62, 122), "0.26", "34.66"),
    "fc6": ((7, 7, 512, 4096), "392", (7, 7, 122, 2300), "52.45", "7.47"),
    "fc7": ((1, 1, 4096, 4096), "64", (1, 1, 2300, 125), "1.09", "58.36"),
    "fc8": ((1, 1, 4096, 1000), "15.62", (1, 1, 125, 1000), "0.48", "32.77"),
}


def counted(widths: list[int] | None = None) -> Counts:
    with torch.device("meta"):
        return count(vgg16(widths=widths), (3, 224, 224))


@pytest.mark.parametrize("index", range(16), ids=list(TABLE_3))
def test_rows_of_table_3(index: int) -> None:
    size, memory, new_size, new_memory, ratio = list(TABLE_3.values())[index]
    before, after = (list(counted(widths).layers.values())[index] for widths in (None, COMPRESSED))
    assert (before.weights, after.weights) == (math.prod(size), math.prod(new_size))
    assert agrees(before.weights / after.weights, ratio)
    # In 32 bits; before, the layer's feature map is counted with its weights, after it is not.
    assert agrees(4 * (before.weights + before.outputs) / 2**20, memory)
    assert agrees(4 * after.weights / 2**20, new_memory)


def test_total_of_table_3() -> None:
    before, after = counted(), counted(COMPRESSED)
    assert len(before.layers) == len(TABLE_3)
    # Printed is 20,118,610 after, which contradicts the rows and the 59.88 MB and 8.81 that are printed next to it.
    assert (before.weights, after.weights) == (138_344_128, 15_697_840)
    assert f"{before.weights / after.weights:.4f}" == "8.8129"
    assert agrees(4 * (before.weights + before.outputs) / 2**20, "579.46")
    assert agrees(4 * after.weights / 2**20, "59.88")
    # Table 1: 5.88 times faster.
    assert (before.macs, after.macs) == (15_470_264_320, 2_632_636_444)
    assert f"{before.macs / after.macs:.4f}" == "5.8763"
    assert before.params == 138_357_544


def test_feature_maps_of_table_4() -> None:
    """What counts are the outputs of convolutions, linear layers, ReLU and pooling."""

    def maps(widths: Sequence[int]) -> int:
        layers = counted(list(widths)).layers.values()
        pooled = sum(widths[i] * side**2 for i, side in ((1, 112), (3, 56), (6, 28), (9, 14), (12, 7)))
        return 2 * sum(layer.outputs for layer in layers) - 1000 + pooled

    before, after = maps((*conv_widths(STAGES_16), *HIDDEN)), maps(COMPRESSED)
    assert agrees(4 * before / 2**20, "109.26")
    assert agrees(before / after, "2.54")


def test_vgg16_cifar_against_the_figures_of_fnp() -> None:
    counts = count(vgg16_cifar(), (3, 32, 32))
    assert (counts.params, counts.weights, counts.macs) == (14_728_266, 14_715_584, 313_201_664)
    assert f"{counts.params / 1e6:.2f}" == "14.73"
    # All parameters; neither without batch normalisation nor without the biases before it.
    assert f"{counts.without_norm() / 1e6:.2f}" == "14.72"
    assert f"{(counts.params - sum(conv_widths(STAGES_16))) / 1e6:.2f}" == "14.72"
    # 314.59 million: ABCPruner's network ends with an average pooling of size 1, two operations per channel.
    assert counts.operations(pooling=2 * 512) == 314_590_198
    # In multiply-accumulates alone it is 1.39 million (0.44 %) less.
    assert 314_590_000 - counts.macs == 1_388_336


def test_vgg19() -> None:
    with torch.device("meta"):
        large, small = count(vgg19(), (3, 224, 224)), count(vgg19_cifar(), (3, 32, 32))
    assert (large.params, large.weights, large.macs) == (143_667_240, 143_652_544, 19_632_062_464)
    assert (small.params, small.weights, small.macs) == (20_040_522, 20_024_000, 398_136_320)


def test_parameters_have_torchvisions_names() -> None:
    with torch.device("meta"):
        plain, normalised = vgg16().state_dict(), vgg16(batch_norm=True).state_dict()
    assert (len(plain), len(normalised)) == (32, 97)
    assert plain["features.28.weight"].shape == normalised["features.40.weight"].shape == (512, 512, 3, 3)
    assert normalised["features.41.running_var"].shape == (512,)
    assert [plain[f"classifier.{index}.weight"].shape[0] for index in (0, 3, 6)] == [4096, 4096, 1000]


def test_maps_are_averaged_to_the_size_the_linear_layers_read() -> None:
    model = vgg16(3, widths=[4] * 13 + [6, 5]).eval()
    images = torch.rand(2, 3, 64, 64)
    maps = model.features(images)
    assert maps.shape == (2, 4, 2, 2)
    averaged = nn.functional.adaptive_avg_pool2d(maps, 7)
    torch.testing.assert_close(model(images), model.classifier(averaged.flatten(1)))
    natural = torch.rand(2, 4, 7, 7)
    assert torch.equal(model.avgpool(natural), natural)


@pytest.mark.parametrize(("factory", "expected"), [(vgg16, 15), (vgg19, 18), (vgg16_cifar, 13), (vgg19_cifar, 16)])
def test_refused_widths(factory: Callable[..., VGG], expected: int) -> None:
    with pytest.raises(SettingsError, match=f"{factory.__name__}: widths has 2 entries, expected {expected}"):
        factory(widths=[64, 64])
    with pytest.raises(SettingsError, match=f"{factory.__name__}: widths are positive integers"):
        factory(widths=[0] * expected)
