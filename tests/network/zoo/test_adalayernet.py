import torch

from evo.network.zoo import adalayernet
from tests.network.zoo.counting import count


def test_the_papers_parameters_per_layer() -> None:
    # Its table prints them in thousands. The ninth layer is ours: the paper counts no classifier.
    layers = list(count(adalayernet(), (3, 32, 32)).layers.values())
    assert [layer.weights + layer.biases for layer in layers] == [
        864,
        18_432,
        73_728,
        147_456,
        294_912,
        589_824,
        131_584,
        131_328,
        2_570,
    ]
    assert [bool(layer.biases) for layer in layers] == [False] * 6 + [True] * 3


def test_totals() -> None:
    counts = count(adalayernet(), (3, 32, 32))
    assert (counts.params, counts.without_norm(), counts.macs) == (1_392_426, 1_390_698, 133_270_016)


def test_pooling_is_after_every_second_convolution() -> None:
    layers = count(adalayernet(), (3, 32, 32)).layers
    filters = (32, 64, 128, 128, 256, 256)
    sides = [round((layers[f"conv{index}"].outputs / filters[index - 1]) ** 0.5) for index in range(1, 7)]
    assert sides == [32, 32, 16, 16, 8, 8]


def test_widths() -> None:
    model = adalayernet(4, in_channels=1, widths=[2, 3, 4, 5, 6, 7, 8, 9]).eval()
    assert [parameter.shape[0] for parameter in model.parameters() if parameter.dim() > 1] == [
        2,
        3,
        4,
        5,
        6,
        7,
        8,
        9,
        4,
    ]
    assert model(torch.rand(2, 1, 8, 8)).shape == (2, 4)
