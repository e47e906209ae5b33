"""Uniform symmetric quantisation of weights, one scale per output channel: Q_B of AdaLayerNet eq. 4."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from evo.blueprint import FULL_BITS
from evo.errors import NetworkError, SettingsError, unknown_name

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
QUANTISABLE = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, *TRANSPOSED)
"""Layers whose weights can have bits."""

_CHUNK = 1 << 18
"""Integers packed at once, a multiple of 8: packing takes 32 bytes for each."""
_SAME_SIZE = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def quantize(weight: Tensor, bits: int, dim: int = 0) -> tuple[Tensor, Tensor]:
    """Return `weight` as integers and one scale per output channel; their product is the quantised weight.

    With 2 bits or more the largest magnitude of a channel becomes ±(2^(bits−1)−1) and the others are rounded to the nearest
    integer, ties to even. One bit keeps the sign, 0 counting as positive, and the scale is the channel's mean magnitude,
    which is closest in the least-squares sense (Rastegari et al. 2016, XNOR-Net, eq. 6). A channel of zeros stays zero.

    >>> integers, scales = quantize(torch.tensor([[0.7, -0.2, 0.1]]), bits=4)
    >>> integers.tolist(), round(scales.item(), 3)
    ([[7, -2, 1]], 0.1)

    Args:
        weight: floating point, any shape with at least one dimension.
        bits: 1 to 32.
        dim: dimension of the output channels: 0, or 1 for transposed convolutions.

    Returns:
        The integers, in the shape of `weight`, int8 up to 8 bits, int16 up to 16, int32 above; and the scales, shape
        (weight.shape[dim],), float32, or float64 if the weight is.

    Raises:
        SettingsError: `bits` is out of range.
        NetworkError: the weight is not floating point, or not finite.
    """
    if not 1 <= bits <= FULL_BITS:
        raise SettingsError(f"weight bits go from 1 to {FULL_BITS}, got {bits}")
    if not weight.is_floating_point() or not torch.isfinite(weight).all():
        what = "NaN or infinite values" if weight.is_floating_point() else f"{weight.dtype} values"
        raise NetworkError(f"only finite floating-point weights can be quantised, these have {what}")
    magnitudes = _rows(weight, dim).abs()
    scales = magnitudes.mean(1) if bits == 1 else magnitudes.amax(1) / _largest(bits)
    scales = scales.to(_scale_type(weight))
    return _nearest(weight, scales, bits, dim), scales


def dequantize(integers: Tensor, scales: Tensor, dtype: torch.dtype = torch.float32, dim: int = 0) -> Tensor:
    """Return integers · scales, shape of `integers`; the product is taken in float64 and rounded once to `dtype`."""
    return (integers.double() * _along(scales, integers, dim)).to(dtype)


def represent(weight: Tensor, bits: int, dim: int = 0) -> tuple[Tensor, Tensor] | None:
    """Return the integers and scales that dequantise to `weight` bit for bit, None if there are none.

    There are for every weight that `dequantize` made from a result of `quantize` with the same arguments.
    """
    if not weight.is_floating_point() or not torch.isfinite(weight).all():
        return None
    guess = (_rows(weight, dim).abs().amax(1) / _largest(bits)).to(_scale_type(weight))
    scales, found = guess.clone(), torch.zeros_like(guess, dtype=torch.bool)
    # Rounding the largest weight to its type may have moved it away from a multiple of the scale, but by too little to move
    # the scale that it gives further than to a neighbouring number.
    for candidate in (guess, *(torch.nextafter(guess, torch.full_like(guess, end)) for end in (0.0, torch.inf))):
        again = dequantize(_nearest(weight, candidate, bits, dim), candidate, weight.dtype, dim)
        same = _bit_rows(again, dim).eq(_bit_rows(weight, dim)).all(1) & ~found
        scales[same], found = candidate[same], found | same
    return (_nearest(weight, scales, bits, dim), scales) if found.all() else None


def quantize_(model: nn.Module, bits: Mapping[str, int]) -> nn.Module:
    """Replace the weights of the named layers by their dequantised values, in place, and return `model`.

    Args:
        model: its convolutional and linear layers can have bits.
        bits: 1 to 32, by dotted layer name; with 32 a layer keeps its weights.

    Raises:
        SettingsError: bits are out of range.
        NetworkError: there is no such layer, it has no weight of its own that could be quantised, or two layers that share
            a weight want it differently.
    """
    rounded: dict[nn.Parameter, Tensor] = {}
    for weight, (name, count, dim) in quantized_weights(model, bits).items():
        try:
            rounded[weight] = dequantize(*quantize(weight, count, dim), weight.dtype, dim)
        except (NetworkError, SettingsError) as error:
            raise type(error)(f"{name}: {error}") from None
    with torch.no_grad():
        for weight, values in rounded.items():
            weight.copy_(values)
    return model


def quantized_weights(model: nn.Module, bits: Mapping[str, int]) -> dict[nn.Parameter, tuple[str, int, int]]:
    """Return the weights that bits by dotted layer name quantise, each with layer, bits and dimension of its outputs.

    Raises:
        NetworkError: as `quantize_`.
        SettingsError: bits are out of range.
    """
    found: dict[nn.Parameter, tuple[str, int, int]] = {}
    for name, count in bits.items():
        weight, dim = weight_dim(model, name)
        if not 1 <= count <= FULL_BITS:
            raise SettingsError(f"{name}: weight bits go from 1 to {FULL_BITS}, got {count}")
        if found.setdefault(weight, (name, count, dim))[1:] != (count, dim):
            raise NetworkError(f"{name}: shares its weight with another layer, which is quantised differently")
    return {weight: entry for weight, entry in found.items() if entry[1] < FULL_BITS}


def weight_dim(model: nn.Module, name: str) -> tuple[nn.Parameter, int]:
    """Return the weight of the layer `name` of `model`, and the dimension of its output channels.

    A grouped transposed convolution has out_channels / groups of them: one scale serves that channel of every group.

    Raises:
        NetworkError: there is no such layer, or it has no weight of its own that could be quantised.
    """
    layers = {found: module for found, module in model.named_modules() if isinstance(module, QUANTISABLE)}
    if name not in layers:
        raise NetworkError(f"bits: {unknown_name('convolutional or linear layer', name, layers)}")
    weight = layers[name]._parameters.get("weight")
    if not isinstance(weight, nn.Parameter):
        raise NetworkError(f"{name}: its weight is computed from other parameters, only a plain one can be quantised")
    return weight, 1 if isinstance(layers[name], TRANSPOSED) else 0


def pack(integers: Tensor, bits: int) -> Tensor:
    """Return the bits of the `integers` that `quantize` made, one after the other, as uint8, shape (⌈n · bits / 8⌉,)."""
    flat = integers.flatten().numpy()
    parts = []
    for start in range(0, len(flat), _CHUNK):
        part = flat[start : start + _CHUNK].astype(np.int64)
        unsigned = (part > 0) if bits == 1 else part + _largest(bits)
        digits = np.unpackbits(unsigned.astype(">u4").view(np.uint8).reshape(-1, 4), axis=1)[:, 32 - bits :]
        parts.append(np.packbits(digits))
    return torch.from_numpy(np.concatenate(parts))


def unpack(packed: Tensor, bits: int, shape: tuple[int, ...]) -> Tensor:
    """Return the integers of this shape that `pack` packed, in the type that `quantize` gives them.

    Raises:
        NetworkError: their number is not that of the packed bits.
    """
    count = int(np.prod(shape))
    if packed.dtype != torch.uint8 or packed.shape != (-(-count * bits // 8),):
        raise NetworkError(
            f"{count} integers of {bits} bits cannot be packed into {packed.dtype} {tuple(packed.shape)}"
        )
    flat = np.empty(count, dtype=np.int64)
    step = _CHUNK * bits // 8
    for start, first in zip(range(0, len(packed), step), range(0, count, _CHUNK), strict=True):
        size = min(_CHUNK, count - first)
        digits = np.zeros((size, 32), dtype=np.uint8)
        digits[:, 32 - bits :] = np.unpackbits(packed[start : start + step].numpy(), count=size * bits).reshape(
            size, bits
        )
        unsigned = np.packbits(digits, axis=1).view(">u4").reshape(-1).astype(np.int64)
        flat[first : first + size] = 2 * unsigned - 1 if bits == 1 else unsigned - _largest(bits)
    return torch.from_numpy(flat).reshape(shape).to(_integer_type(bits))


def _largest(bits: int) -> int:
    """Return the largest integer: 2^(bits−1) − 1, so that the range is symmetric; 1 for one bit."""
    return max(1, (1 << (bits - 1)) - 1)


def _scale_type(weight: Tensor) -> torch.dtype:
    return torch.float64 if weight.dtype == torch.float64 else torch.float32


def _integer_type(bits: int) -> torch.dtype:
    return torch.int8 if bits <= 8 else torch.int16 if bits <= 16 else torch.int32


def _rows(weight: Tensor, dim: int) -> Tensor:
    """Return `weight` in float64, one row per output channel."""
    return (
        weight.detach().double().movedim(dim, 0).flatten(1) if weight.dim() > 1 else weight.detach().double()[:, None]
    )


def _bit_rows(weight: Tensor, dim: int) -> Tensor:
    """Return the bits of `weight` as integers, one row per output channel: 0.0 and −0.0 differ."""
    bits = weight.detach().contiguous().view(_SAME_SIZE[weight.element_size()])
    return bits.movedim(dim, 0).reshape(weight.shape[dim], -1)


def _along(scales: Tensor, weight: Tensor, dim: int) -> Tensor:
    """Return `scales` in float64, shaped to be multiplied with `weight`."""
    return scales.double().reshape([-1 if index == dim else 1 for index in range(weight.dim())])


def _nearest(weight: Tensor, scales: Tensor, bits: int, dim: int) -> Tensor:
    """Return the integers closest to weight / scales."""
    values, steps = weight.detach().double(), _along(scales, weight, dim)
    if bits == 1:
        integers = torch.where(values < 0, -1, 1)
    else:
        # A scale is 0 if its channel is, or too small for the scale's type.
        integers = (values / torch.where(steps == 0, torch.inf, steps)).round().clamp(-_largest(bits), _largest(bits))
    return integers.to(_integer_type(bits))
