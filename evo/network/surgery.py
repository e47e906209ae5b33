"""Building small networks: a slice plan compiled once per network, applied once per candidate."""

import copy
import dataclasses
import hashlib
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from evo.blueprint import Blueprint, BoolArray
from evo.errors import NetworkError
from evo.network.costs import CostModel, LayerCost, Width
from evo.network.groups import BATCH_NORMS, LAYERS, CouplingGroup, Frozen, evaluating, find_groups
from evo.network.origin import Origin, origin_of, remember
from evo.network.proof import disproved


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Return every parameter and buffer of `model` once, by its first dotted name, detached."""
    tensors = {name: parameter.detach() for name, parameter in model.named_parameters()}
    tensors |= {name: buffer.detach() for name, buffer in model.named_buffers()}
    return tensors


def skeleton_of(model: nn.Module) -> nn.Module:
    """Return a copy of `model` on the `meta` device, without memory; shared parameters stay shared, unlike with `.to`."""
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        empty = torch.empty_like(parameter, device="meta")
        memo[id(parameter)] = nn.Parameter(empty, requires_grad=parameter.requires_grad)
    for buffer in model.buffers():
        memo[id(buffer)] = torch.empty_like(buffer, device="meta")
    return copy.deepcopy(model, memo)


def fill(skeleton: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
    """Put `tensors` into `skeleton` in place of its own, make the layers' sizes agree, and return it.

    Shared parameters stay shared. Every layer's `in_channels`, `out_features`, … follow the shapes of its weights.
    """
    replaced: dict[int, nn.Parameter] = {}
    for name, parameter in skeleton.named_parameters():
        replaced[id(parameter)] = nn.Parameter(tensors[name], requires_grad=parameter.requires_grad)
    buffers = {id(buffer): tensors[name] for name, buffer in skeleton.named_buffers()}
    for module in skeleton.modules():
        for own, held in module._parameters.items():
            if held is not None:
                module._parameters[own] = replaced[id(held)]
        for own, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[own] = buffers[id(buffer)]
        _follow_weights(module)
    return skeleton


def _follow_weights(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        module.out_channels, per_group = module.weight.shape[:2]
        module.in_channels = per_group * module.groups
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, BATCH_NORMS):
        reference = module.weight if module.affine else module.running_mean
        if reference is not None:
            module.num_features = reference.shape[0]


class Network:
    """A trained network ready for surgery: its coupling groups, its costs, and the means to build any candidate.

    Make one with `Network.analyse`. It pickles with its weights as NumPy arrays, so that Ray shares them between workers
    without copying; nothing here ever hands out a view of them.

    Attributes:
        groups: the searchable coupling groups, proved one by one, in module order.
        frozen: what is left whole, with reasons.
        costs: exact costs of every candidate.
    """

    def __init__(
        self,
        skeleton: nn.Module,
        tensors: Mapping[str, Tensor],
        groups: Sequence[CouplingGroup],
        frozen: Sequence[Frozen],
        costs: CostModel,
        origin: Origin,
    ) -> None:
        self.groups = tuple(groups)
        self.frozen = tuple(frozen)
        self.costs = costs
        self._origin = origin
        self._skeleton = skeleton
        self._tensors = dict(tensors)
        self._owners = _owners(self.groups, self._tensors)

    @classmethod
    def analyse(cls, model: nn.Module, example: Tensor) -> "Network":
        """Find and prove the coupling groups of `model`, which is left as it is.

        Args:
            model: the trained network; its weights are copied.
            example: one real input batch, shape (N, …).

        Raises:
            NetworkError: the network does not run on `example`, computes its weights from others, or nothing in it can be
                pruned.
        """
        for name, module in model.named_modules():
            if isinstance(module, LAYERS) and not isinstance(module._parameters.get("weight"), nn.Parameter):
                raise NetworkError(
                    f"{name}: its weight is computed from other parameters (weight normalisation, pruning masks, …); "
                    "make it a plain parameter first, e.g. with torch.nn.utils.parametrize.remove_parametrizations"
                )
        model = copy.deepcopy(model).cpu().eval()
        tensors = {name: tensor.clone() for name, tensor in tensors_of(model).items()}
        try:
            with evaluating(model):
                model(example)
        except Exception as error:
            raise NetworkError(
                f"{type(model).__name__} does not run on an input of shape {tuple(example.shape)}: {error}"
            ) from error
        skeleton = skeleton_of(model)
        groups, frozen = find_groups(model, example)
        failed = disproved(model, example, groups, lambda kept, held, masks: cls._slice(skeleton, kept, held, masks))
        frozen += [Frozen(group.name, failed[group.name]) for group in groups if group.name in failed]
        groups = [group for group in groups if group.name not in failed]
        if not groups:
            reasons = "; ".join(f"{entry.name or 'network'}: {entry.reason}" for entry in frozen) or "it has no layers"
            raise NetworkError(f"{type(model).__name__} has nothing that can be pruned ({reasons})")
        costs = _cost_model(model, example, groups)
        return cls(skeleton, tensors, groups, frozen, costs, origin_of(model))

    @classmethod
    def _slice(
        cls,
        skeleton: nn.Module,
        groups: Sequence[CouplingGroup],
        tensors: Mapping[str, Tensor],
        masks: Mapping[str, BoolArray],
    ) -> nn.Module:
        return fill(copy.deepcopy(skeleton), _apply(_owners(groups, tensors), groups, tensors, masks))

    @property
    def full(self) -> Blueprint:
        """The blueprint that keeps everything."""
        return Blueprint.from_masks({group.name: np.ones(group.size, dtype=bool) for group in self.groups})

    @property
    def channels(self) -> int:
        """Number of searchable channels: D of ECS."""
        return sum(group.size for group in self.groups)

    def tensor(self, name: str) -> NDArray[Any]:
        """Return a copy of an original parameter or buffer as a NumPy array."""
        return self._tensors[name].clone().numpy()

    def tensors(self) -> dict[str, Tensor]:
        """Return copies of all original parameters and buffers, by dotted name."""
        return {name: tensor.clone() for name, tensor in self._tensors.items()}

    def counts(self, blueprints: Blueprint | Sequence[Blueprint]) -> NDArray[np.int64]:
        """Return kept channels per group, shape (G,) for one blueprint or (N, G) for several."""
        if isinstance(blueprints, Blueprint):
            return np.array([blueprints.counts[group.name] for group in self.groups], dtype=np.int64)
        return np.array([self.counts(blueprint) for blueprint in blueprints], dtype=np.int64)

    def cost_of(self, blueprint: Blueprint) -> dict[str, int]:
        """Return every cost of one candidate as plain integers, named as in `COSTS`."""
        return {name: int(value) for name, value in self.costs.costs(self.counts(blueprint)).items()}

    def build(self, blueprint: Blueprint) -> nn.Module:
        """Return the candidate as a plain network of its own: sliced copies of the trained weights, in evaluation mode.

        Raises:
            NetworkError: the blueprint is of another network.
        """
        masks = blueprint.masks
        expected = {group.name: group.size for group in self.groups}
        if {name: mask.size for name, mask in masks.items()} != expected:
            raise NetworkError(f"the blueprint's groups {sorted(masks)} are not this network's {sorted(expected)}")
        tensors = _apply(self._owners, self.groups, self._tensors, masks)
        model = fill(copy.deepcopy(self._skeleton), tensors)
        return remember(model, dataclasses.replace(self._origin, blueprint=blueprint))

    def digest(self) -> str:
        """Return a hexadecimal content hash of structure and weights."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self._tensors.items()):
            digest.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
            digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
        digest.update(repr([(group.name, group.size) for group in self.groups]).encode())
        return digest.hexdigest()[:32]

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        state["_tensors"] = {name: tensor.numpy() for name, tensor in self._tensors.items()}
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        arrays = state.pop("_tensors")
        self.__dict__.update(state)
        with warnings.catch_warnings():
            # Shared arrays are read-only, of which torch warns; `build` copies every one before anything can write.
            warnings.filterwarnings("ignore", message=".*not writable")
            self._tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}


