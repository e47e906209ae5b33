"""ResNets for 32×32 images (He et al. 2016, section 4.2): three stages of basic blocks, widths 16, 32, 64."""

import torch
from torch import Tensor, nn

from evo.network.origin import originates


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut; a 1×1 projection where the shape changes (the paper's option B)."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != width:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output."""
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class CifarResNet(nn.Module):
    """Depth 6n+2 with n blocks per stage. Input (N, in_channels, H, W), output (N, classes)."""

    def __init__(self, blocks: int = 3, classes: int = 10, *, in_channels: int = 3, width: int = 16) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        stages: list[nn.Module] = []
        inputs = width
        for stage in range(3):
            outputs = width * 2**stage
            units = []
            for index in range(blocks):
                units.append(BasicBlock(inputs, outputs, 2 if stage and not index else 1))
                inputs = outputs
            stages.append(nn.Sequential(*units))
        self.layer1, self.layer2, self.layer3 = stages
        self.fc = nn.Linear(inputs, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return class scores."""
        x = torch.relu(self.bn1(self.conv1(images)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(x.mean((2, 3)))  # type: ignore[no-any-return]


@originates
def resnet20(classes: int = 10, *, in_channels: int = 3, width: int = 16) -> CifarResNet:
    """Return an untrained ResNet-20 for small images."""
    return CifarResNet(3, classes, in_channels=in_channels, width=width)
