"""Small networks by hand, one for every way in which the layers of public architectures are tied to each other.

A block reads `channels` channels and produces `width`; `Net` puts a convolution before and a small head behind it.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Net(nn.Module):
    """A convolution, a block, a convolution, global pooling and a classifier, on images of shape (2, 8, 8)."""

    def __init__(self, block: nn.Module, width: int, channels: int = 8) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, channels, 3, padding=1)
        self.block = block
        self.last = nn.Conv2d(width, 6, 3, padding=1)
        self.fc = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Any:
        x = self.block(torch.relu(self.first(x)))
        return self.fc(torch.relu(self.last(x)).mean((2, 3)))


def conv_bn(channels: int, width: int, kernel: int = 3, **options: Any) -> nn.Sequential:
    """Convolution, batch normalisation, ReLU."""
    conv = nn.Conv2d(channels, width, kernel, padding=kernel // 2, bias=False, **options)
    return nn.Sequential(conv, nn.BatchNorm2d(width), nn.ReLU())


# Additions.


class Residual(nn.Module):
    """Two convolutions beside a shortcut, with a projection if the widths differ."""

    def __init__(self, channels: int, width: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width + 1, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width + 1)
        self.conv2 = nn.Conv2d(width + 1, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = nn.Conv2d(channels, width, 1, stride) if channels != width or stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Any:
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        y += self.shortcut(x)
        return F.relu(y, inplace=True)


class OptionA(nn.Module):
    """He et al.'s shortcut without parameters: every second position, new channels are zero."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, 2, 1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.new = width - channels

    def forward(self, x: Tensor) -> Any:
        y = self.conv2(torch.relu(self.conv1(x)))
        return torch.relu(y + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.new // 2, self.new - self.new // 2)))


class Looped(nn.Module):
    """The same convolution several times, as in a recurrent residual network."""

    def __init__(self, channels: int, times: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.times = times

    def forward(self, x: Tensor) -> Any:
        for _ in range(self.times):
            x = x + torch.relu(self.conv(x))
        return x


class TiedWeights(nn.Module):
    """Two modules with one weight."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.enter = nn.Conv2d(channels, 5, 1)
        self.one = nn.Conv2d(5, 5, 3, padding=1)
        self.two = nn.Conv2d(5, 5, 3, padding=1)
        self.two.weight = self.one.weight

    def forward(self, x: Tensor) -> Any:
        return torch.relu(self.two(torch.relu(self.one(torch.relu(self.enter(x))))))


# Concatenations.


class Inception(nn.Module):
    """Four branches side by side; width 3 + 4 + 5 + 2."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.one = nn.Conv2d(channels, 3, 1)
        self.three = nn.Sequential(nn.Conv2d(channels, 5, 1), nn.ReLU(), nn.Conv2d(5, 4, 3, padding=1))
        self.five = nn.Sequential(nn.Conv2d(channels, 3, 1), nn.ReLU(), nn.Conv2d(3, 5, 5, padding=2))
        self.pool = nn.Sequential(nn.MaxPool2d(3, 1, 1), nn.Conv2d(channels, 2, 1))

    def forward(self, x: Tensor) -> Any:
        return torch.relu(torch.cat([self.one(x), self.three(x), self.five(x), self.pool(x)], 1))


class Dense(nn.Module):
    """Every layer reads everything before it; width channels + layers · growth."""

    def __init__(self, channels: int, growth: int = 3, layers: int = 3) -> None:
        super().__init__()
        widths = [channels + index * growth for index in range(layers)]
        self.layers = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, growth, 3, padding=1)) for width in widths
        )

    def forward(self, x: Tensor) -> Any:
        for layer in self.layers:
            x = torch.cat([x, layer(x)], 1)
        return x


class Fire(nn.Module):
    """SqueezeNet: squeeze, then expand twice; width 2 · 5."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, 4, 1)
        self.expand1 = nn.Conv2d(4, 5, 1)
        self.expand3 = nn.Conv2d(4, 5, 3, padding=1)

    def forward(self, x: Tensor) -> Any:
        x = F.relu(self.squeeze(x), inplace=True)
        return F.relu(torch.cat((self.expand1(x), self.expand3(x)), dim=1), inplace=True)


class OneShot(nn.Module):
    """VoVNet's one-shot aggregation: all layers concatenated once, then reduced, with a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([conv_bn(channels, 4), conv_bn(4, 4), conv_bn(4, 4)])
        self.reduce = nn.Conv2d(channels + 12, channels, 1)

    def forward(self, x: Tensor) -> Any:
        found = [x]
        for layer in self.layers:
            found.append(layer(found[-1]))
        return self.reduce(torch.cat(found, 1)) + x


