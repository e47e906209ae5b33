"""The ResNet of Channel-Bench-Macro (Su et al. 2021, BCNet): seven free widths, every combination of which was trained."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from evo.network.origin import originates
from evo.network.zoo.blocks import ConvNorm, checked_widths, initialise

WIDEST = (256, 256, 256, 512, 512, 512, 512)
"""Widths of the widest network; digit d of an architecture's name stands for d quarters of it."""


class Block(nn.Module):
    """Two 3×3 convolutions, ReLU after the second once the input is added, which happens where the shapes are the same."""

    def __init__(self, inputs: int, inner: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = ConvNorm(inputs, inner, 3, stride)
        self.conv2 = ConvNorm(inner, outputs, 3, activation=None)
        self.residual = stride == 1

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output."""
        y = self.conv2(self.conv1(x))
        return torch.relu(x + y if self.residual else y)


class ChannelBench(nn.Module):
    """A stem of stride 2, two residual blocks, a block of stride 2 without shortcut, two residual blocks, a classifier.

    The widths c0 … c6 are the network's seven coupling groups, in this order: c0 the stem and the outputs of the first two
    blocks; c1, c2 inside these; c3 inside the third; c4 the outputs of the third to fifth; c5, c6 inside the last two.
    Input (N, in_channels, H, W), output (N, classes). The widest has 15,356,170 parameters and 1,436,226,560
    multiply-accumulates at 32×32.
    """

    def __init__(self, widths: Sequence[int], classes: int, in_channels: int) -> None:
        super().__init__()
        c0, c1, c2, c3, c4, c5, c6 = widths
        self.stem = ConvNorm(in_channels, c0, 3, 2)
        self.block1 = Block(c0, c1, c0)
        self.block2 = Block(c0, c2, c0)
        self.block3 = Block(c0, c3, c4, 2)
        self.block4 = Block(c4, c5, c4)
        self.block5 = Block(c4, c6, c4)
        self.fc = nn.Linear(c4, classes)
        initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        """Return class scores."""
        x = self.block2(self.block1(self.stem(images)))
        x = self.block5(self.block4(self.block3(x)))
        return self.fc(x.mean((2, 3)))  # type: ignore[no-any-return]


@originates
def channel_bench(widths: Sequence[int] | None = None, classes: int = 10, *, in_channels: int = 3) -> ChannelBench:
    """Return an untrained network of Channel-Bench-Macro's ResNet space.

    Args:
        widths: c0 … c6, seven positive integers; `WIDEST` by default. The benchmark has all combinations of d / 4 of these
            with d from 1 to 4.
        classes: width of the output.
        in_channels: channels of the images.

    Raises:
        SettingsError: there are not seven widths, or one is not positive.
    """
    return ChannelBench(checked_widths("channel_bench", widths, WIDEST), classes, in_channels)
