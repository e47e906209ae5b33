import math
from collections.abc import Sequence

import pytest
import torch
from torch import nn

from evo.errors import SettingsError
from evo.network import evaluating
from evo.network.zoo import alexnet
from evo.network.zoo.alexnet import WIDTHS
from tests.network.zoo.counting import Counts, agrees, count

INPUT = (3, 227, 227)
COMPRESSED = (56, 120, 190, 188, 144, 1386, 1848)

TABLE_2 = {  # layer: size and MB, new size and MB, r_c
    "conv1": ((11, 11, 3, 96), "1.24", (11, 11, 3, 56), "0.08", "1.71"),
    "conv2": ((5, 5, 48, 256), "1.88", (5, 5, 28, 120), "0.32", "3.66"),
    "conv3": ((3, 3, 256, 384), "3.62", (3, 3, 120, 190), "0.78", "4.31"),
    "conv4": ((3, 3, 192, 384), "2.78", (3, 3, 95, 188), "0.61", "4.12"),
    # Printed are 3×3×94×144 before and 3×3×175×226 after. The first is what comes after: it has the printed 0.46 MB, fits
    # the layers around it and the total. Before it is 3×3×192×256, to which the printed 1.85 MB and the total belong.
    "conv5": ((3, 3, 192, 256), "1.85", (3, 3, 94, 144), "0.46", "3.63"),
    "fc6": ((6, 6, 256, 4096), "144", (6, 6, 144, 1386), "27.41", "5.25"),
    "fc7": ((1, 1, 4096, 4096), "64", (1, 1, 1386, 1848), "9.77", "6.55"),
    "fc8": ((1, 1, 4096, 1000), "15.62", (1, 1, 1848, 1000), "7.05", "2.22"),
}


def counted(widths: Sequence[int]) -> Counts:
    with torch.device("meta"):
        return count(alexnet(widths=list(widths)), INPUT)


@pytest.mark.parametrize("name", TABLE_2)
def test_rows_of_table_2(name: str) -> None:
    size, memory, new_size, new_memory, ratio = TABLE_2[name]
    before, after = (counted(widths).layers[name] for widths in (WIDTHS, COMPRESSED))
    assert (before.weights, after.weights) == (math.prod(size), math.prod(new_size))
    assert agrees(before.weights / after.weights, ratio)
    # In 32 bits; before, the layer's feature map is counted with its weights, after it is not.
    assert agrees(4 * (before.weights + before.outputs) / 2**20, memory)
    assert agrees(4 * after.weights / 2**20, new_memory)


def test_total_of_table_2() -> None:
    before, after = counted(WIDTHS), counted(COMPRESSED)
    assert (before.weights, after.weights) == (60_954_656, 12_186_444)
    assert f"{before.weights / after.weights:.4f}" == "5.0018"
    assert agrees(4 * before.weights / 2**20, "232.52")
    assert agrees(4 * after.weights / 2**20, "46.48")
    assert (before.params, before.macs, after.macs) == (60_965_224, 724_406_816, 216_754_668)
    # Table 1: 3.34 times faster.
    assert agrees(before.macs / after.macs, "3.34")


def test_feature_maps_of_table_4() -> None:
    """What counts are the outputs of convolutions, linear layers, ReLU and pooling."""

    def maps(widths: Sequence[int]) -> int:
        layers = counted(widths).layers.values()
        pooled = widths[0] * 27**2 + widths[1] * 13**2 + widths[4] * 6**2
        return 2 * sum(layer.outputs for layer in layers) - 1000 + pooled

    before, after = maps(WIDTHS), maps(COMPRESSED)
    assert agrees(4 * before / 2**20, "5.49")
    assert agrees(before / after, "1.88")


def test_prunable_filters() -> None:
    assert sum(WIDTHS) == 9568
    assert sum(layer.biases for layer in counted(WIDTHS).layers.values()) == 9568 + 1000


def test_local_response_norm_of_2012() -> None:
    model = alexnet(4, widths=[4, 4, 4, 4, 4, 8, 8], local_response_norm=True)
    assert count(model, INPUT).params == count(alexnet(4, widths=[4, 4, 4, 4, 4, 8, 8]), INPUT).params
    x = torch.rand(1, 4, 2, 2)
    # Krizhevsky et al., section 3.3: k = 2, α = 1e-4, β = 0.75; a channel has at most two neighbours on each side.
    sums = torch.stack([(x[0, max(0, c - 2) : c + 3] ** 2).sum(0) for c in range(4)])
    torch.testing.assert_close(model.norm(x)[0], x[0] / (2 + 1e-4 * sums) ** 0.75)
    with evaluating(model):
        assert not torch.equal(model(torch.ones(1, *INPUT)), _without_norm(model)(torch.ones(1, *INPUT)))


def _without_norm(model: nn.Module) -> nn.Module:
    plain = alexnet(4, widths=[4, 4, 4, 4, 4, 8, 8]).eval()
    plain.load_state_dict(model.state_dict())
    return plain


@pytest.mark.parametrize(
    ("widths", "message"),
    [
        ([96, 256, 384, 384, 255, 4096, 4096], "conv5 has width 255, expected an even number"),
        ([96, 256, 384], "widths has 3 entries, expected 7"),
    ],
)
def test_refused_widths(widths: list[int], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        alexnet(widths=widths)
