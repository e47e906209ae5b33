"""The networks of NAS-Bench-201 (Dong and Yang 2020), which NATS-Bench calls its topology space: 15,625 cells."""

import operator
import re
from collections.abc import Callable
from functools import reduce

import torch
from torch import Tensor, nn

from evo.errors import SettingsError, unknown_name
from evo.network.origin import originates
from evo.network.zoo.blocks import initialise


class ReluConvNorm(nn.Sequential):
    """ReLU, convolution, batch normalisation: the benchmark's order."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.relu = nn.ReLU()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(outputs)


OPERATIONS: dict[str, Callable[[int], nn.Module]] = {
    "skip_connect": lambda width: nn.Identity(),
    "nor_conv_1x1": lambda width: ReluConvNorm(width, width, 1),
    "nor_conv_3x3": lambda width: ReluConvNorm(width, width, 3),
    "avg_pool_3x3": lambda width: nn.AvgPool2d(3, 1, 1, count_include_pad=False),
}
"""What makes an edge of a cell for a number of channels, by name."""

NONE = "none"
"""The operation of an edge that is not there."""

Edges = list[tuple[str, int]]


def parse_cell(arch: str) -> list[Edges]:
    """Return, for every node of a cell but its input, the edges into it: pairs of an operation and the node that it reads.

    Args:
        arch: a cell such as "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|avg_pool_3x3~0|nor_conv_1x1~1|none~2|". Nodes are
            separated by "+"; node i has one edge from each of the nodes 0 to i - 1, in this order; node 0 is the input. Edges
            called "none" are left out.

    Raises:
        SettingsError: it is not of this form, or an operation is unknown.
    """
    nodes = []
    for target, text in enumerate(arch.split("+"), 1):
        edges = [(name, int(source)) for name, source in re.findall(r"(\w+)~(\d+)\|", text)]
        whole = text == "|" + "".join(f"{name}~{source}|" for name, source in edges)
        if not whole or [source for _, source in edges] != list(range(target)):
            expected = "|" + "".join(f"operation~{source}|" for source in range(target))
            raise SettingsError(f'nasbench201: node {target} of the cell is "{text}", expected "{expected}"')
        for name, _ in edges:
            if name not in (*OPERATIONS, NONE):
                raise SettingsError(f"nasbench201: {unknown_name('operation', name, (*OPERATIONS, NONE))}")
        nodes.append([(name, source) for name, source in edges if name != NONE])
    return nodes


class Node(nn.Module):
    """The sum of what its edges carry, zero without any."""

    def __init__(self, edges: Edges, width: int) -> None:
        super().__init__()
        self.sources = [source for _, source in edges]
        self.operations = nn.ModuleList(OPERATIONS[name](width) for name, _ in edges)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Return the feature maps of this node given those of all nodes before it."""
        terms = [operation(maps[source]) for source, operation in zip(self.sources, self.operations, strict=True)]
        return reduce(operator.add, terms) if terms else torch.zeros_like(maps[0])


class Cell(nn.Module):
    """A directed acyclic graph of nodes whose feature maps all have one shape; the last node is the result.

    Edges that lead nowhere are there all the same, as they are in the benchmark and in its parameter counts.
    """

    def __init__(self, nodes: list[Edges], width: int) -> None:
        super().__init__()
        self.nodes = nn.ModuleList(Node(edges, width) for edges in nodes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the last node."""
        maps = [x]
        for node in self.nodes:
            maps.append(node(maps))
        return maps[-1]


class Reduction(nn.Module):
    """Residual block that halves the image; average pooling and a 1×1 convolution without normalisation as shortcut."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.conv1 = ReluConvNorm(inputs, width, 3, 2)
        self.conv2 = ReluConvNorm(width, width, 3)
        self.shortcut = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(inputs, width, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output."""
        return self.shortcut(x) + self.conv2(self.conv1(x))  # type: ignore[no-any-return]


class NasBench201(nn.Module):
    """A 3×3 stem, three stages of equal cells with 1, 2 and 4 times the width, residual reductions between, a classifier.

    Input (N, in_channels, H, W), output (N, classes). The parameters are the benchmark's, to the unit: 73,306 plus 243,040
    for every 3×3 and 28,000 for every 1×1 convolution of the cell, at the default width, depth and number of classes.
    """

    def __init__(self, arch: str, classes: int, in_channels: int, width: int, cells: int) -> None:
        super().__init__()
        nodes = parse_cell(arch)
        self.stem = nn.Sequential(nn.Conv2d(in_channels, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width))
        self.stage1 = nn.Sequential(*(Cell(nodes, width) for _ in range(cells)))
        self.reduction1 = Reduction(width, 2 * width)
        self.stage2 = nn.Sequential(*(Cell(nodes, 2 * width) for _ in range(cells)))
        self.reduction2 = Reduction(2 * width, 4 * width)
        self.stage3 = nn.Sequential(*(Cell(nodes, 4 * width) for _ in range(cells)))
        self.bn = nn.BatchNorm2d(4 * width)
        self.fc = nn.Linear(4 * width, classes)
        initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        """Return class scores."""
        x = self.reduction1(self.stage1(self.stem(images)))
        x = self.stage3(self.reduction2(self.stage2(x)))
        return self.fc(torch.relu(self.bn(x)).mean((2, 3)))  # type: ignore[no-any-return]


RESNET_CELL = "|nor_conv_3x3~0|+|none~0|nor_conv_3x3~1|+|skip_connect~0|none~1|skip_connect~2|"
"""A residual block as the benchmark writes it (Fig. 1 of its paper)."""


@originates
def nasbench201(
    arch: str = RESNET_CELL, classes: int = 10, *, in_channels: int = 3, width: int = 16, cells: int = 5
) -> NasBench201:
    """Return an untrained network of NAS-Bench-201.

    Args:
        arch: the cell, as the benchmark writes it (see `parse_cell`); a residual block by default.
        classes: width of the output.
        in_channels: channels of the images.
        width: channels of the first stage; those of the others are 2 and 4 times as many.
        cells: cells per stage.

    Raises:
        SettingsError: `arch` is not a cell.
    """
    return NasBench201(arch, classes, in_channels, width, cells)
