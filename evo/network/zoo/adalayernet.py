"""The eight-layer network of the AdaLayerNet paper, for 32×32 images."""

from collections.abc import Sequence

from torch import Tensor, nn

from evo.network.origin import originates
from evo.network.zoo.blocks import checked_widths, initialise

WIDTHS = (32, 64, 128, 128, 256, 256, 512, 256)
"""Filters of the six convolutions and units of the two fully connected layers."""


class AdaLayerNet(nn.Module):
    """Six 3×3 convolutions, two fully connected layers and a classifier, with ReLU.

    The paper gives the layers' parameters: 864, 18,432, 73,728, 147,456, 294,912 and 589,824 weights of the convolutions,
    which have no biases, 131,584 and 131,328 of the fully connected layers, which have. So it says of the image's size only
    that each of the 256 maps has shrunk to one number before the first fully connected layer, and nothing of how, of
    normalisation or of the classifier. Here the image halves by maximum pooling after every second convolution, the 4×4
    maps that remain of 32×32 are averaged, batch normalisation stands where the biases are missing, and a ninth layer
    classifies (2,570 parameters for ten classes; 1,392,426 altogether and, at 32×32, 133,270,016 multiply-accumulates).
    Input (N, in_channels, H, W) with H, W ≥ 8, output (N, classes).
    """

    def __init__(self, widths: Sequence[int], classes: int, *, in_channels: int) -> None:
        super().__init__()
        c1, c2, c3, c4, c5, c6, f1, f2 = widths
        self.conv1, self.bn1 = nn.Conv2d(in_channels, c1, 3, padding=1, bias=False), nn.BatchNorm2d(c1)
        self.conv2, self.bn2 = nn.Conv2d(c1, c2, 3, padding=1, bias=False), nn.BatchNorm2d(c2)
        self.conv3, self.bn3 = nn.Conv2d(c2, c3, 3, padding=1, bias=False), nn.BatchNorm2d(c3)
        self.conv4, self.bn4 = nn.Conv2d(c3, c4, 3, padding=1, bias=False), nn.BatchNorm2d(c4)
        self.conv5, self.bn5 = nn.Conv2d(c4, c5, 3, padding=1, bias=False), nn.BatchNorm2d(c5)
        self.conv6, self.bn6 = nn.Conv2d(c5, c6, 3, padding=1, bias=False), nn.BatchNorm2d(c6)
        self.fc1 = nn.Linear(c6, f1)
        self.fc2 = nn.Linear(f1, f2)
        self.classifier = nn.Linear(f2, classes)
        self.pool = nn.MaxPool2d(2)
        initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        """Return class scores."""
        x = self.bn1(self.conv1(images)).relu()
        x = self.pool(self.bn2(self.conv2(x)).relu())
        x = self.bn3(self.conv3(x)).relu()
        x = self.pool(self.bn4(self.conv4(x)).relu())
        x = self.bn5(self.conv5(x)).relu()
        x = self.pool(self.bn6(self.conv6(x)).relu())
        x = self.fc1(x.mean((2, 3))).relu()
        return self.classifier(self.fc2(x).relu())  # type: ignore[no-any-return]


@originates
def adalayernet(classes: int = 10, *, in_channels: int = 3, widths: Sequence[int] | None = None) -> AdaLayerNet:
    """Return an untrained network of the AdaLayerNet paper.

    Args:
        classes: width of the output.
        in_channels: channels of the images.
        widths: filters of the six convolutions and units of the two fully connected layers; `WIDTHS` by default.

    Raises:
        SettingsError: there are not eight positive widths.
    """
    checked = checked_widths("adalayernet", widths, WIDTHS)
    return AdaLayerNet(checked, classes, in_channels=in_channels)