Owners = dict[str, dict[int, NDArray[np.int64]]]


def _owners(groups: Sequence[CouplingGroup], tensors: Mapping[str, Tensor]) -> Owners:
    """Return, per tensor and dimension, the position of each entry's channel in the joined keep mask, -1 if always kept."""
    owners: Owners = {}
    offset = 0
    for group in groups:
        for cut in group.cuts:
            length = tensors[cut.tensor].shape[cut.dim]
            owner = owners.setdefault(cut.tensor, {}).setdefault(cut.dim, np.full(length, -1, dtype=np.int64))
            mine = cut.channels >= 0
            owner[mine] = offset + cut.channels[mine]
        offset += group.size
    return owners


def _apply(
    owners: Owners, groups: Sequence[CouplingGroup], tensors: Mapping[str, Tensor], masks: Mapping[str, BoolArray]
) -> dict[str, Tensor]:
    """Return a copy of every tensor with the entries of removed channels left out."""
    keep = np.concatenate([*(masks[group.name] for group in groups), [True]])
    result = {}
    for name, tensor in tensors.items():
        sliced = tensor
        for dim, owner in owners.get(name, {}).items():
            kept = keep[owner]
            if not kept.all():
                sliced = sliced.index_select(dim, torch.from_numpy(np.flatnonzero(kept)))
        result[name] = tensor.clone() if sliced is tensor else sliced
    return result


