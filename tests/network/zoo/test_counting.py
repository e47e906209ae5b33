import torch
from torch import nn

from tests.network.zoo.counting import count


def test_layers_by_hand() -> None:
    model = nn.Sequential(
        nn.Conv2d(4, 6, (3, 5), padding=(1, 2), groups=2),
        nn.BatchNorm2d(6),
        nn.ConvTranspose2d(6, 3, 2, 2, bias=False),
        nn.Flatten(),
        nn.Linear(3 * 14 * 18, 5),
    )
    counts = count(model, (4, 7, 9))
    assert [layer.weights for layer in counts.layers.values()] == [6 * 2 * 15, 6 * 3 * 4, 5 * 756]
    assert [layer.biases for layer in counts.layers.values()] == [6, 0, 5]
    assert [layer.macs for layer in counts.layers.values()] == [6 * 2 * 15 * 63, 6 * 3 * 4 * 63, 5 * 756]
    assert [layer.outputs for layer in counts.layers.values()] == [6 * 63, 756, 5]
    assert (counts.weights, counts.macs, counts.outputs) == (4032, 11_340 + 4536 + 3780, 378 + 756 + 5)
    assert (counts.params, counts.without_norm()) == (4032 + 11 + 12, 4032 + 11)
    assert counts.normalised == 378


def test_operations_by_hand() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, bias=True), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(32, 5))
    # 2×2 outputs of 27 products and a bias, 4 per normalised value, 32 products and 31 sums.
    assert count(model, (3, 4, 4)).operations(pooling=7) == 32 * 28 + 32 * 4 + 5 * 63 + 7
    model[0], model[4] = nn.Conv2d(3, 8, 3, bias=False), nn.Linear(32, 5, bias=False)
    assert count(model, (3, 4, 4)).operations() == 32 * 27 + 32 * 4 + 5 * 63


def test_a_layer_used_twice_counts_twice_and_weighs_once() -> None:
    layer = nn.Linear(4, 4, bias=False)
    counts = count(nn.Sequential(layer, nn.ReLU(), layer), (4,))
    assert (counts.params, counts.weights, counts.macs, counts.outputs) == (16, 16, 32, 8)


def test_the_network_is_left_as_it_was() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)).train()
    model[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    count(model, (1, 5, 5))
    assert (model[0].training, model[1].training) == (True, False)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())
