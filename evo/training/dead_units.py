"""Units that nothing reads any more: found in the graph of the network, and cut out by surgery."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from evo.blueprint import Blueprint, BoolArray
from evo.errors import EvoError
from evo.network import Network, evaluating
from evo.network.groups import CouplingGroup, Cut
from evo.network.origin import origin_of, remember
from evo.network.surgery import Example
from evo.training.connections import Connections

TOLERANCE = 1e-5
"""How much the output may change by cutting, relative to the largest one: what another order of summation does."""


def separable_groups(network: Network, model: nn.Module) -> list[CouplingGroup]:
    """Return the coupling groups of `model`, which `network` was made of, that no layer normalises across channels.

    In the others a channel that nothing reads still has a share in the mean and deviation that the rest is divided by.
    """
    across = [name for name, module in model.named_modules() if isinstance(module, nn.LayerNorm | nn.GroupNorm)]
    tensors = {f"{name}.{own}" for name in across for own in ("weight", "bias")}
    return [group for group in network.groups if not any(cut.tensor in tensors for cut in group.cuts)]


def unread_channels(groups: Sequence[CouplingGroup], read: Mapping[str, BoolArray]) -> dict[str, BoolArray]:
    """Return which channels of coupling groups have no effect on the output any more.

    That is a channel whose connections onward are all gone, or lead to such channels only. A unit that has lost all its
    inputs, but not its outputs, still gives them a constant, made of its bias: it is alive.

    Args:
        groups: of a network.
        read: by tensor name, which of its entries are left; connections into unread channels are taken out in place. A
            tensor that is missing reads everything.

    Returns:
        Boolean masks of shape (channels,), by group name.
    """
    unread = {group.name: np.zeros(group.size, dtype=bool) for group in groups}
    changed = True
    while changed:
        changed = False
        for group in groups:
            more = ~_read(group, read) & ~unread[group.name]
            if more.any():
                unread[group.name] |= more
                _silence(group, more, read)
                changed = True
    return unread


class Units:
    """The units of a network that is being trained, found when somebody first asks for the dead ones."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._example: tuple[Tensor, ...] | None = None
        self._groups: list[CouplingGroup] | None = None
        self._handle: RemovableHandle | None = None

    def watch(self) -> None:
        """Take the next batch for an example, if there is none yet."""
        if self._example is None and self._handle is None:
            self._handle = self._model.register_forward_pre_hook(self._see)

    def close(self) -> None:
        """Watch nothing."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    def _see(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        if self._example is None and args and all(isinstance(part, Tensor) for part in args):
            self._example = tuple(part[:2].detach().clone().cpu() for part in args)

    def bury(self, connections: list[Connections]) -> list[float]:
        """Take the inputs of all dead units away; return the number of dead ones of every layer, NaN if nobody knows."""
        if self._groups is None:
            self._groups = self._find()
        if not self._groups:
            return [math.nan] * len(connections)
        left = {entry.tensor: (~entry.gone).cpu().contiguous().numpy() for entry in connections}
        dead = {name: int(mask.sum()) for name, mask in unread_channels(self._groups, left).items()}
        for entry in connections:
            entry.gone.copy_(torch.from_numpy(~left[entry.tensor]))
        return [
            float(sum(dead[group.name] for group in self._groups if entry.name in group.producers))
            for entry in connections
        ]

    def _find(self) -> list[CouplingGroup]:
        if self._example is None:
            return []
        try:
            return separable_groups(Network.analyse(self._model, self._example), self._model)
        except EvoError:
            return []


def slice_dead_units(model: nn.Module, example: Example, network: Network | None = None) -> nn.Module:
    """Return `model` without its dead units (see `unread_channels`), a plain network with the same output.

    A group of channels whose removal changes the output on `example` stays: those that a layer normalises together.

    Args:
        model: trained with connections pruned; left as it is.
        example: one real input batch, or one per input.
        network: the original that the model was cut from: what is kept is made legal there (channels that are protected
            stay, widths stay multiples); default anything goes.

    Raises:
        NetworkError: the network does not run on `example`.
    """
    own = Network.analyse(model, example)
    left = {name: np.asarray(tensor != 0) for name, tensor in own.tensors().items()}
    dead = {name: mask for name, mask in unread_channels(separable_groups(own, model), left).items() if mask.any()}
    before = origin_of(model).blueprint if network is None else (origin_of(model).blueprint or network.full)
    whole = own.full.masks
    masks = dict(whole)
    for name, mask in dead.items():
        if before is None or (name in before.masks and before.counts[name] == mask.size):
            masks[name] = ~mask
    masks = _legal(own, masks, before, network)
    reference = _output(own.build(own.full), example)
    if not _same(_output(own.build(Blueprint.from_masks(masks)), example), reference):
        trial = dict(whole)
        for name in dead:
            attempt = trial | {name: masks[name]}
            if _same(_output(own.build(Blueprint.from_masks(attempt)), example), reference):
                trial = attempt
        masks = trial
    bits = {} if before is None else before.bits
    small = own.build(Blueprint.from_masks(masks).with_bits(bits))
    origin = origin_of(small)
    kept = masks if before is None else _composed(before, masks)
    blueprint = Blueprint.from_masks(kept).with_bits(bits)
    return remember(small, type(origin)(origin.factory, origin.arguments, blueprint, origin.provenance))


def _legal(
    own: Network, masks: dict[str, BoolArray], before: Blueprint | None, network: Network | None
) -> dict[str, BoolArray]:
    """Return legal masks of `own` that keep what `masks` keep, and as few others as can be."""
    legal = own.repaired(masks).masks
    if network is None or before is None:
        return legal
    allowed = network.repaired(
        _composed(before, legal), {name: mask.astype(float) for name, mask in before.masks.items()}
    )
    return legal | {
        name: allowed.masks[name][mask]
        for name, mask in before.masks.items()
        if legal.get(name, mask).size == mask.sum()
    }


def _composed(before: Blueprint, masks: Mapping[str, BoolArray]) -> dict[str, BoolArray]:
    """Return which channels of the original are kept by `masks` of what `before` kept."""
    result = {}
    for name, mask in before.masks.items():
        result[name] = mask.copy()
        if name in masks and masks[name].size == mask.sum():
            result[name][mask] = masks[name]
    return result


def _read(group: CouplingGroup, read: Mapping[str, BoolArray]) -> BoolArray:
    """Return which channels of a group something reads."""
    reading = [cut for cut in group.cuts if cut.reads]
    if not reading or any(cut.tensor not in read for cut in reading):
        return np.ones(group.size, dtype=bool)
    result = np.zeros(group.size, dtype=bool)
    for cut in reading:
        result[cut.channels[_entries(read[cut.tensor], cut) & (cut.channels >= 0)]] = True
    return result


def _entries(left: BoolArray, cut: Cut) -> NDArray[np.bool_]:
    """Return which entries of the dimension that is cut have anything left, shaped like `cut.channels`."""
    if cut.channels.ndim == 1:
        others = tuple(dim for dim in range(left.ndim) if dim != cut.dim)
        return np.asarray(left.any(axis=others))
    blocks = left.reshape(len(cut.channels), -1, *left.shape[1:])  # a grouped convolution: its groups' own inputs
    return np.asarray(blocks.any(axis=(1, *range(3, blocks.ndim))))


def _silence(group: CouplingGroup, channels: BoolArray, read: Mapping[str, BoolArray]) -> None:
    """Take out what leads into these channels."""
    for cut in group.cuts:
        if not cut.reads and cut.tensor in read and cut.channels.ndim == 1:
            mine = (cut.channels >= 0) & channels[cut.channels]
            np.moveaxis(read[cut.tensor], cut.dim, 0)[mine] = False


def _output(model: nn.Module, example: Example) -> Tensor:
    inputs = (example,) if isinstance(example, Tensor) else tuple(example)
    with evaluating(model):
        outputs = model(*(part.clone() for part in inputs))
    leaves = torch.utils._pytree.tree_leaves(outputs)
    return torch.cat([leaf.flatten().double() for leaf in leaves if isinstance(leaf, Tensor)])


def _same(output: Tensor, reference: Tensor) -> bool:
    return bool((output - reference).abs().max() <= TOLERANCE * reference.abs().max().clamp(min=1))