def _cost_model(model: nn.Module, example: Tensor, groups: Sequence[CouplingGroup]) -> CostModel:
    """Measure output positions with one forward pass and express every parameter by the groups' widths."""
    positions: dict[str, int] = {}

    def record(name: str, channel_dim: int) -> Any:
        def hook(module: nn.Module, _: object, output: Tensor) -> None:
            count = output.numel() // (example.shape[0] * output.shape[channel_dim])
            positions[name] = positions.get(name, 0) + count

        return hook

    layers = {name: module for name, module in model.named_modules() if isinstance(module, LAYERS)}
    handles = [
        module.register_forward_hook(record(name, 1 if isinstance(module, nn.Conv2d) else -1))
        for name, module in layers.items()
    ]
    with evaluating(model):
        model(example)
    for handle in handles:
        handle.remove()

    # A weight that several layers share counts once, like a layer that is called several times.
    first_name = {id(parameter): name for name, parameter in model.named_parameters()}
    first_user: dict[str, str] = {}
    for name in [name for name in layers if name in positions]:
        first = first_user.setdefault(first_name[id(layers[name].weight)], name)
        if first != name:
            positions[first] += positions.pop(name)

    tensors = tensors_of(model)
    owners = _owners(groups, tensors)
    bounds = np.cumsum([0, *(group.size for group in groups)])

    def width(tensor: str, dim: int, factor: int = 1) -> Width:
        owner = owners.get(tensor, {}).get(dim)
        if owner is None:
            return Width(tensors[tensor].shape[dim] * factor)
        entries = np.bincount(np.searchsorted(bounds, owner[owner >= 0], side="right") - 1, minlength=len(groups))
        per_channel = [(g, int(entries[g]) // groups[g].size) for g in np.flatnonzero(entries).tolist()]
        return Width(int((owner < 0).sum()), tuple(per_channel))

    costs = []
    for name, module in layers.items():
        if name not in positions:
            continue
        weight = first_name[id(module.weight)]
        convolution = isinstance(module, nn.Conv2d)
        kernel = int(np.prod(module.weight.shape[2:])) if convolution else 1
        split = module.groups if isinstance(module, nn.Conv2d) else 1
        costs.append(LayerCost(name, kernel, width(weight, 1, split), width(weight, 0), positions[name], split))
    others = []
    for name, parameter in model.named_parameters():
        if name in first_user:
            continue
        if name in owners and parameter.dim() == 1:
            others.append(width(name, 0))
        else:
            others.append(Width(parameter.numel()))
    size = next(iter(tensors.values())).element_size() if tensors else 4
    return CostModel([group.size for group in groups], costs, others=others, bytes_per_parameter=size)
