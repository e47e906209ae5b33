"""What is seen of a network while it runs: numbered entries, what ties them, the use of weights, and memory."""

import math
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Site:
    """The entries of one dimension of one tensor; entry (i, …) has the number start + its flat index.

    Attributes:
        tensor: dotted name of a parameter or buffer, "module.attribute" of a size that a module notes, or "" for entries
            that are made as the network runs.
        dim: the dimension.
        start: number of the first entry.
        shape: (entries,), or (groups, entries) for the inputs of a grouped convolution, whose groups have their own.
    """

    tensor: str
    dim: int
    start: int
    shape: tuple[int, ...]

    @cached_property
    def vector(self) -> IntArray:
        """The entries' numbers one after the other."""
        return np.arange(self.start, self.start + math.prod(self.shape))

    @cached_property
    def numbers(self) -> Tensor:
        """The entries' numbers, of the site's shape."""
        return torch.from_numpy(self.vector).view(self.shape)


@dataclass
class Contraction:
    """What a weight is used for, and how often.

    Attributes:
        tensor: dotted name of the weight.
        kernel: weights per (input, output) pair.
        inputs, outputs: the numbers of the channels it reads and produces, shape (channels,), 0 where fixed.
        groups: of a grouped convolution.
        depthwise: every group reads one channel, and there are as many groups as channels.
        work: multiply-accumulate operations, for the whole batch.
        values: numbers in its outputs, for the whole batch.
        reason: why the weight is never cut, if it is not.
    """

    tensor: str
    kernel: int
    inputs: Tensor
    outputs: Tensor
    groups: int
    depthwise: bool
    work: int
    values: int
    reason: str = ""


@dataclass
class Trace:
    """Everything that was seen.

    Attributes:
        sites: all numbered dimensions.
        edges: pairs of arrays of numbers that are tied entry by entry.
        reasons: by number of a node that stands for a reason to freeze what is tied to it.
        reads: numbers of weight entries that multiply what they are tied to: with zeros there, it is silenced.
        parts: arrays (parts, entries) of numbers; every row has to keep equally many.
        contractions: by name of the weight.
        norms: names of the weights of layers that normalise over channels.
        memory: for every operation, the activations alive after it, as (numbers, bytes per entry).
        unused: names of parameters and buffers that no operation used.
        batch: inputs in the pass.
        trained: a pass in training mode was watched too, since some parameters are used there only.
    """

    sites: list[Site] = field(default_factory=list)
    edges: list[tuple[IntArray, IntArray]] = field(default_factory=list)
    reasons: dict[int, str] = field(default_factory=dict)
    reads: list[IntArray] = field(default_factory=list)
    parts: list[IntArray] = field(default_factory=list)
    contractions: dict[str, Contraction] = field(default_factory=dict)
    norms: set[str] = field(default_factory=set)
    memory: list[list[tuple[IntArray, int]]] = field(default_factory=list)
    unused: set[str] = field(default_factory=set)
    batch: int = 1
    trained: bool = False
    count: int = 1

    def site(self, tensor: str, dim: int, shape: tuple[int, ...]) -> Site:
        """Number the entries of one more dimension."""
        made = Site(tensor, dim, self.count, shape)
        self.sites.append(made)
        self.count += math.prod(shape)
        return made

    def reason(self, text: str) -> int:
        """Return the number of a new node for a reason."""
        self.reasons[self.count] = text
        self.count += 1
        return self.count - 1
