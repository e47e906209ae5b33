"""Candidates with random weights: for zero-shot scores only the widths matter, and nothing trained is cut."""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from evo.blueprint import BoolArray
from evo.errors import NetworkError, SettingsError
from evo.network.groups import CouplingGroup
from evo.network.plan import SlicePlan
from evo.network.template import LAYERS, NORMS, TRANSPOSED, Template, skeleton_of

BANK = 2**24
"""Random numbers of a bank at most, unless one tensor alone has more; if all weights are fewer, no two share any."""

_NORMALISATIONS = (NORMS, nn.GroupNorm, nn.LayerNorm)
_NEW = {"weight": 1, "bias": 0, "running_mean": 0, "running_var": 1, "num_batches_tracked": 0}
"""What a new normalisation layer holds."""


@functools.lru_cache(maxsize=2)  # a worker draws the bank of its run once
def _bank(seed: int, length: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return `length` standard normal numbers, the same on every machine."""
    drawn = np.random.default_rng(seed).standard_normal(length, dtype=np.float32)
    return torch.from_numpy(drawn).to(device, dtype)


@dataclass(frozen=True)
class _Shape:
    """Shape of one tensor of a candidate: that of the original, with lengths of patterns in some dimensions."""

    name: str
    original: tuple[int, ...]
    cuts: tuple[tuple[int, int], ...]

    def __call__(self, lengths: Sequence[int]) -> list[int]:
        shape = list(self.original)
        for dim, pattern in self.cuts:
            shape[dim] = lengths[pattern]
        return shape


@dataclass(frozen=True)
class _Weight:
    """A random weight: where it reads the bank, and for a transposed convolution the number of its groups."""

    shape: _Shape
    offset: int
    groups: int | None


class Untrained:
    """Makes candidates of one network with random weights from kept counts alone.

    Convolutional and linear weights are N(0, 2 / fan-in) (He et al. 2015), biases 0, normalisation and its running
    statistics as new. Every other tensor is cut from the trained one, keeping the first channels of each group. Only
    convolutional and linear weights require gradients; those of four dimensions are in channels-last order.

    The random numbers come from one bank per process, of which every weight reads a part of its own from the same place for
    all candidates: making one draws nothing, and candidates of one run differ by their widths rather than by luck.
    """

    def __init__(
        self, skeleton: nn.Module, tensors: Mapping[str, Tensor], groups: Sequence[CouplingGroup], plan: SlicePlan
    ) -> None:
        self._groups, self._plan = groups, plan
        weights, constants = _roles(skeleton)
        shapes = {name: _Shape(name, tuple(tensor.shape), tuple(plan.cuts(name))) for name, tensor in tensors.items()}
        self._counters = [name for name in constants if not tensors[name].is_floating_point()]
        self._constants = [
            (value, [shapes[name] for name in constants if constants[name] == value and name not in self._counters])
            for value in (0, 1)
        ]
        self._kept = {name: tensor for name, tensor in tensors.items() if name not in {**weights, **constants}}
        sizes = [tensors[name].numel() for name in weights]
        self._length = max([*sizes, min(sum(sizes), BANK)], default=0)
        starts = np.cumsum([0, *sizes])
        self._weights = [
            _Weight(shapes[name], int(start % (self._length - size + 1)), groups)
            for (name, groups), size, start in zip(weights.items(), sizes, starts, strict=False)
        ]
        learning = skeleton_of(skeleton)
        for name, parameter in learning.named_parameters():
            parameter.requires_grad_(name in weights)
        self._template = Template(learning.train())

    def make(self, counts: NDArray[np.int64], seed: int, device: torch.device, dtype: torch.dtype) -> nn.Module:
        """Return a candidate; see `Network.untrained`."""
        self._check(counts)
        lengths, totals = self._plan.lengths(counts)
        sizes = {name: totals[pattern] for name, pattern in self._plan.attributes}
        tensors = self._drawn(lengths, _bank(seed, self._length, device, dtype))
        for value, shapes in self._constants:
            wanted = [shape(lengths) for shape in shapes]
            flat = torch.full((sum(map(math.prod, wanted)),), value, device=device, dtype=dtype)
            parts = torch.split(flat, [math.prod(shape) for shape in wanted])
            for entry, part, own in zip(shapes, parts, wanted, strict=True):
                tensors[entry.name] = part if len(own) == 1 else part.view(own)
        if self._counters:
            counters = torch.zeros(len(self._counters), dtype=torch.int64, device=device)
            tensors |= zip(self._counters, counters.unbind(), strict=True)
        if self._kept:
            cut, _ = self._plan.apply(self._kept, self._first(counts))
            tensors |= {
                name: tensor.to(device, dtype if tensor.is_floating_point() else tensor.dtype)
                for name, tensor in cut.items()
            }
        return self._template.make(tensors, sizes)

    def _drawn(self, lengths: Sequence[int], bank: Tensor) -> dict[str, Tensor]:
        drawn = {}
        for weight in self._weights:
            shape = weight.shape(lengths)
            fan_in = math.prod(shape[1:])
            if weight.groups is not None:
                fan_in = max(1, shape[0] // weight.groups) * math.prod(
                    shape[2:]
                )  # 1: a depthwise one has fewer groups now
            values = bank.narrow(0, weight.offset, math.prod(shape)) * math.sqrt(2 / fan_in)
            if len(shape) == 4:
                _, inputs, height, width = shape
                last = (inputs * height * width, 1, width * inputs, inputs)
                drawn[weight.shape.name] = values.as_strided(shape, last)
            else:
                drawn[weight.shape.name] = values.view(shape)
        return drawn

    def _check(self, counts: NDArray[np.int64]) -> None:
        if counts.dtype.kind not in "iu" or counts.shape != (len(self._groups),):
            raise SettingsError(
                f"counts: got {counts.dtype} of shape {counts.shape}, expected integers of shape ({len(self._groups)},)"
            )
        for group, count in zip(self._groups, counts.tolist(), strict=True):
            if not group.least <= count <= group.size or count % group.parts:
                parts = f", in multiples of {group.parts}" if group.parts > 1 else ""
                raise NetworkError(f"{group.name}: it keeps {group.least} to {group.size} channels{parts}, got {count}")

    def _first(self, counts: NDArray[np.int64]) -> dict[str, BoolArray]:
        """Return masks that keep the first channels of every group, of each of its parts."""
        return {
            group.name: np.arange(group.size) % (group.size // group.parts) < count // group.parts
            for group, count in zip(self._groups, counts.tolist(), strict=True)
        }


def _roles(skeleton: nn.Module) -> tuple[dict[str, int | None], dict[str, int]]:
    """Return the random weights, each with the groups of a transposed convolution, and the constants with their values."""
    names = {id(tensor): name for name, tensor in (*skeleton.named_parameters(), *skeleton.named_buffers())}
    weights: dict[str, int | None] = {}
    constants: dict[str, int] = {}
    for module in skeleton.modules():
        held = {
            own: names[id(tensor)]
            for own, tensor in (*module._parameters.items(), *module._buffers.items())
            if tensor is not None
        }
        if isinstance(module, LAYERS):
            if "weight" in held:
                weights[held["weight"]] = module.groups if isinstance(module, TRANSPOSED) else None
            if "bias" in held:
                constants[held["bias"]] = 0
        elif isinstance(module, _NORMALISATIONS):
            constants |= {held[own]: value for own, value in _NEW.items() if own in held}
    return weights, constants
