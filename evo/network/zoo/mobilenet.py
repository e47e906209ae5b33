"""MobileNetV1 (Howard et al. 2017) and MobileNetV2 (Sandler et al. 2018): depthwise convolutions."""

from collections.abc import Sequence

from torch import Tensor, nn

from evo.errors import SettingsError
from evo.network.origin import originates
from evo.network.zoo.blocks import ConvNorm, initialise

V1_LAYERS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1))
"""Filters and stride of the thirteen separable convolutions (Table 1)."""

V2_STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""Expansion, filters, blocks and stride of the seven stages (Table 2)."""


class MobileNetV1(nn.Module):
    """A 3×3 stem, thirteen pairs of a depthwise 3×3 and a 1×1 convolution, and a classifier.

    Input (N, in_channels, H, W), output (N, classes).
    """

    def __init__(
        self, stem: int, layers: Sequence[tuple[int, int]], stride: int, classes: int, in_channels: int
    ) -> None:
        """Take the first layer's filters, filters and stride of every separable convolution, and the stem's stride."""
        super().__init__()
        self.stem = ConvNorm(in_channels, stem, 3, stride)
        self.layers = nn.Sequential()
        inputs = stem
        for outputs, step in layers:
            depthwise = ConvNorm(inputs, inputs, 3, step, groups=inputs)
            self.layers.append(nn.Sequential(depthwise, ConvNorm(inputs, outputs)))
            inputs = outputs
        self.fc = nn.Linear(inputs, classes)
        initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        """Return class scores."""
        return self.fc(self.layers(self.stem(images)).mean((2, 3)))  # type: ignore[no-any-return]


class InvertedResidual(nn.Module):
    """1×1 convolution that expands, depthwise 3×3, linear 1×1 that projects; input added where the shapes are the same."""

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int) -> None:
        super().__init__()
        inner = inputs * expansion
        self.layers = nn.Sequential()
        if expansion > 1:
            self.layers.append(ConvNorm(inputs, inner, activation=nn.ReLU6))
        self.layers.append(ConvNorm(inner, inner, 3, stride, groups=inner, activation=nn.ReLU6))
        self.layers.append(ConvNorm(inner, outputs, activation=None))
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output."""
        y = self.layers(x)
        return x + y if self.residual else y  # type: ignore[no-any-return]


class MobileNetV2(nn.Module):
    """A 3×3 stem, seven stages of inverted residual blocks, a 1×1 convolution and a classifier.

    Without the dropout before the classifier: it would make scores of untrained networks depend on more than structure.
    Input (N, in_channels, H, W), output (N, classes).
    """

    def __init__(
        self,
        stem: int,
        stages: Sequence[tuple[int, int, int, int]],
        last: int,
        stride: int,
        classes: int,
        in_channels: int,
    ) -> None:
        """Take the filters of the first and the last convolution, the stages as in `V2_STAGES`, and the stem's stride."""
        super().__init__()
        self.stem = ConvNorm(in_channels, stem, 3, stride, activation=nn.ReLU6)
        self.blocks = nn.Sequential()
        inputs = stem
        for expansion, outputs, blocks, step in stages:
            for index in range(blocks):
                self.blocks.append(InvertedResidual(inputs, outputs, expansion, 1 if index else step))
                inputs = outputs
        self.last = ConvNorm(inputs, last, activation=nn.ReLU6)
        self.fc = nn.Linear(last, classes)
        initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        """Return class scores."""
        return self.fc(self.last(self.blocks(self.stem(images))).mean((2, 3)))  # type: ignore[no-any-return]


def _multiplied(filters: int, multiplier: float) -> int:
    """Return the multiple of 8 nearest to filters · multiplier; the next one where that falls below 90 % of it."""
    exact = filters * multiplier
    rounded = max(8, int(exact + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * exact else rounded + 8


def _check_multiplier(network: str, multiplier: float) -> None:
    if not multiplier > 0:
        raise SettingsError(f"{network}: multiplier is positive, got {multiplier}")


@originates
def mobilenet_v1(
    classes: int = 1000, *, in_channels: int = 3, multiplier: float = 1.0, small_input: bool = False
) -> MobileNetV1:
    """Return an untrained MobileNetV1: 4,231,976 parameters, 568,740,352 multiply-accumulates at 224×224.

    Args:
        classes: width of the output.
        in_channels: channels of the images.
        multiplier: factor of all filters (the paper's α), rounded down.
        small_input: whether the stem has stride 1 instead of 2, for images of 32×32.

    Raises:
        SettingsError: `multiplier` is not positive.
    """
    _check_multiplier("mobilenet_v1", multiplier)
    layers = [(max(1, int(filters * multiplier)), stride) for filters, stride in V1_LAYERS]
    return MobileNetV1(max(1, int(32 * multiplier)), layers, 1 if small_input else 2, classes, in_channels)


@originates
def mobilenet_v2(
    classes: int = 1000, *, in_channels: int = 3, multiplier: float = 1.0, small_input: bool = False
) -> MobileNetV2:
    """Return an untrained MobileNetV2: 3,504,872 parameters, 300,774,272 multiply-accumulates at 224×224.

    Args:
        classes: width of the output.
        in_channels: channels of the images.
        multiplier: factor of all filters, rounded to multiples of 8; the last convolution has never fewer than 1280.
        small_input: whether the stem and the second stage have stride 1 instead of 2, for images of 32×32.

    Raises:
        SettingsError: `multiplier` is not positive.
    """
    _check_multiplier("mobilenet_v2", multiplier)
    stages = [
        (expansion, _multiplied(filters, multiplier), blocks, 1 if small_input and index == 1 else stride)
        for index, (expansion, filters, blocks, stride) in enumerate(V2_STAGES)
    ]
    last = _multiplied(1280, max(1.0, multiplier))
    return MobileNetV2(_multiplied(32, multiplier), stages, last, 1 if small_input else 2, classes, in_channels)
