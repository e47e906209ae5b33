"""DenseNets for 32×32 images (Huang et al. 2017): every layer reads the concatenated outputs of all before it."""

from collections.abc import Sequence
from itertools import islice

import torch
from torch import Tensor, nn

from evo.network.origin import originates
from evo.network.zoo.blocks import checked_widths, initialise

STAGES = 3


class NormReluConv(nn.Sequential):
    """Batch normalisation, ReLU, convolution without bias: DenseNet's order."""

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(inputs)
        self.relu = nn.ReLU()
        self.conv = nn.Conv2d(inputs, outputs, kernel, 1, kernel // 2, bias=False)


class DenseLayer(nn.Module):
    """3×3 convolution, in a bottleneck network after a 1×1 one; its output is put behind its input."""

    def __init__(self, inputs: int, *widths: int) -> None:
        """Take the filters of the last convolution, before it those of the 1×1 convolution if there is one."""
        super().__init__()
        self.layers = nn.Sequential()
        self.outputs = inputs + widths[-1]
        for width, kernel in zip(widths, (1, 3)[-len(widths) :], strict=True):
            self.layers.append(NormReluConv(inputs, width, kernel))
            inputs = width

    def forward(self, x: Tensor) -> Tensor:
        """Return the input and the new channels."""
        return torch.cat([x, self.layers(x)], 1)


class DenseNet(nn.Module):
    """A 3×3 stem, three stages of dense layers, a 1×1 convolution and average pooling between stages, a classifier.

    Input (N, in_channels, H, W), output (N, classes).
    """

    def __init__(self, widths: Sequence[int], layers: int, bottleneck: bool, classes: int, in_channels: int) -> None:
        """Take the filters of all convolutions in the order of the forward pass, and the dense layers of one stage."""
        super().__init__()
        left = iter(widths)
        channels = next(left)
        self.stem = nn.Conv2d(in_channels, channels, 3, 1, 1, bias=False)
        self.stages = nn.Sequential()
        for stage in range(STAGES):
            if stage:
                width = next(left)
                self.stages.append(nn.Sequential(NormReluConv(channels, width, 1), nn.AvgPool2d(2)))
                channels = width
            dense = nn.Sequential()
            for _ in range(layers):
                layer = DenseLayer(channels, *islice(left, 2 if bottleneck else 1))
                dense.append(layer)
                channels = layer.outputs
            self.stages.append(dense)
        self.bn = nn.BatchNorm2d(channels)
        self.fc = nn.Linear(channels, classes)
        initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        """Return class scores."""
        x = torch.relu(self.bn(self.stages(self.stem(images))))
        return self.fc(x.mean((2, 3)))  # type: ignore[no-any-return]


def densenet_widths(layers: int, stem: int, growth: int, bottleneck: bool) -> list[int]:
    """Return the paper's filters of all convolutions, in the order of the forward pass.

    A dense layer has as many as the growth rate, and a transition as many as it reads. In a bottleneck network
    (DenseNet-BC) the 1×1 convolution of a dense layer has four times the growth rate, a transition half of what it reads.
    """
    channels = stem
    widths = [channels]
    for stage in range(STAGES):
        widths += ([4 * growth, growth] if bottleneck else [growth]) * layers
        channels += layers * growth
        if stage < STAGES - 1:
            channels = channels // 2 if bottleneck else channels
            widths.append(channels)
    return widths


@originates
def densenet40(
    classes: int = 10,
    *,
    in_channels: int = 3,
    stem: int = 16,
    growth: int = 12,
    widths: Sequence[int] | None = None,
) -> DenseNet:
    """Return an untrained DenseNet of depth 40: 1,019,722 parameters, 264,812,928 multiply-accumulates at 32×32.

    Papers on pruning often start with 24 filters: then there are 1,059,298 parameters, 1,040,578 of them outside batch
    normalisation (their 1.04 M), and 282,917,328 multiply-accumulates.

    Args:
        classes: width of the output.
        in_channels: channels of the images.
        stem: filters of the first convolution.
        growth: filters of a dense layer (the paper's k).
        widths: filters of all 39 convolutions in the order of the forward pass, in place of `stem` and `growth`: first
            layer, 12 dense layers, transition, 12 dense layers, transition, 12 dense layers.

    Raises:
        SettingsError: there are not 39 widths, or one is not a positive integer.
    """
    checked = checked_widths("densenet40", widths, densenet_widths(12, stem, growth, bottleneck=False))
    return DenseNet(checked, 12, False, classes, in_channels)


@originates
def densenet_bc100(
    classes: int = 10,
    *,
    in_channels: int = 3,
    stem: int = 24,
    growth: int = 12,
    widths: Sequence[int] | None = None,
) -> DenseNet:
    """Return an untrained DenseNet-BC of depth 100: 769,162 parameters, 287,929,692 multiply-accumulates at 32×32.

    Args:
        classes: width of the output.
        in_channels: channels of the images.
        stem: filters of the first convolution.
        growth: filters of a dense layer (the paper's k), a quarter of those of the 1×1 convolution before it.
        widths: filters of all 99 convolutions in the order of the forward pass, in place of `stem` and `growth`.

    Raises:
        SettingsError: there are not 99 widths, or one is not a positive integer.
    """
    checked = checked_widths("densenet_bc100", widths, densenet_widths(16, stem, growth, bottleneck=True))
    return DenseNet(checked, 16, True, classes, in_channels)
