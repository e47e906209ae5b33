from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from evo.errors import NetworkError, SettingsError
from evo.quantization import dequantize, pack, quantize, quantize_, represent, unpack, weight_dim

BITS = [1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 24, 31, 32]


def weights(seed: int, *shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    spread = 10 ** torch.empty(shape[0]).uniform_(-3, 3, generator=generator)  # channels of different sizes
    values = torch.randn(shape, generator=generator, dtype=torch.float64)
    return (values * spread.reshape(-1, *[1] * (len(shape) - 1))).to(dtype)


@pytest.mark.parametrize("bits", BITS[1:])
def test_one_weight_after_the_other(bits: int) -> None:
    """Against the definition, a weight at a time in Python's arithmetic."""
    weight = weights(bits, 4, 3, 2)
    integers, scales = quantize(weight, bits)
    largest = 2 ** (bits - 1) - 1
    for channel, row in enumerate(weight):
        scale = float(np.float32(float(row.abs().max()) / largest))
        assert float(scales[channel]) == scale
        expected = [max(-largest, min(largest, round(float(value) / scale))) for value in row.flatten()]
        assert integers[channel].flatten().tolist() == expected


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_types_and_ranges(bits: int, dtype: torch.dtype) -> None:
    weight = weights(0, 5, 7, 3, dtype=dtype)
    integers, scales = quantize(weight, bits)
    assert integers.dtype == (torch.int8 if bits <= 8 else torch.int16 if bits <= 16 else torch.int32)
    assert scales.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert (integers.shape, scales.shape) == (weight.shape, (5,))
    largest = max(1, 2 ** (bits - 1) - 1)
    assert integers.long().abs().flatten(1).amax(1).tolist() == [largest] * 5
    again = dequantize(integers, scales, dtype)
    assert (again.dtype, again.shape) == (dtype, weight.shape)
    if bits > 1:
        # Half a step, and the rounding of the result to its type.
        error = (again.double() - weight.double()).abs()
        assert (
            error <= scales.double()[:, None, None] / 2 * 1.001 + weight.double().abs() * torch.finfo(dtype).eps
        ).all()


def test_one_bit_is_the_closest_there_is() -> None:
    weight = weights(1, 6, 20)
    integers, scales = quantize(weight, 1)
    assert set(integers.flatten().tolist()) == {-1, 1}
    torch.testing.assert_close(scales, weight.abs().mean(1))
    error = ((dequantize(integers, scales) - weight) ** 2).sum(1)
    for factor in (0.9, 1.1):
        assert (error < ((dequantize(integers, scales * factor) - weight) ** 2).sum(1)).all()
    assert quantize(torch.tensor([[0.0, -2.0, 4.0]]), 1)[0].tolist() == [[1, -1, 1]]


def test_more_bits_are_closer() -> None:
    weight = weights(2, 8, 50)
    errors = [float((dequantize(*quantize(weight, bits)) - weight).norm()) for bits in (2, 4, 6, 8, 12)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < errors[0] / 500


@pytest.mark.parametrize("bits", BITS)
def test_channels_of_zeros_stay_zero(bits: int) -> None:
    weight = weights(3, 3, 4)
    weight[1] = 0
    again = dequantize(*quantize(weight, bits))
    assert torch.equal(again[1], torch.zeros(4))
    assert again[0].abs().sum() > 0
    tiny = torch.full((1, 2), 1e-45)  # its scale is too small for a float
    assert torch.isfinite(dequantize(*quantize(tiny, bits))).all()


def test_the_dimension_of_transposed_convolutions() -> None:
    weight = weights(4, 3, 5, 2)
    integers, scales = quantize(weight, 5, dim=1)
    swapped, same_scales = quantize(weight.transpose(0, 1), 5)
    assert torch.equal(integers, swapped.transpose(0, 1))
    assert torch.equal(scales, same_scales)
    assert torch.equal(dequantize(integers, scales, dim=1), dequantize(swapped, scales).transpose(0, 1))


@given(
    st.sampled_from(BITS),
    st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
    st.integers(0, 2**32),
    st.integers(0, 1),
)
def test_what_was_quantised_is_represented(bits: int, dtype: torch.dtype, seed: int, dim: int) -> None:
    weight = dequantize(*quantize(weights(seed, 6, 4, 3, dtype=dtype), bits, dim), dtype, dim)
    exact = represent(weight, bits, dim)
    assert exact is not None
    assert torch.equal(dequantize(*exact, dtype, dim), weight)


def test_what_was_not_quantised_is_not_represented() -> None:
    weight = weights(5, 4, 9)
    assert represent(weight, 8) is None
    quantised = dequantize(*quantize(weight, 8))
    assert represent(quantised, 8) is not None
    for wrong in (torch.nan, torch.inf, float(torch.nextafter(quantised[0, 0], torch.tensor(torch.inf)))):
        other = quantised.clone()
        other[0, 0] = wrong
        assert represent(other, 8) is None
    zeros = torch.zeros(2, 2)
    assert represent(zeros, 4) is not None
    assert represent(-zeros, 4) is None  # −0.0 would come back as 0.0
    assert represent(torch.ones(2, 2, dtype=torch.int64), 4) is None


@given(st.integers(1, 32), st.integers(1, 70), st.integers(0, 2**32))
def test_packing(bits: int, count: int, seed: int) -> None:
    integers, _ = quantize(weights(seed, count, 3), bits)
    packed = pack(integers, bits)
    assert (packed.dtype, packed.shape) == (torch.uint8, (-(-count * 3 * bits // 8),))
    again = unpack(packed, bits, (count, 3))
    assert again.dtype == integers.dtype
    assert torch.equal(again, integers)


def test_packing_in_several_parts() -> None:
    integers, _ = quantize(torch.randn(3, 300_001, generator=torch.Generator().manual_seed(0)), 5)
    assert torch.equal(unpack(pack(integers, 5), 5, (3, 300_001)), integers)


def test_what_cannot_be_unpacked() -> None:
    with pytest.raises(NetworkError, match=r"6 integers of 8 bits cannot be packed into torch\.uint8 \(5,\)"):
        unpack(torch.zeros(5, dtype=torch.uint8), 8, (2, 3))
    with pytest.raises(NetworkError, match=r"torch\.int8 \(6,\)"):
        unpack(torch.zeros(6, dtype=torch.int8), 8, (2, 3))


@pytest.mark.parametrize("bits", [0, 33, -4])
def test_bits_out_of_range(bits: int) -> None:
    with pytest.raises(SettingsError, match=f"weight bits go from 1 to 32, got {bits}"):
        quantize(torch.ones(2, 2), bits)


def test_weights_that_are_no_numbers() -> None:
    with pytest.raises(NetworkError, match="these have NaN or infinite values"):
        quantize(torch.tensor([[1.0, torch.nan]]), 4)
    with pytest.raises(NetworkError, match=r"these have torch\.int64 values"):
        quantize(torch.ones(2, 2, dtype=torch.int64), 4)


class Layers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.up = nn.ConvTranspose2d(4, 6, 2, groups=2)
        self.norm = nn.BatchNorm2d(6)
        self.fc = nn.Linear(6, 5)
        self.tied = nn.Linear(6, 5)
        self.tied.weight = self.fc.weight

    def forward(self, x: torch.Tensor) -> Any:
        return self.tied(self.norm(self.up(self.conv(x))).mean((2, 3)))


def test_layers_of_a_network() -> None:
    model = Layers()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert quantize_(model, {"conv": 3, "up": 8, "tied": 32}) is model
    expected = {
        "conv.weight": dequantize(*quantize(before["conv.weight"], 3)),
        "up.weight": dequantize(*quantize(before["up.weight"], 8, 1), dim=1),
    }
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, expected.get(name, before[name])), name
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert weight_dim(model, "up") == (model.up.weight, 1)


def test_tied_layers_are_quantised_once() -> None:
    model = Layers()
    once = dequantize(*quantize(model.fc.weight, 4))
    quantize_(model, {"fc": 4, "tied": 4})
    assert model.tied.weight is model.fc.weight
    assert torch.equal(model.fc.weight, once)


def test_layers_that_cannot_be_quantised() -> None:
    model = Layers()
    with torch.no_grad():
        model.fc.bias.fill_(torch.nan)
        model.up.weight[0] = torch.inf
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for bits, message in (
        ({"conv": 4, "cnov": 4}, "bits: unknown convolutional or linear layer 'cnov'; did you mean 'conv'"),
        ({"conv": 4, "norm": 4}, "unknown convolutional or linear layer 'norm'"),
        ({"conv": 4, "fc": 4, "tied": 5}, "tied: shares its weight with another layer, which is quantised differently"),
        ({"conv": 4, "up": 4}, "up: only finite floating-point weights can be quantised"),
    ):
        with pytest.raises(NetworkError, match=message):
            quantize_(model, bits)
    with pytest.raises(SettingsError, match="fc: weight bits go from 1 to 32, got 0"):
        quantize_(model, {"conv": 4, "fc": 0})
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor.nan_to_num(), before[name].nan_to_num()), f"{name}: half done"
    nn.utils.parametrizations.weight_norm(model.fc)
    with pytest.raises(NetworkError, match="fc: its weight is computed from other parameters"):
        quantize_(model, {"fc": 4})