class UNet(nn.Module):
    """Down, up, and a skip across."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.down = nn.Conv2d(channels, 10, 3, 2, 1)
        self.deep = nn.Conv2d(10, 7, 3, padding=1)
        self.up = nn.ConvTranspose2d(7, 5, 2, 2)
        self.join = nn.Conv2d(5 + channels, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Any:
        y = self.up(torch.relu(self.deep(torch.relu(self.down(x)))))
        return torch.relu(self.join(torch.cat([y, x], 1)))


# Grouped and depthwise convolutions, splits and shuffles.


class ResNeXt(nn.Module):
    """A bottleneck with a grouped convolution and a shortcut."""

    def __init__(self, channels: int, groups: int = 4, each: int = 3) -> None:
        super().__init__()
        self.enter = conv_bn(channels, groups * each, 1)
        self.grouped = conv_bn(groups * each, groups * each, 3, groups=groups)
        self.leave = nn.Conv2d(groups * each, channels, 1)

    def forward(self, x: Tensor) -> Any:
        return torch.relu(x + self.leave(self.grouped(self.enter(x))))


class TwoTowers(nn.Module):
    """AlexNet's layers on two cards: grouped convolutions one after the other, then a dense one. Width 10."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.one = nn.Conv2d(channels, 12, 3, padding=1, groups=2)
        self.two = nn.Conv2d(12, 6, 3, padding=1, groups=2)
        self.both = nn.Conv2d(6, 10, 3, padding=1)

    def forward(self, x: Tensor) -> Any:
        return torch.relu(self.both(torch.relu(self.two(torch.relu(self.one(x))))))


class InvertedResidual(nn.Module):
    """MobileNetV2: widen, filter each channel, narrow, add."""

    def __init__(self, channels: int, widen: int = 2) -> None:
        super().__init__()
        hidden = channels * widen
        self.widen = nn.Sequential(nn.Conv2d(channels, hidden, 1, bias=False), nn.BatchNorm2d(hidden), nn.ReLU6())
        self.each = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden, bias=False)
        self.norm = nn.BatchNorm2d(hidden)
        self.narrow = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Any:
        return x + self.narrow(F.hardswish(self.norm(self.each(self.widen(x)))))


class Multiplied(nn.Module):
    """A depthwise convolution with several filters for every channel; width multiplier · channels."""

    def __init__(self, channels: int, multiplier: int = 2) -> None:
        super().__init__()
        self.each = nn.Conv2d(channels, multiplier * channels, 3, padding=1, groups=channels)

    def forward(self, x: Tensor) -> Any:
        return torch.relu(self.each(x))


