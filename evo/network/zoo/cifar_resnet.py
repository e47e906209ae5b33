"""Residual networks for 32×32 images (He et al. 2016, section 4.2): depth 6n+2, stages of 16, 32 and 64 channels."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from evo.errors import SettingsError
from evo.network.origin import originates
from evo.network.zoo.blocks import checked_widths, initialise

Shortcut = Literal["A", "B"]
"""How a block's input gets the shape of its output (section 3.3): A has no weights, B is a projection."""


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut, for small images.

    Where the shape changes, shortcut A takes every `stride`-th pixel and appends channels of zeros, as many as the output
    has more; shortcut B is a 1×1 convolution with batch normalisation. Input (N, inputs, H, W), output (N, outputs,
    ⌈H / stride⌉, ⌈W / stride⌉).
    """

    def __init__(self, inputs: int, inner: int, outputs: int, stride: int, shortcut: Shortcut = "B") -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, inner, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride = stride
        self.padded = shortcut == "A" and (stride != 1 or inputs != outputs)
        self.shortcut: nn.Module = nn.Identity()
        if not self.padded and (stride != 1 or inputs != outputs):
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output."""
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        x = self.shortcut(x)
        if self.padded:
            # Read off y, so that it stays right when channels are cut.
            more = y.shape[1] - x.shape[1]
            x = nn.functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, more))
        return torch.relu(y + x)


class CifarResNet(nn.Module):
    """A 3×3 stem, three stages of basic blocks, the second and third at half the size, and a classifier.

    `widths` has the stages' outputs, the first of which is the stem's too, `inner` the filters of every block's first
    convolution. Input (N, in_channels, H, W), output (N, classes).
    """

    def __init__(
        self, widths: Sequence[int], inner: Sequence[int], classes: int, *, in_channels: int, shortcut: Shortcut
    ) -> None:
        super().__init__()
        inputs = widths[0]
        self.conv1 = nn.Conv2d(in_channels, inputs, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inputs)
        stages: list[nn.Sequential] = []
        blocks = len(inner) // 3
        for stage, outputs in enumerate(widths):
            units = []
            for index, width in enumerate(inner[stage * blocks : (stage + 1) * blocks]):
                units.append(BasicBlock(inputs, width, outputs, 2 if stage and not index else 1, shortcut))
                inputs = outputs
            stages.append(nn.Sequential(*units))
        self.layer1, self.layer2, self.layer3 = stages
        self.fc = nn.Linear(inputs, classes)
        initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        """Return class scores."""
        x = torch.relu(self.bn1(self.conv1(images)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(x.mean((2, 3)))  # type: ignore[no-any-return]


def _network(
    depth: int,
    classes: int,
    in_channels: int,
    width: int | Sequence[int],
    inner: Sequence[int] | None,
    shortcut: Shortcut,
) -> CifarResNet:
    name = f"resnet{depth}"
    blocks = (depth - 2) // 6
    stages = [width, 2 * width, 4 * width] if isinstance(width, int) else width
    widths = checked_widths(name, stages, (16, 32, 64))
    inside = checked_widths(f"{name}, inner", inner, [outputs for outputs in widths for _ in range(blocks)])
    if shortcut not in ("A", "B"):
        raise SettingsError(f"{name}: shortcut is {shortcut!r}, expected 'A' or 'B'")
    if shortcut == "A" and sorted(widths) != list(widths):
        raise SettingsError(
            f"{name}: width is {list(widths)}, expected no stage narrower than the one before: "
            "shortcut A can only append channels"
        )
    return CifarResNet(widths, inside, classes, in_channels=in_channels, shortcut=shortcut)


@originates
def resnet20(
    classes: int = 10,
    *,
    in_channels: int = 3,
    width: int | Sequence[int] = 16,
    inner: Sequence[int] | None = None,
    shortcut: Shortcut = "B",
) -> CifarResNet:
    """Return an untrained ResNet-20 for small images.

    For ten classes it has 272,474 parameters and, at 32×32, 40,813,184 multiply-accumulates; with shortcut A, as in the paper
    (Table 6: 0.27 million), 269,722 and 40,551,040.

    Args:
        classes: width of the output.
        in_channels: channels of the images.
        width: channels of the first stage, of which the others have twice and four times as many; or a list of all three.
        inner: filters of the first convolution in each of the nine blocks; as many as the stage has channels by default.
        shortcut: "A" or "B", see `BasicBlock`.

    Raises:
        SettingsError: a list has the wrong length, a width is not positive, the shortcut does not exist, or it is A and a
            stage is narrower than the one before.
    """
    return _network(20, classes, in_channels, width, inner, shortcut)


@originates
def resnet56(
    classes: int = 10,
    *,
    in_channels: int = 3,
    width: int | Sequence[int] = 16,
    inner: Sequence[int] | None = None,
    shortcut: Shortcut = "A",
) -> CifarResNet:
    """Return an untrained ResNet-56 for small images.

    For ten classes it has 853,018 parameters and, at 32×32, 125,485,696 multiply-accumulates (B: 855,770 and 125,747,840).
    FNP (Tables 2 and 6) prints 0.85 M and 127.62 M. The first is the same with and without batch normalisation (848,954). The
    second is how early versions of the tool `thop` count, 127,620,406: to the multiply-accumulates it adds four per value
    that batch normalisation reads (2,129,920), for the linear layer its sums (630), and 65 per output of the average
    pooling (4,160). B would make it 127.93 M.

    Args:
        classes: width of the output.
        in_channels: channels of the images.
        width: channels of the first stage, of which the others have twice and four times as many; or a list of all three.
        inner: filters of the first convolution in each of the 27 blocks, what FNP searches; as many as the stage has
            channels by default.
        shortcut: "A" or "B", see `BasicBlock`.

    Raises:
        SettingsError: as for `resnet20`.
    """
    return _network(56, classes, in_channels, width, inner, shortcut)


@originates
def resnet110(
    classes: int = 10,
    *,
    in_channels: int = 3,
    width: int | Sequence[int] = 16,
    inner: Sequence[int] | None = None,
    shortcut: Shortcut = "A",
) -> CifarResNet:
    """Return an untrained ResNet-110 for small images.

    For ten classes it has 1,727,962 parameters and, at 32×32, 252,887,680 multiply-accumulates (B: 1,730,714 and
    253,149,824). FNP (Table 3) prints 1.72 M, which is 1,719,866: batch normalisation left out.

    Args:
        classes: width of the output.
        in_channels: channels of the images.
        width: channels of the first stage, of which the others have twice and four times as many; or a list of all three.
        inner: filters of the first convolution in each of the 54 blocks, what FNP searches; as many as the stage has
            channels by default.
        shortcut: "A" or "B", see `BasicBlock`.

    Raises:
        SettingsError: as for `resnet20`.
    """
    return _network(110, classes, in_channels, width, inner, shortcut)
