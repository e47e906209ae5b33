"""ShuffleNetV2 (Ma et al. 2018): every block works on half of the channels, then all are shuffled."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from evo.errors import SettingsError
from evo.network.origin import originates
from evo.network.zoo.blocks import ConvNorm, checked_widths, initialise

WIDTHS = {
    0.5: (24, 48, 96, 192, 1024),
    1.0: (24, 116, 232, 464, 1024),
    1.5: (24, 176, 352, 704, 1024),
    2.0: (24, 244, 488, 976, 2048),
}
"""Channels of the stem, the three stages and the last convolution by the network's published multiplier (Table 5)."""

BLOCKS = (4, 8, 4)


def shuffled(x: Tensor) -> Tensor:
    """Return `x`, of shape (N, 2·C, H, W), with the channels of its two halves alternating."""
    batch, channels, height, width = x.shape
    return x.reshape(batch, 2, channels // 2, height, width).transpose(1, 2).flatten(1, 2)


def _branch(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        ConvNorm(inputs, outputs),
        ConvNorm(outputs, outputs, 3, stride, groups=outputs, activation=None),
        ConvNorm(outputs, outputs),
    )


class ShuffleBlock(nn.Module):
    """1×1, depthwise 3×3 and 1×1 convolution of one half of the channels; the other half passes. Then both are shuffled."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.branch = _branch(width // 2, width // 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output."""
        passed, changed = x.chunk(2, 1)
        return shuffled(torch.cat([passed, self.branch(changed)], 1))


class DownBlock(nn.Module):
    """Halves the image: two branches of stride 2 read all channels and give half of the outputs each, then shuffled."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        depthwise = ConvNorm(inputs, inputs, 3, 2, groups=inputs, activation=None)
        self.shortcut = nn.Sequential(depthwise, ConvNorm(inputs, width // 2))
        self.branch = _branch(inputs, width // 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output."""
        return shuffled(torch.cat([self.shortcut(x), self.branch(x)], 1))


class ShuffleNetV2(nn.Module):
    """A 3×3 stem and max pooling, three stages of 4, 8 and 4 blocks, a 1×1 convolution and a classifier.

    Input (N, in_channels, H, W), output (N, classes).
    """

    def __init__(self, widths: Sequence[int], small_input: bool, classes: int, in_channels: int) -> None:
        super().__init__()
        stem, *stages, last = widths
        self.stem = ConvNorm(in_channels, stem, 3, 1 if small_input else 2)
        self.pool = nn.Identity() if small_input else nn.MaxPool2d(3, 2, 1)
        self.blocks = nn.Sequential()
        inputs = stem
        for width, blocks in zip(stages, BLOCKS, strict=True):
            self.blocks.append(DownBlock(inputs, width))
            self.blocks.extend(ShuffleBlock(width) for _ in range(blocks - 1))
            inputs = width
        self.last = ConvNorm(inputs, last)
        self.fc = nn.Linear(last, classes)
        initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        """Return class scores."""
        x = self.blocks(self.pool(self.stem(images)))
        return self.fc(self.last(x).mean((2, 3)))  # type: ignore[no-any-return]


@originates
def shufflenet_v2(
    classes: int = 1000,
    *,
    in_channels: int = 3,
    multiplier: float = 1.0,
    small_input: bool = False,
    widths: Sequence[int] | None = None,
) -> ShuffleNetV2:
    """Return an untrained ShuffleNetV2: 2,278,604 parameters at multiplier 1.0, 1,366,792 at 0.5.

    Args:
        classes: width of the output.
        in_channels: channels of the images.
        multiplier: one of the published sizes, 0.5, 1.0, 1.5 or 2.0.
        small_input: whether the stem has stride 1 and no pooling, for images of 32×32.
        widths: channels of the stem, the three stages and the last convolution, in place of `multiplier`; those of the stages
            are even.

    Raises:
        SettingsError: `multiplier` is not a published size, or `widths` are not five positive integers, the middle ones even.
    """
    if multiplier not in WIDTHS:
        raise SettingsError(f"shufflenet_v2: multiplier is one of {', '.join(map(str, WIDTHS))}, got {multiplier}")
    checked = checked_widths("shufflenet_v2", widths, WIDTHS[multiplier])
    if any(width % 2 for width in checked[1:4]):
        raise SettingsError(f"shufflenet_v2: widths of the stages are even, got {list(checked[1:4])}")
    return ShuffleNetV2(checked, small_input, classes, in_channels)