class Shuffle(nn.Module):
    """ShuffleNetV2: half of the channels goes through, then both halves are interleaved.

    `how` is "chunk", "sizes" (slices with sizes written down), or "module" (nn.ChannelShuffle).
    """

    def __init__(self, channels: int, how: str) -> None:
        super().__init__()
        half = channels // 2
        self.how, self.left = how, half
        self.pad = nn.Conv2d(channels, channels, 1)
        self.branch = nn.Sequential(
            *conv_bn(half, half, 1), nn.Conv2d(half, half, 3, padding=1, groups=half), *conv_bn(half, half, 1)
        )
        self.shuffle = nn.ChannelShuffle(2)

    def forward(self, x: Tensor) -> Any:
        x = torch.relu(self.pad(x))
        left, right = (x[:, : self.left], x[:, self.left :]) if self.how == "sizes" else x.chunk(2, 1)
        x = torch.cat([left, self.branch(right)], 1)
        if self.how == "module":
            return self.shuffle(x)
        batch, channels, height, width = x.shape
        return (
            x.view(batch, 2, channels // 2, height, width).transpose(1, 2).contiguous().view(batch, -1, height, width)
        )


# Gates and attention.


class SqueezeExcite(nn.Module):
    """Channels scaled by what a small network says of their means; linear layers or 1×1 convolutions."""

    def __init__(self, channels: int, linear: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 7, 3, padding=1)
        self.linear = linear
        self.reduce: nn.Module = nn.Linear(7, 4) if linear else nn.Conv2d(7, 4, 1)
        self.widen: nn.Module = nn.Linear(4, 7) if linear else nn.Conv2d(4, 7, 1)

    def forward(self, x: Tensor) -> Any:
        x = self.conv(x)
        mean = F.adaptive_avg_pool2d(x, 1)
        if self.linear:
            gate = torch.sigmoid(self.widen(torch.relu(self.reduce(mean.flatten(1)))))
            return x * gate.view(*gate.shape, 1, 1)
        return x * F.hardsigmoid(self.widen(torch.relu(self.reduce(mean))))


class GatedHalves(nn.Module):
    """One half of the channels gates the other; by F.glu or written out."""

    def __init__(self, channels: int, written: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 10, 3, padding=1)
        self.written = written

    def forward(self, x: Tensor) -> Any:
        x = self.conv(x)
        if self.written:
            value, gate = torch.split(x, x.shape[1] // 2, 1)
            return value * gate.sigmoid()
        return F.glu(x, 1)


class SpatialAttention(nn.Module):
    """CBAM's second half: a map made of the mean and the maximum over the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 7, 3, padding=1)
        self.attend = nn.Conv2d(2, 1, 5, padding=2)

    def forward(self, x: Tensor) -> Any:
        x = torch.relu(self.conv(x))
        both = torch.cat([x.mean(1, keepdim=True), x.max(1, keepdim=True)[0]], 1)
        return x * torch.sigmoid(self.attend(both))


class SelectiveKernel(nn.Module):
    """Two branches weighted against each other by a softmax over the branches."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList([nn.Conv2d(channels, 7, 3, padding=1), nn.Conv2d(channels, 7, 5, padding=2)])
        self.squeeze = nn.Linear(7, 4)
        self.attend = nn.ModuleList([nn.Linear(4, 7), nn.Linear(4, 7)])

    def forward(self, x: Tensor) -> Any:
        maps = torch.stack([torch.relu(branch(x)) for branch in self.branches], 1)
        hidden = torch.relu(self.squeeze(maps.sum(1).mean((-1, -2))))
        weights = torch.stack([attend(hidden) for attend in self.attend], 1).softmax(1)
        return (maps * weights[..., None, None]).sum(1)


class Transformer(nn.Module):
    """Attention over positions, then a linear network for each; `how` is "module", "einsum" or "fused"."""

    def __init__(self, channels: int, how: str, heads: int = 2) -> None:
        super().__init__()
        self.how, self.heads = how, heads
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        if how == "module":
            self.attention = nn.MultiheadAttention(channels, heads, batch_first=True)
        else:
            self.qkv = nn.Linear(channels, 3 * channels)
            self.project = nn.Linear(channels, channels)
        self.fc1, self.fc2 = nn.Linear(channels, 12), nn.Linear(12, channels)

    def attend(self, x: Tensor) -> Any:
        if self.how == "module":
            return self.attention(x, x, x, need_weights=False)[0]
        batch, positions, channels = x.shape
        qkv = self.qkv(x).view(batch, positions, 3, self.heads, channels // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        if self.how == "fused":
            mixed = F.scaled_dot_product_attention(q, k, v)
        else:
            scores = torch.einsum("bhqd,bhkd->bhqk", q, k) * (channels // self.heads) ** -0.5
            mixed = torch.einsum("bhqk,bhkd->bhqd", scores.softmax(-1), v)
        return self.project(mixed.transpose(1, 2).reshape(batch, positions, channels))

    def forward(self, x: Tensor) -> Any:
        batch, channels, height, width = x.shape
        x = x.flatten(2).transpose(1, 2)
        x = x + self.attend(self.norm1(x))
        x = x + self.fc2(F.gelu(self.fc1(self.norm2(x))))
        return x.transpose(1, 2).reshape(batch, channels, height, width)


# Upwards.


class Up(nn.Module):
    """A transposed convolution: plain, grouped or depthwise. Width 8."""

    def __init__(self, channels: int, groups: int = 1) -> None:
        super().__init__()
        self.enter = nn.Conv2d(channels, 8, 3, 2, 1)
        self.up = nn.ConvTranspose2d(8, 8, 3, 2, 1, 1, groups=groups)
        self.norm = nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Any:
        return torch.relu(self.norm(self.up(torch.relu(self.enter(x)))))


class PixelShuffle(nn.Module):
    """Channels become positions; by the module or by a reshape. Width 3."""

    def __init__(self, channels: int, written: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 12, 3, padding=1)
        self.shuffle = nn.PixelShuffle(2)
        self.written = written

    def forward(self, x: Tensor) -> Any:
        x = torch.relu(self.conv(x))
        if not self.written:
            return self.shuffle(x)
        batch, channels, height, width = x.shape
        x = x.reshape(batch, channels // 4, 2, 2, height, width).permute(0, 1, 4, 2, 5, 3)
        return x.reshape(batch, channels // 4, 2 * height, 2 * width)


class PixelUnshuffle(nn.Module):
    """Positions become channels; by the module or by a reshape. Width 20."""

    def __init__(self, channels: int, written: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 5, 3, padding=1)
        self.unshuffle = nn.PixelUnshuffle(2)
        self.written = written

    def forward(self, x: Tensor) -> Any:
        x = torch.relu(self.conv(x))
        if not self.written:
            return self.unshuffle(x)
        batch, channels, height, width = x.shape
        x = x.reshape(batch, channels, height // 2, 2, width // 2, 2).permute(0, 1, 3, 5, 2, 4)
        return x.reshape(batch, channels * 4, height // 2, width // 2)


# Normalisation and activations.


class Between(nn.Module):
    """Something between two convolutions; width 9."""

    def __init__(self, channels: int, middle: nn.Module, width: int = 12) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, width, 3, padding=1)
        self.middle = middle
        self.next = nn.Conv2d(width, 9, 3, padding=1)

    def forward(self, x: Tensor) -> Any:
        return torch.relu(self.next(self.middle(self.conv(x))))


class LayerNorm2d(nn.LayerNorm):
    """ConvNeXt's: over the channels of an image, with sizes noted in the module."""

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)
        return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps).permute(0, 3, 1, 2)


class ConvNeXt(nn.Module):
    """Depthwise convolution, LayerNorm with channels last, two linear layers, LayerScale, shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.each = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.fc1, self.fc2 = nn.Linear(channels, 14), nn.Linear(14, channels)
        self.scale = nn.Parameter(torch.full((channels,), 0.5))

    def forward(self, x: Tensor) -> Any:
        y = self.norm(self.each(x).permute(0, 2, 3, 1))
        y = self.scale * self.fc2(F.gelu(self.fc1(y)))
        return x + y.permute(0, 3, 1, 2)


class Standardised(nn.Conv2d):
    """Weight standardisation: every filter has mean 0 and variance 1."""

    def forward(self, x: Tensor) -> Tensor:
        mean = self.weight.mean((1, 2, 3), keepdim=True)
        spread = self.weight.std((1, 2, 3), keepdim=True) + 1e-5
        return F.conv2d(x, (self.weight - mean) / spread, self.bias, self.stride, self.padding)


# Heads: what comes after the last convolution.


class Head(nn.Module):
    """Two convolutions on images of shape (2, 8, 8), then one of many ways to a classifier."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(2, 6, 3, padding=1)
        self.conv2 = nn.Conv2d(6, 5, 3, 2, 1)
        self.fc1 = nn.Linear(features, 7)
        self.fc2 = nn.Linear(7, 3)

    def join(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Any:
        x = torch.relu(self.conv2(torch.relu(self.conv1(x))))
        return self.fc2(torch.relu(self.fc1(self.join(x))))


class Flattened(Head):
    def __init__(self) -> None:
        super().__init__(80)

    def join(self, x: Tensor) -> Tensor:
        return torch.flatten(x, 1)


class Sized(Flattened):
    def join(self, x: Tensor) -> Tensor:
        return x.view(x.size(0), -1)


class WrittenDown(Flattened):
    def join(self, x: Tensor) -> Tensor:
        return x.view(-1, 5 * 4 * 4)


class Pooled(Head):
    def __init__(self) -> None:
        super().__init__(20)

    def join(self, x: Tensor) -> Tensor:
        return F.adaptive_max_pool2d(x, 2).flatten(1)


class Sloppy(Head):
    def __init__(self) -> None:
        super().__init__(5)

    def join(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, x.shape[-1]).squeeze()


class ChannelsLast(Flattened):
    def join(self, x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1).reshape(len(x), -1)


def images(batch: int = 2, channels: int = 2, size: Sequence[int] = (8, 8), seed: int = 0) -> Tensor:
    """Random images."""
    return torch.randn(batch, channels, *size, generator=torch.Generator().manual_seed(seed))
