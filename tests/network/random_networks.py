"""Random networks for hypothesis: bodies of blocks in sequence, added, concatenated and gated, to any depth."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.network.networks import ConvNeXt, InvertedResidual, LayerNorm2d, Looped, images
from tests.network.odd_networks import Scaled

Draw: TypeAlias = Callable[[st.SearchStrategy[Any]], Any]
MOST = 12
"""Channels of most layers, at most."""


class Added(nn.Module):
    """The sum of bodies, one of which may be the identity."""

    def __init__(self, bodies: Sequence[nn.Module]) -> None:
        super().__init__()
        self.bodies = nn.ModuleList(bodies)

    def forward(self, x: Tensor) -> Any:
        first, *others = (body(x) for body in self.bodies)
        for other in others:
            first = first + other
        return first


class Concatenated(Added):
    """Bodies side by side."""

    def forward(self, x: Tensor) -> Any:
        return torch.cat([body(x) for body in self.bodies], 1)


class Multiplied(Added):
    """One body gated by another."""

    def forward(self, x: Tensor) -> Any:
        return self.bodies[0](x) * torch.sigmoid(self.bodies[1](x))


class Gate(nn.Module):
    """Squeeze and excitation."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.reduce, self.widen = nn.Linear(channels, hidden), nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Any:
        hidden = F.relu(self.reduce(x.mean((2, 3))))
        return x * torch.sigmoid(self.widen(hidden[:, :, None, None]))


class Swapped(nn.Module):
    """Equal parts of the channels in reverse order."""

    def __init__(self, parts: int) -> None:
        super().__init__()
        self.parts = parts

    def forward(self, x: Tensor) -> Any:
        return torch.cat(x.chunk(self.parts, 1)[::-1], 1)


class HalfThrough(nn.Module):
    """A body for one half of the channels; the other goes by."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Any:
        left, right = x.chunk(2, 1)
        return torch.cat([left, self.body(right)], 1)


class Outputs(nn.Module):
    """Several heads on the same features."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.classes, self.dense = nn.Linear(channels, 3), nn.Conv2d(channels, 2, 1)

    def forward(self, x: Tensor) -> Any:
        return {"classes": self.classes(x.amax((2, 3))), "dense": (self.dense(x),)}


def divisors(number: int) -> list[int]:
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]


def _width(draw: Draw, least: int = 2) -> int:
    return int(draw(st.integers(least, MOST)))


