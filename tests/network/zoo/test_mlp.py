import pytest
import torch
from torch import nn

from evo.errors import SettingsError
from evo.network.zoo import mlp
from tests.network.zoo.counting import count


def test_counts() -> None:
    counts = count(mlp(), (7,))
    assert (counts.weights, counts.macs) == (7 * 64 + 64 * 64 + 64, 7 * 64 + 64 * 64 + 64)
    assert counts.params == counts.weights + 64 + 64 + 1


@pytest.mark.parametrize("widths", [[], [5], [9, 8, 7]])
def test_hidden_layers(widths: list[int]) -> None:
    model = mlp(2, features=3, widths=widths)
    assert [layer.out_features for layer in model.layers if isinstance(layer, nn.Linear)] == [*widths, 2]
    assert sum(isinstance(layer, nn.ReLU) for layer in model.layers) == len(widths)
    # A regression: nothing bounds the output.
    assert isinstance(model.layers[-1], nn.Linear)
    assert model(torch.rand(4, 3)).shape == (4, 2)


def test_refused_widths() -> None:
    with pytest.raises(SettingsError, match=r"mlp: widths are positive integers, got \[5, 0\]"):
        mlp(widths=[5, 0])
