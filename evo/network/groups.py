"""Which channels of a network live and die together: coupling groups, found with Torch-Pruning's dependency graph."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
import torch_pruning as tp
from numpy.typing import NDArray
from torch import Tensor, nn

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
LAYERS = (nn.Conv2d, nn.Linear)


@dataclass(frozen=True)
class Cut:
    """One dimension of one tensor whose entries belong to channels of a group.

    `channels[i]` is the channel that entry `i` of the dimension belongs to, or -1 for an entry that is always kept. A cut
    that `reads` consumes the channels; the others produce or normalise them.
    """

    tensor: str
    dim: int
    channels: NDArray[np.int32]
    reads: bool


@dataclass(frozen=True)
class CouplingGroup:
    """Channels that must be kept or removed together, named after the first layer that produces them.

    Attributes:
        name: dotted name of the first producing layer, e.g. "layer1.0.conv2".
        size: number of channels.
        producers: layers whose filters these are, in module order; more than one where additions tie them.
        consumers: layers that read the channels.
        cuts: every tensor dimension that shrinks with the group.
    """

    name: str
    size: int
    producers: tuple[str, ...]
    consumers: tuple[str, ...]
    cuts: tuple[Cut, ...]


@dataclass(frozen=True)
class Frozen:
    """Layers that are left whole, and why."""

    name: str
    reason: str


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put `model` into evaluation mode without gradients; restore every module's own mode afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def find_groups(model: nn.Module, example: Tensor) -> tuple[list[CouplingGroup], list[Frozen]]:
    """Return the coupling groups of `model` and what cannot be pruned; `model` itself is left as it is.

    Handles convolutions, linear layers and batch normalisation joined by element-wise operations, pooling, flattening and
    additions. Whatever else shares channels with a group freezes it.

    Args:
        model: any network.
        example: one input batch, shape (N, …).
    """
    model = copy.deepcopy(model)
    names = {id(module): name for name, module in model.named_modules()}
    order = {name: index for index, name in enumerate(names.values())}
    # Torch-Pruning traces through autograd: it has to see gradients.
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    try:
        with torch.enable_grad():
            graph = tp.DependencyGraph().build_dependency(model.eval(), example, verbose=False)
            found = list(graph.get_all_groups(root_module_types=list(LAYERS)))
    except Exception as error:  # any failure of the tracer freezes the network instead of breaking it
        return [], [Frozen("", f"the dependency graph could not be traced ({type(error).__name__}: {error})")]

    tied = _tied_tensors(model)
    groups: list[CouplingGroup] = []
    frozen: list[Frozen] = []
    for items in found:
        cuts: dict[tuple[str, int], NDArray[np.int32]] = {}
        reads: set[tuple[str, int]] = set()
        producers: set[str] = set()
        consumers: set[str] = set()
        problems: list[str] = []
        size = len(set(items[0].idxs))
        for item in items:
            module = item.dep.target.module
            produces = graph.is_out_channel_pruning_fn(item.dep.handler)
            name = names.get(id(module))
            if name is None:
                if not _is_traced_operation(module):
                    problems.append(f"{item.dep.target.name}: a bare parameter shares its channels")
                continue
            if isinstance(module, LAYERS):
                (producers if produces else consumers).add(name)
            tensors = _cut_tensors(module, produces)
            if tensors is None:
                problems.append(f"{name}: {type(module).__name__} is not supported here")
                continue
            for tensor, dim in tensors:
                full = f"{name}.{tensor}" if name else tensor
                length = module.get_parameter(tensor).shape[dim] if tensor in ("weight", "bias") else size
                channels = cuts.setdefault((full, dim), np.full(length, -1, dtype=np.int32))
                if (channels[item.idxs] >= 0).any() and not np.array_equal(channels[item.idxs], item.root_idxs):
                    problems.append(f"{full}: an entry belongs to two channels")
                channels[item.idxs] = item.root_idxs
                if full in tied:
                    problems.append(f"{full}: shared with {tied[full]}")
                if not produces:
                    reads.add((full, dim))
        name = min(producers, key=order.__getitem__)
        if not consumers:
            problems.append("its channels are the network's output")
        if problems:
            frozen.append(Frozen(name, problems[0]))
            continue
        by_order = [tuple(sorted(layers, key=order.__getitem__)) for layers in (producers, consumers)]
        members = tuple(Cut(tensor, dim, index, (tensor, dim) in reads) for (tensor, dim), index in cuts.items())
        groups.append(CouplingGroup(name, size, by_order[0], by_order[1], members))
    groups.sort(key=lambda group: order[group.name])
    frozen.sort(key=lambda entry: order[entry.name])
    return groups, frozen


def _is_traced_operation(module: object) -> bool:
    """Tell whether Torch-Pruning's `module` stands for an operation without parameters."""
    return isinstance(module, nn.Module) and next(module.parameters(), None) is None


def _cut_tensors(module: nn.Module, produces: bool) -> list[tuple[str, int]] | None:
    """Return (tensor, dimension) of everything in `module` that shrinks with its channels; None if it is not supported."""
    if isinstance(module, LAYERS):
        if isinstance(module, nn.Conv2d) and module.groups > 1:
            return None
        if not produces:
            return [("weight", 1)]
        return [("weight", 0)] + ([("bias", 0)] if module.bias is not None else [])
    if isinstance(module, BATCH_NORMS):
        learnt = [("weight", 0), ("bias", 0)] if module.affine else []
        tracked = [("running_mean", 0), ("running_var", 0)] if module.track_running_stats else []
        return learnt + tracked
    return [] if next(module.parameters(), None) is None else None


def _tied_tensors(model: nn.Module) -> dict[str, str]:
    """Return, for every parameter that several modules share under different names, another of its names."""
    first: dict[int, str] = {}
    tied = {}
    owners: dict[int, int] = {}
    for name, module in model.named_modules():
        for own, parameter in module.named_parameters(recurse=False):
            full = f"{name}.{own}" if name else own
            if id(parameter) in first and owners[id(parameter)] != id(module):
                tied[full] = first[id(parameter)]
                tied[first[id(parameter)]] = full
            first.setdefault(id(parameter), full)
            owners.setdefault(id(parameter), id(module))
    return tied
