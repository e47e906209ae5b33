"""Small networks with what is hard to cut, beyond the zoo: gates, transposed convolutions, layer normalisation, groups."""

from itertools import pairwise

import torch
from torch import Tensor, nn


class Gate(nn.Module):
    """Squeeze and excitation (Hu et al. 2018): every channel is multiplied by a number in (0, 1) made of all their means."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(width, width // 4, 1)
        self.excite = nn.Conv2d(width // 4, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the scaled channels."""
        scale = torch.sigmoid(self.excite(torch.relu(self.squeeze(x.mean((2, 3), keepdim=True)))))
        return x * scale


class GatedBlock(nn.Module):
    """A residual block with a gate."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.gate = Gate(width)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output."""
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(x + self.gate(y))


class Aggregated(nn.Module):
    """A residual block with a grouped convolution (ResNeXt, Xie et al. 2017)."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width // 2, 1)
        self.conv2 = nn.Conv2d(width // 2, width // 2, 3, padding=1, groups=groups)
        self.conv3 = nn.Conv2d(width // 2, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output."""
        return torch.relu(x + self.conv3(torch.relu(self.conv2(torch.relu(self.conv1(x))))))


class ConvNextBlock(nn.Module):
    """Depthwise 7×7 convolution, layer normalisation, two linear layers over channels, a scale (Liu et al. 2022)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, 4 * width)
        self.reduce = nn.Linear(4 * width, width)
        self.scale = nn.Parameter(torch.full((width,), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output."""
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.scale * self.reduce(nn.functional.gelu(self.expand(y)))
        return x + y.permute(0, 3, 1, 2)  # type: ignore[no-any-return]


class UNet(nn.Module):
    """Three levels down, three up by transposed convolutions, skips by concatenation (Ronneberger et al. 2015)."""

    def __init__(self, width: int = 16, levels: int = 3) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(levels + 1)]
        self.down = nn.ModuleList(_twice(a, b) for a, b in zip([3, *widths], widths, strict=False))
        self.up = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, 2) for a, b in pairwise(widths))
        self.merge = nn.ModuleList(_twice(2 * a, a) for a in widths[:-1])
        self.head = nn.Conv2d(width, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return scores per pixel."""
        skips = []
        for level, block in enumerate(self.down):
            x = block(nn.functional.max_pool2d(x, 2) if level else x)
            skips.append(x)
        for level in reversed(range(len(self.up))):
            x = self.merge[level](torch.cat([skips[level], self.up[level](x)], 1))
        return self.head(x)  # type: ignore[no-any-return]


def _twice(inputs: int, width: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (inputs, width):
        layers += [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    return nn.Sequential(*layers)


def _classifier(stem: int, *blocks: nn.Module) -> nn.Sequential:
    end = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(stem, 10))
    return nn.Sequential(nn.Conv2d(3, stem, 3, padding=1), nn.ReLU(), *blocks, *end)


def gated() -> nn.Module:
    """Return a small SE-ResNet."""
    return _classifier(64, *(GatedBlock(64) for _ in range(4)))


def aggregated() -> nn.Module:
    """Return a small ResNeXt."""
    return _classifier(64, *(Aggregated(64, 8) for _ in range(4)))


def convnext() -> nn.Module:
    """Return a small ConvNeXt."""
    return _classifier(64, *(ConvNextBlock(64) for _ in range(4)))


def super_resolution() -> nn.Module:
    """Return a network that doubles images twice, by pixel shuffling (ESPCN, Shi et al. 2016)."""
    layers: list[nn.Module] = [nn.Conv2d(3, 32, 3, padding=1), nn.PReLU(32)]
    for _ in range(2):
        layers += [nn.Conv2d(32, 128, 3, padding=1), nn.PixelShuffle(2), nn.PReLU(32)]
    return nn.Sequential(*layers, nn.Conv2d(32, 3, 3, padding=1))
