"""LeNet as ECS compresses it: four layers, 20-50-500-10, batch normalisation, 28×28 input."""

import torch
from torch import Tensor, nn

from evo.network.origin import originates


class LeNet(nn.Module):
    """Two 5×5 convolutions with 2×2 max pooling, a 4×4 layer read as linear, and a classifier (ECS, section 4).

    430,500 weights and 2,293,000 multiplications at 28×28 with the default widths. Input (N, in_channels, 28, 28),
    output (N, classes).
    """

    def __init__(
        self, conv1: int = 20, conv2: int = 50, fc1: int = 500, classes: int = 10, *, in_channels: int = 1
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, conv1, 5)
        self.bn1 = nn.BatchNorm2d(conv1)
        self.conv2 = nn.Conv2d(conv1, conv2, 5)
        self.bn2 = nn.BatchNorm2d(conv2)
        self.fc1 = nn.Linear(conv2 * 4 * 4, fc1)
        self.bn3 = nn.BatchNorm1d(fc1)
        self.fc2 = nn.Linear(fc1, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return class scores."""
        x = torch.relu(nn.functional.max_pool2d(self.bn1(self.conv1(images)), 2))
        x = torch.relu(nn.functional.max_pool2d(self.bn2(self.conv2(x)), 2))
        x = torch.relu(self.bn3(self.fc1(x.flatten(1))))
        return self.fc2(x)  # type: ignore[no-any-return]


@originates
def lenet(conv1: int = 20, conv2: int = 50, fc1: int = 500, classes: int = 10, *, in_channels: int = 1) -> LeNet:
    """Return an untrained LeNet with the given widths."""
    return LeNet(conv1, conv2, fc1, classes, in_channels=in_channels)