def _convolution(draw: Draw, channels: int, width: int) -> nn.Module:
    groups = draw(st.sampled_from([g for g in divisors(channels) if width % g == 0]))
    kernel, dilation = draw(st.sampled_from([1, 3])), draw(st.sampled_from([1, 2]))
    padding, bias = dilation * (kernel // 2), draw(st.booleans())
    return nn.Conv2d(channels, width, kernel, padding=padding, dilation=dilation, groups=groups, bias=bias)


def _norm(draw: Draw, channels: int) -> nn.Module:
    kinds: list[Callable[[], nn.Module]] = [
        lambda: nn.BatchNorm2d(channels, affine=draw(st.booleans())),
        lambda: nn.GroupNorm(draw(st.sampled_from(divisors(channels))), channels),
        lambda: LayerNorm2d(channels),
        lambda: nn.InstanceNorm2d(channels, affine=draw(st.booleans())),
        lambda: Scaled(channels),
    ]
    return draw(st.sampled_from(kinds))()  # type: ignore[no-any-return]


def _activation(draw: Draw, channels: int) -> nn.Module:
    kinds: list[Callable[[], nn.Module]] = [
        nn.ReLU,
        nn.SiLU,
        nn.Hardswish,
        lambda: nn.PReLU(channels),
        lambda: nn.PReLU(),
        lambda: nn.Dropout2d(0.1),
    ]
    return draw(st.sampled_from(kinds))()  # type: ignore[no-any-return]


def _to(draw: Draw, channels: int, width: int, depth: int) -> nn.Module:
    """A body that ends with `width` channels."""
    if channels == width and draw(st.booleans()):
        return nn.Identity()
    body, found = _body(draw, channels, depth)
    return nn.Sequential(body, _convolution(draw, found, width))


def _block(draw: Draw, channels: int, depth: int) -> tuple[nn.Module, int]:
    """Draw one block that keeps the size of images; return it and its channels."""
    kinds = ["convolution", "convolution", "norm", "activation", "depthwise", "gate", "looped", "inverted", "convnext"]
    kinds += ["swapped", "shuffled"] + (["glu", "half"] if channels % 2 == 0 else [])
    kinds += ["added", "concatenated", "multiplied"] if depth else []
    kind = draw(st.sampled_from(kinds))
    width = _width(draw)
    match kind:
        case "convolution":
            return _convolution(draw, channels, width), width
        case "norm":
            return _norm(draw, channels), channels
        case "activation":
            return _activation(draw, channels), channels
        case "depthwise":
            times = draw(st.sampled_from([1, 2]))
            return nn.Conv2d(channels, times * channels, 3, padding=1, groups=channels), times * channels
        case "gate":
            return Gate(channels, width), channels
        case "looped":
            return Looped(channels, draw(st.integers(1, 2))), channels
        case "inverted":
            return InvertedResidual(channels), channels
        case "convnext":
            return ConvNeXt(channels), channels
        case "swapped":
            return Swapped(draw(st.sampled_from(divisors(channels)))), channels
        case "shuffled":
            return nn.ChannelShuffle(draw(st.sampled_from(divisors(channels)))), channels
        case "glu":
            return nn.GLU(1), channels // 2
        case "half":
            body, found = _body(draw, channels // 2, 0)
            return HalfThrough(body), channels // 2 + found
        case "added":
            return Added([_to(draw, channels, width, depth - 1) for _ in range(2)]), width
        case "multiplied":
            return Multiplied([_to(draw, channels, width, depth - 1) for _ in range(2)]), width
        case _:
            bodies, widths = zip(*(_body(draw, channels, depth - 1) for _ in range(2)), strict=True)
            return Concatenated(bodies), sum(widths)


def _body(draw: Draw, channels: int, depth: int) -> tuple[nn.Module, int]:
    """Draw up to three blocks."""
    blocks = []
    for _ in range(draw(st.integers(1, 3))):
        block, channels = _block(draw, channels, depth)
        blocks.append(block)
    return nn.Sequential(*blocks), channels


def _scale(draw: Draw, channels: int, side: int) -> tuple[nn.Module, int, int]:
    """Draw a change of size; return it, its channels and the new side of images."""
    width = _width(draw)
    down: list[tuple[nn.Module, int, int]] = [
        (nn.MaxPool2d(2), channels, side // 2),
        (nn.AvgPool2d(2), channels, side // 2),
        (nn.Conv2d(channels, width, 3, 2, 1), width, (side + 1) // 2),
    ]
    if side % 2 == 0 and channels <= MOST:
        down.append((nn.PixelUnshuffle(2), 4 * channels, side // 2))
    up: list[tuple[nn.Module, int, int]] = [
        (nn.Upsample(scale_factor=2, mode="nearest"), channels, 2 * side),
        (nn.ConvTranspose2d(channels, width, 2, 2), width, 2 * side),
        (nn.ConvTranspose2d(channels, channels, 3, 1, 1, groups=channels), channels, side),
    ]
    groups = [g for g in divisors(channels) if width % g == 0]
    up.append((nn.ConvTranspose2d(channels, width, 3, 1, 1, groups=draw(st.sampled_from(groups))), width, side))
    if channels % 4 == 0:
        up.append((nn.PixelShuffle(2), channels // 4, 2 * side))
    options = (down if side >= 4 else []) + (up if side <= 5 else [])
    return draw(st.sampled_from(options))  # type: ignore[no-any-return]


def _head(draw: Draw, channels: int, side: int) -> nn.Module:
    width = _width(draw)
    heads: list[Callable[[], nn.Module]] = [
        lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 3)),
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(channels * side**2, width), nn.ReLU(), nn.Linear(width, 3)),
        lambda: nn.Sequential(
            nn.AdaptiveMaxPool2d(2), nn.Flatten(), nn.BatchNorm1d(4 * channels), nn.Linear(4 * channels, 2)
        ),
        lambda: nn.Conv2d(channels, 2, 3, padding=1),
        lambda: Outputs(channels),
    ]
    return draw(st.sampled_from(heads))()  # type: ignore[no-any-return]


@st.composite
def networks(draw: Draw, depth: int = 2) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """A network that begins with a convolution, and two inputs for it."""
    side, channels = draw(st.integers(4, 9)), _width(draw)
    inputs = (images(size=(side, side)),)
    parts: list[nn.Module] = [nn.Conv2d(2, channels, 3, padding=1)]
    for _ in range(draw(st.integers(1, 2))):
        body, channels = _body(draw, channels, depth)
        scale, channels, side = _scale(draw, channels, side)
        parts += [body, scale]
    return nn.Sequential(*parts, _head(draw, channels, side)), inputs
