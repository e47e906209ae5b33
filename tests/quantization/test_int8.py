"""Networks that compute in 8-bit integers: what their weights are, how close they come, and what is refused."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.ao.nn import quantized

import evo
from evo.errors import NetworkError
from evo.network.latency import latency
from evo.quantization.int8 import int8
from evo.quantization.uniform import represent


@pytest.fixture(scope="module")
def low_bit(digits_task: evo.Task) -> nn.Module:
    """The digits network with weights of 3, 4, 8 and 1 bits, batch-norm scales of both signs."""
    network = digits_task.network
    model = network.build(network.full.with_bits({"0": 3, "4": 4, "9": 8, "11": 6}))
    with torch.no_grad():
        model.get_parameter("1.weight")[::2] *= -1
        model.get_parameter("1.bias")[::2] *= -1
        weight = model.get_parameter("0.weight")
        weight[::2] = 0.0 - weight[::2]  # unlike a product with −1 that leaves zeros as they are
    return model


def converted_layers(model: nn.Module) -> dict[str, nn.Module]:
    kinds = (quantized.Conv1d, quantized.Conv2d, quantized.Linear)
    return {name: module for name, module in model.named_modules() if isinstance(module, kinds)}


def test_every_layer_multiplies_the_very_integers_of_its_weight(digits_task: evo.Task, low_bit: nn.Module) -> None:
    converted = int8(low_bit, digits_task.train.x[:200])
    layers = converted_layers(converted)
    assert layers.keys() == {"0", "4", "9", "11"}
    for name, bits in {"0": 3, "4": 4, "9": 8, "11": 6}.items():
        found = represent(low_bit.get_parameter(f"{name}.weight").detach(), bits)
        assert found is not None
        weight = layers[name].weight()  # type: ignore[operator]
        assert weight.dtype == torch.qint8
        # A negative batch-norm scale that is folded into a filter turns its sign.
        torch.testing.assert_close(weight.int_repr().abs(), found[0].abs())
        assert int(weight.int_repr().abs().max()) == (1 << (bits - 1)) - 1
    assert not [module for module in converted.modules() if isinstance(module, nn.Conv2d | nn.Linear | nn.BatchNorm2d)]


def test_it_is_nearly_as_accurate_and_leaves_the_original_alone(digits_task: evo.Task, low_bit: nn.Module) -> None:
    before, engine = copy.deepcopy(low_bit.state_dict()), torch.backends.quantized.engine
    converted = int8(low_bit, digits_task.train.x[:200], batch_size=64)
    torch.testing.assert_close(low_bit.state_dict(), before, rtol=0, atol=0)
    assert torch.backends.quantized.engine == engine
    with torch.no_grad():
        ours, theirs = (model(digits_task.val.x).argmax(1) for model in (converted, low_bit))
    assert (ours == theirs).float().mean() > 0.96
    assert abs(evo.error_rate(converted, digits_task.val) - evo.error_rate(low_bit, digits_task.val)) < 0.02
    assert latency(converted, digits_task.val.x, seconds=0.1).median > 0, "it runs wherever networks are measured"


def test_weights_on_no_grid_are_rounded_to_eight_bits(digits_task: evo.Task) -> None:
    whole = digits_task.network.build(digits_task.network.full)
    converted = int8(whole, digits_task.train.x[:200])
    assert int(converted_layers(converted)["9"].weight().int_repr().abs().max()) == 127  # type: ignore[operator]
    assert abs(evo.error_rate(converted, digits_task.val) - evo.error_rate(whole, digits_task.val)) < 0.02


class Branches(nn.Module):
    """Adds and joins branches, as residual and dense networks do; one layer keeps a single bit."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.head = nn.Linear(8, 3)

    def forward(self, images: Tensor) -> Tensor:
        x = self.first(images).relu()
        joined = torch.cat([x + self.second(x), x], 1).relu()
        return self.head(joined.mean((2, 3)))  # type: ignore[no-any-return]


def test_branches_and_a_layer_of_one_bit() -> None:
    torch.manual_seed(0)
    model = Branches().eval()
    with torch.no_grad():
        model.second.weight.copy_(model.second.weight.sign() * 0.25)
    images = torch.rand(64, 1, 6, 6)
    converted = int8(model, images)
    layers = converted_layers(converted)
    assert layers.keys() == {"first", "second", "head"}
    assert layers["second"].weight().int_repr().unique().tolist() == [-1, 1]  # type: ignore[operator]
    with torch.no_grad():
        error = (converted(images) - model(images)).abs().max() / model(images).abs().max()
    assert error < 0.05


class Undecided(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) if x.sum() > 0 else self.layer(-x)  # type: ignore[no-any-return]


class Depthwise(nn.Module):
    """Averages the maps of a depthwise convolution, which may be of 1×1."""

    def __init__(self) -> None:
        super().__init__()
        self.deep, self.point = nn.Conv2d(16, 16, 3, groups=16), nn.Conv2d(16, 8, 1)
        self.head = nn.Linear(8, 3)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.point(self.deep(images).relu())
        return self.head(maps.mean((2, 3)) + torch.mean(maps, (2, 3)))  # type: ignore[no-any-return]


@pytest.mark.parametrize("side", [3, 8])
def test_maps_of_any_size_are_averaged(side: int) -> None:
    torch.manual_seed(0)
    model, images = Depthwise().eval(), torch.rand(64, 16, side, side)
    converted = int8(model, images)
    with torch.no_grad():
        error = (converted(images) - model(images)).abs().max() / model(images).abs().max()
    assert error < 0.05
    assert converted_layers(converted).keys() == {"deep", "point", "head"}


@pytest.mark.parametrize(
    ("model", "images", "sentence"),
    [
        (nn.ReLU(), torch.rand(2, 4), "ReLU has no convolutional or linear layer"),
        (
            nn.ConvTranspose2d(1, 2, 3),
            torch.rand(2, 1, 4, 4),
            "torch has no integer kernel for transposed convolutions",
        ),
        (Undecided(), torch.rand(2, 4), "Undecided cannot be converted to 8-bit integers: "),
        (nn.Linear(4, 2), torch.rand(0, 4), "int8: expected images of real numbers to calibrate with"),
        (nn.Linear(4, 2), torch.ones(2, 4, dtype=torch.int64), "int8: expected images of real numbers"),
        (nn.Linear(4, 2), torch.rand(2, 5), "Linear cannot be converted to 8-bit integers: "),
    ],
)
def test_what_cannot_be_converted_is_refused(model: nn.Module, images: Tensor, sentence: str) -> None:
    with pytest.raises(NetworkError, match=sentence):
        int8(model, images)
