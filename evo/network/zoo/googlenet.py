"""GoogLeNet for 32×32 images: the well-known adaptation of Szegedy et al. (2015) with batch normalisation."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from evo.errors import SettingsError
from evo.network.origin import originates
from evo.network.zoo.blocks import ConvNorm, checked_widths, initialise

INCEPTIONS = (
    (64, 96, 128, 16, 32, 32, 32),
    (128, 128, 192, 32, 96, 96, 64),
    (192, 96, 208, 16, 48, 48, 64),
    (160, 112, 224, 24, 64, 64, 64),
    (128, 128, 256, 24, 64, 64, 64),
    (112, 144, 288, 32, 64, 64, 64),
    (256, 160, 320, 32, 128, 128, 128),
    (256, 160, 320, 32, 128, 128, 128),
    (384, 192, 384, 48, 128, 128, 128),
)
"""Filters of the nine inception blocks: the 1×1 branch; 1×1 and 3×3 of the second; 1×1, 3×3, 3×3 of the third; the last."""


class Inception(nn.Module):
    """Four branches side by side: 1×1; 1×1 and 3×3; 1×1 and two 3×3 in place of the original's 5×5; pooling and 1×1."""

    def __init__(self, inputs: int, widths: Sequence[int]) -> None:
        super().__init__()
        one, reduce3, three, reduce5, inner5, five, pool = widths
        self.branch1 = ConvNorm(inputs, one, bias=True)
        self.branch3 = nn.Sequential(ConvNorm(inputs, reduce3, bias=True), ConvNorm(reduce3, three, 3, bias=True))
        self.branch5 = nn.Sequential(
            ConvNorm(inputs, reduce5, bias=True),
            ConvNorm(reduce5, inner5, 3, bias=True),
            ConvNorm(inner5, five, 3, bias=True),
        )
        self.branch_pool = nn.Sequential(nn.MaxPool2d(3, 1, 1), ConvNorm(inputs, pool, bias=True))
        self.outputs = one + three + five + pool

    def forward(self, x: Tensor) -> Tensor:
        """Return the branches' outputs, one after the other along the channels."""
        return torch.cat([self.branch1(x), self.branch3(x), self.branch5(x), self.branch_pool(x)], 1)


class GoogLeNet(nn.Module):
    """A 3×3 stem, nine inception blocks with max pooling after the second and the seventh, and a classifier.

    Input (N, in_channels, H, W), output (N, classes). For ten classes it has 6,166,250 parameters, 6,142,528 of them
    weights, and at 32×32 1,521,756,160 multiply-accumulates. FNP (Tables 4 and 6) prints 6.15 M and 1534.55 M. The first is
    6,150,442, batch normalisation left out; with one 5×5 convolution in place of two 3×3 it would be 5.86 M. The second is
    how early versions of the tool `thop` count, 1,534,550,006: to the multiply-accumulates it adds one per output of a
    convolution for its bias (2,554,880), four per value that batch normalisation reads (10,219,520), for the linear layer
    its sums (10,230), and nine per output of the average pooling of size 8 (9,216).
    """

    def __init__(self, widths: Sequence[Sequence[int]], stem: int, classes: int, in_channels: int) -> None:
        super().__init__()
        self.stem = ConvNorm(in_channels, stem, 3, bias=True)
        blocks = []
        inputs = stem
        for row in widths:
            blocks.append(Inception(inputs, row))
            inputs = blocks[-1].outputs
        self.stage3 = nn.Sequential(*blocks[:2])
        self.stage4 = nn.Sequential(*blocks[2:7])
        self.stage5 = nn.Sequential(*blocks[7:])
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.fc = nn.Linear(inputs, classes)
        initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        """Return class scores."""
        x = self.pool(self.stage3(self.stem(images)))
        x = self.stage5(self.pool(self.stage4(x)))
        return self.fc(x.mean((2, 3)))  # type: ignore[no-any-return]


@originates
def googlenet(
    classes: int = 10, *, in_channels: int = 3, stem: int = 192, widths: Sequence[Sequence[int]] | None = None
) -> GoogLeNet:
    """Return an untrained GoogLeNet for small images.

    Args:
        classes: width of the output.
        in_channels: channels of the images.
        stem: filters of the first layer.
        widths: nine rows of seven positive integers, `INCEPTIONS` by default. What FNP searches are the second, fourth and
            fifth number of every row.

    Raises:
        SettingsError: there are not nine rows of seven positive integers, or `stem` is not positive.
    """
    rows = INCEPTIONS if widths is None else widths
    if len(rows) != len(INCEPTIONS):
        raise SettingsError(
            f"googlenet: widths has {len(rows)} rows, expected one for each of {len(INCEPTIONS)} blocks"
        )
    checked = [checked_widths(f"googlenet, block {block}", row, INCEPTIONS[0]) for block, row in enumerate(rows)]
    checked_widths("googlenet, stem", [stem], [192])
    return GoogLeNet(checked, stem, classes, in_channels)
