"""AlexNet as Krizhevsky et al. (2012) and ECS have it: three of its convolutions in two groups, 227×227 input."""

from collections.abc import Sequence

from torch import Tensor, nn

from evo.errors import SettingsError
from evo.network.origin import originates
from evo.network.zoo.blocks import checked_widths, initialise

WIDTHS = (96, 256, 384, 384, 256, 4096, 4096)
"""Filters of the five convolutions and units of the two hidden layers: 9,568 together, D of ECS."""


class AlexNet(nn.Module):
    """Five convolutions, of which the second, fourth and fifth have two groups, and three linear layers, with ReLU.

    For 1,000 classes it has 60,954,656 weights (ECS, Table 2), 60,965,224 parameters with the biases, and at 227×227
    724,406,816 multiply-accumulates. Input (N, in_channels, H, W), output (N, classes). Images of another size are pooled
    to the same 6×6 maps.
    """

    def __init__(
        self, widths: Sequence[int], classes: int, *, in_channels: int, local_response_norm: bool, dropout: float
    ) -> None:
        super().__init__()
        c1, c2, c3, c4, c5, f6, f7 = widths
        self.conv1 = nn.Conv2d(in_channels, c1, 11, 4)
        self.conv2 = nn.Conv2d(c1, c2, 5, padding=2, groups=2)
        self.conv3 = nn.Conv2d(c2, c3, 3, padding=1)
        self.conv4 = nn.Conv2d(c3, c4, 3, padding=1, groups=2)
        self.conv5 = nn.Conv2d(c4, c5, 3, padding=1, groups=2)
        self.fc6 = nn.Linear(c5 * 36, f6)
        self.fc7 = nn.Linear(f6, f7)
        self.fc8 = nn.Linear(f7, classes)
        # torch divides alpha by the size; the paper's 1e-4 is per channel.
        self.norm = nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0) if local_response_norm else nn.Identity()
        self.pool = nn.MaxPool2d(3, 2)
        self.average = nn.AdaptiveAvgPool2d(6)
        self.dropout = nn.Dropout(dropout)
        initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        """Return class scores."""
        x = self.pool(self.norm(self.conv1(images).relu()))
        x = self.pool(self.norm(self.conv2(x).relu()))
        x = self.conv4(self.conv3(x).relu()).relu()
        x = self.average(self.pool(self.conv5(x).relu()))
        x = self.fc6(self.dropout(x.flatten(1))).relu()
        x = self.fc7(self.dropout(x)).relu()
        return self.fc8(x)  # type: ignore[no-any-return]


@originates
def alexnet(
    classes: int = 1000,
    *,
    in_channels: int = 3,
    widths: Sequence[int] | None = None,
    local_response_norm: bool = False,
    dropout: float = 0.5,
) -> AlexNet:
    """Return an untrained AlexNet.

    Args:
        classes: width of the output.
        in_channels: channels of the images.
        widths: filters of the five convolutions, all even, and units of the two hidden layers; `WIDTHS` by default.
        local_response_norm: whether local response normalisation follows the first two convolutions, as in 2012. It has no
            weights, later networks did without, and it mixes neighbouring channels, so that cutting one changes others.
        dropout: share of the inputs of both hidden layers that training silences, in [0, 1].

    Raises:
        SettingsError: there are not seven positive widths, or one that two groups have to share is odd.
    """
    checked = checked_widths("alexnet", widths, WIDTHS)
    for layer, width in enumerate(checked[:5], 1):
        if width % 2:
            raise SettingsError(f"alexnet: conv{layer} has width {width}, expected an even number, two groups share it")
    return AlexNet(checked, classes, in_channels=in_channels, local_response_norm=local_response_norm, dropout=dropout)
