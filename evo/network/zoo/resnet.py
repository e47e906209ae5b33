"""Residual networks for ImageNet (He et al. 2016, section 4.1), with torchvision's names, whose weights they can load."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from evo.network.origin import originates
from evo.network.zoo.blocks import checked_widths, initialise


class BuildingBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut, with torchvision's names. `inner` has the filters of the first."""

    convolutions = 1
    expansion = 1

    def __init__(self, inputs: int, inner: Sequence[int], outputs: int, stride: int) -> None:
        super().__init__()
        (width,) = inner
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = _projection(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output."""
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.downsample(x))


class Bottleneck(nn.Module):
    """1×1, 3×3 and 1×1 convolution and a shortcut, with torchvision's names. `inner` has the filters of the first two.

    The 3×3 convolution has the stride (torchvision's "v1.5"; the paper has it in the 1×1 before).
    """

    convolutions = 2
    expansion = 4

    def __init__(self, inputs: int, inner: Sequence[int], outputs: int, stride: int) -> None:
        super().__init__()
        first, second = inner
        self.conv1 = nn.Conv2d(inputs, first, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(first)
        self.conv2 = nn.Conv2d(first, second, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(second)
        self.conv3 = nn.Conv2d(second, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample = _projection(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output."""
        y = torch.relu(self.bn1(self.conv1(x)))
        y = torch.relu(self.bn2(self.conv2(y)))
        return torch.relu(self.bn3(self.conv3(y)) + self.downsample(x))


class ResNet(nn.Module):
    """A 7×7 stem, 3×3 maximum pooling, four stages of blocks, all but the first at half the size, and a classifier.

    `widths` has the stem's filters and the outputs of the four stages, `inner` the filters of the convolutions inside every
    block. Input (N, in_channels, H, W), output (N, classes). Parameters have torchvision's names.
    """

    def __init__(
        self,
        block: type[BuildingBlock] | type[Bottleneck],
        blocks: Sequence[int],
        widths: Sequence[int],
        inner: Sequence[int],
        classes: int,
        *,
        in_channels: int,
    ) -> None:
        super().__init__()
        inputs, *stage_widths = widths
        self.conv1 = nn.Conv2d(in_channels, inputs, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(inputs)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        stages: list[nn.Sequential] = []
        remaining = list(inner)
        for stage, (depth, outputs) in enumerate(zip(blocks, stage_widths, strict=True)):
            units: list[nn.Module] = []
            for index in range(depth):
                mine, remaining = remaining[: block.convolutions], remaining[block.convolutions :]
                units.append(block(inputs, mine, outputs, 2 if stage and not index else 1))
                inputs = outputs
            stages.append(nn.Sequential(*units))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.fc = nn.Linear(inputs, classes)
        initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        """Return class scores."""
        x = self.maxpool(torch.relu(self.bn1(self.conv1(images))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(x.mean((2, 3)))  # type: ignore[no-any-return]


def _projection(inputs: int, outputs: int, stride: int) -> nn.Module:
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


def _network(
    block: type[BuildingBlock] | type[Bottleneck],
    depths: Sequence[int],
    classes: int,
    in_channels: int,
    width: int | Sequence[int],
    inner: Sequence[int] | None,
) -> ResNet:
    name = f"resnet{2 + (block.convolutions + 1) * sum(depths)}"
    original = (1, *(block.expansion * 2**stage for stage in range(4)))
    widths = checked_widths(name, [width * times for times in original] if isinstance(width, int) else width, original)
    repeats = [depth * block.convolutions for depth in depths]
    usual = [
        outputs // block.expansion for outputs, times in zip(widths[1:], repeats, strict=True) for _ in range(times)
    ]
    inside = checked_widths(f"{name}, inner", inner, usual)
    return ResNet(block, depths, widths, inside, classes, in_channels=in_channels)


@originates
def resnet18(
    classes: int = 1000, *, in_channels: int = 3, width: int | Sequence[int] = 64, inner: Sequence[int] | None = None
) -> ResNet:
    """Return an untrained ResNet-18 for ImageNet.

    For 1,000 classes it has 11,689,512 parameters and, at 224×224, 1,814,073,344 multiply-accumulates.

    Args:
        classes: width of the output.
        in_channels: channels of the images.
        width: filters of the stem, of which the four stages have 1, 2, 4 and 8 times as many; or a list of all five.
        inner: filters of the first convolution in each of the eight blocks; as many as the stage has channels by default.

    Raises:
        SettingsError: a list has the wrong length, or a width is not positive.
    """
    return _network(BuildingBlock, (2, 2, 2, 2), classes, in_channels, width, inner)


@originates
def resnet50(
    classes: int = 1000, *, in_channels: int = 3, width: int | Sequence[int] = 64, inner: Sequence[int] | None = None
) -> ResNet:
    """Return an untrained ResNet-50 for ImageNet.

    For 1,000 classes it has 25,557,032 parameters and, at 224×224, 4,089,184,256 multiply-accumulates. FNP (Tables 5 and 7)
    prints 25.50 M and 4135.70 M. The first is 25,503,912, batch normalisation left out, or 25,502,912 weights without the
    classifier's biases. The second is how early versions of the tool `thop` count, 4,135,703,576: to the
    multiply-accumulates it adds four per value that batch normalisation reads (44,455,936), for the linear layer its sums
    (2,047,000), and eight per output of an average pooling of size 7 (16,384).

    Args:
        classes: width of the output.
        in_channels: channels of the images.
        width: filters of the stem, of which the four stages have 4, 8, 16 and 32 times as many; or a list of all five.
        inner: filters of the first and second convolution in each of the sixteen blocks, one block after the other: 32
            numbers, what FNP searches; a quarter of the stage's channels by default.

    Raises:
        SettingsError: a list has the wrong length, or a width is not positive.
    """
    return _network(Bottleneck, (3, 4, 6, 3), classes, in_channels, width, inner)
