"""VGG-16 and VGG-19: as in Simonyan and Zisserman (2015) for ImageNet, and as everybody has them for CIFAR."""

from collections.abc import Sequence

from torch import Tensor, nn

from evo.network.origin import originates
from evo.network.zoo.blocks import checked_widths, initialise

STAGES_16 = (2, 2, 3, 3, 3)
STAGES_19 = (2, 2, 4, 4, 4)
"""3×3 convolutions between one pooling and the next."""

HIDDEN = (4096, 4096)
"""Units of the hidden layers of the networks for ImageNet."""


def conv_widths(stages: Sequence[int]) -> tuple[int, ...]:
    """Return the original number of filters of every convolution."""
    return tuple(width for width, depth in zip((64, 128, 256, 512, 512), stages, strict=True) for _ in range(depth))


class VGG(nn.Module):
    """3×3 convolutions with ReLU, 2×2 maximum pooling after every stage, and linear layers.

    Two widths more than convolutions are hidden layers on maps of 7×7, with dropout; without them one linear layer
    classifies the averaged maps. Input (N, in_channels, H, W) with H, W ≥ 32, output (N, classes). What remains of 224×224,
    or of 32×32 without hidden layers, has that size already; other images are averaged to it. Parameters have torchvision's
    names.
    """

    def __init__(
        self,
        stages: Sequence[int],
        widths: Sequence[int],
        classes: int,
        *,
        in_channels: int,
        batch_norm: bool,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = in_channels
        remaining = iter(widths)
        for depth in stages:
            for _ in range(depth):
                width = next(remaining)
                layers += [nn.Conv2d(inputs, width, 3, padding=1), *([nn.BatchNorm2d(width)] if batch_norm else [])]
                layers.append(nn.ReLU())
                inputs = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        hidden = list(remaining)
        self.avgpool = nn.AdaptiveAvgPool2d(7 if hidden else 1)
        self.classifier: nn.Module = nn.Linear(inputs, classes)
        if hidden:
            fc6, fc7 = hidden
            first = [nn.Linear(inputs * 49, fc6), nn.ReLU(), nn.Dropout(dropout)]
            self.classifier = nn.Sequential(
                *first, nn.Linear(fc6, fc7), nn.ReLU(), nn.Dropout(dropout), nn.Linear(fc7, classes)
            )
        initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        """Return class scores."""
        return self.classifier(self.avgpool(self.features(images)).flatten(1))  # type: ignore[no-any-return]


@originates
def vgg16(
    classes: int = 1000,
    *,
    in_channels: int = 3,
    widths: Sequence[int] | None = None,
    batch_norm: bool = False,
    dropout: float = 0.5,
) -> VGG:
    """Return an untrained VGG-16 for ImageNet.

    For 1,000 classes it has 138,344,128 weights and, at 224×224, 15,470,264,320 multiply-accumulates (ECS, Table 3, which
    leaves out biases); with the biases 138,357,544 parameters.

    Args:
        classes: width of the output.
        in_channels: channels of the images.
        widths: filters of the thirteen convolutions and units of the two hidden layers; 64, 64, 128, 128, 256, 256, 256, 512
            six times, 4096, 4096 by default.
        batch_norm: whether batch normalisation follows every convolution. The paper has none.
        dropout: share of the outputs of both hidden layers that training silences, in [0, 1].

    Raises:
        SettingsError: there are not fifteen positive widths.
    """
    checked = checked_widths("vgg16", widths, (*conv_widths(STAGES_16), *HIDDEN))
    return VGG(STAGES_16, checked, classes, in_channels=in_channels, batch_norm=batch_norm, dropout=dropout)


@originates
def vgg19(
    classes: int = 1000,
    *,
    in_channels: int = 3,
    widths: Sequence[int] | None = None,
    batch_norm: bool = False,
    dropout: float = 0.5,
) -> VGG:
    """Return an untrained VGG-19 for ImageNet.

    For 1,000 classes it has 143,667,240 parameters, 143,652,544 of them weights, and, at 224×224, 19,632,062,464
    multiply-accumulates.

    Args:
        classes: width of the output.
        in_channels: channels of the images.
        widths: filters of the sixteen convolutions and units of the two hidden layers; 64, 64, 128, 128, 256 four times, 512
            eight times, 4096, 4096 by default.
        batch_norm: whether batch normalisation follows every convolution. The paper has none.
        dropout: share of the outputs of both hidden layers that training silences, in [0, 1].

    Raises:
        SettingsError: there are not eighteen positive widths.
    """
    checked = checked_widths("vgg19", widths, (*conv_widths(STAGES_19), *HIDDEN))
    return VGG(STAGES_19, checked, classes, in_channels=in_channels, batch_norm=batch_norm, dropout=dropout)


@originates
def vgg16_cifar(classes: int = 10, *, in_channels: int = 3, widths: Sequence[int] | None = None) -> VGG:
    """Return an untrained VGG-16 for small images: batch normalisation, and one linear layer instead of three.

    For ten classes it has 14,728,266 parameters, 14,715,584 of them weights, and at 32×32 313,201,664 multiply-accumulates.
    FNP (Tables 1 and 6) prints 14.73 M and 314.59 M. The first is all parameters, and the biases before batch normalisation
    have to be there (14.72 M without); a hidden layer of 512 would make it 14.99 M. The second is how early versions of the
    tool `thop` count, 314,590,198: to the multiply-accumulates it adds one per output of a convolution for its bias
    (276,480), four per value that batch normalisation reads (1,105,920), for the linear layer its sums (5,110), and two per
    output of an average pooling of size 1 (1,024), which does nothing but stands in the public code of ABCPruner.

    Args:
        classes: width of the output.
        in_channels: channels of the images.
        widths: filters of the thirteen convolutions; 64, 64, 128, 128, 256, 256, 256, 512 six times by default.

    Raises:
        SettingsError: there are not thirteen positive widths.
    """
    checked = checked_widths("vgg16_cifar", widths, conv_widths(STAGES_16))
    return VGG(STAGES_16, checked, classes, in_channels=in_channels, batch_norm=True)


@originates
def vgg19_cifar(classes: int = 10, *, in_channels: int = 3, widths: Sequence[int] | None = None) -> VGG:
    """Return an untrained VGG-19 for small images: batch normalisation, and one linear layer instead of three.

    For ten classes it has 20,040,522 parameters, 20,024,000 of them weights, and at 32×32 398,136,320 multiply-accumulates.

    Args:
        classes: width of the output.
        in_channels: channels of the images.
        widths: filters of the sixteen convolutions; 64, 64, 128, 128, 256 four times, 512 eight times by default.

    Raises:
        SettingsError: there are not sixteen positive widths.
    """
    checked = checked_widths("vgg19_cifar", widths, conv_widths(STAGES_19))
    return VGG(STAGES_19, checked, classes, in_channels=in_channels, batch_norm=True)
