"""Building small networks: a trained network analysed once, any candidate cut out of it."""

import copy
import dataclasses
import hashlib
import warnings
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from evo.blueprint import Blueprint, BoolArray
from evo.errors import NetworkError, SettingsError
from evo.network import rules
from evo.network.costs import CostModel
from evo.network.expressions import cost_model, entangled
from evo.network.groups import CouplingGroup, Frozen, find_groups, frozen_layers
from evo.network.modes import evaluating
from evo.network.origin import Origin, origin_of, remember
from evo.network.plan import SlicePlan
from evo.network.program import program_of
from evo.network.proof import proved_groups
from evo.network.template import LAYERS, TRANSPOSED, Template, skeleton_of, tensors_of
from evo.network.trace import trace
from evo.network.untrained import Untrained
from evo.quantization import QUANTISABLE
from evo.quantization.latent import quantize_keeping

Example = Tensor | Sequence[Tensor]
"""One batch of inputs: a tensor of shape (N, …), or a sequence of them for a network with several inputs."""


@dataclasses.dataclass(frozen=True)
class ChannelMap:
    """Where the channels of one layer went.

    Attributes:
        outputs: new position of every original output channel, -1 if it was removed; shape (original outputs,).
        inputs: likewise of the input channels; shape (original inputs,), or (groups, inputs per group) if the groups of a
            grouped convolution keep different ones.
    """

    outputs: NDArray[np.int64]
    inputs: NDArray[np.int64]


class Network:
    """A trained network ready for surgery: its coupling groups, its costs, and the means to build any candidate.

    Make one with `Network.analyse`. It pickles with its weights as NumPy arrays, so that Ray shares them between workers
    without copying; nothing here ever hands out a view of them.

    Attributes:
        groups: the searchable coupling groups, proved one by one, in module order.
        frozen: what is left whole, with reasons.
        costs: exact costs of every candidate.
        program: a hexadecimal hash of what the network does with its weights, see `evo.network.program`.
    """

    def __init__(
        self,
        skeleton: nn.Module,
        tensors: Mapping[str, Tensor],
        groups: Sequence[CouplingGroup],
        frozen: Sequence[Frozen],
        costs: CostModel,
        origin: Origin,
        program: str,
    ) -> None:
        self.program = program
        self.groups = tuple(groups)
        self.frozen = tuple(frozen)
        self.costs = costs
        self._origin = origin
        self._tensors = dict(tensors)
        self._skeleton = skeleton
        self._template = Template(skeleton)
        self._plan = SlicePlan(self.groups, self._tensors)

    @classmethod
    def analyse(
        cls, model: nn.Module, example: Example, *, protect: Sequence[str] = (), multiple: int = 1
    ) -> "Network":
        """Find and prove the coupling groups of `model`, which is left as it is.

        Args:
            model: the trained network; its weights are copied.
            example: one real input batch, shape (N, …), or one per input of the network.
            protect: names or patterns ("head.*") of layers whose channels all stay.
            multiple: groups keep a multiple of this many channels, or all (8 suits tensor cores).

        Raises:
            NetworkError: the network does not run on `example`.
            SettingsError: a pattern matches no layer, or `multiple` is less than 1.
        """
        if multiple < 1:
            raise SettingsError(f"multiple: expected at least 1, got {multiple}")
        model = _copied(model).cpu().eval()
        # Before anything runs: forward passes may leave something behind in buffers and attributes.
        tensors = {name: tensor.clone() for name, tensor in tensors_of(model).items()}
        skeleton = skeleton_of(model)
        inputs = _runnable(model, example)
        template = Template(skeleton)
        held = dict(model.named_parameters()) | dict(model.named_buffers())
        order = {name: index for index, (name, _) in enumerate(model.named_modules())}
        seen = trace(model, inputs, held, rules.apply, len(tree_leaves(inputs)[0]))
        grouping = find_groups(seen, order, protect=protect, multiple=multiple)

        def cut(kept: Sequence[CouplingGroup], held: Mapping[str, Tensor], masks: Mapping[str, BoolArray]) -> nn.Module:
            return template.make(*SlicePlan(kept, held).apply(held, masks))

        parameters = {name: tensor for name, tensor in held.items() if isinstance(tensor, nn.Parameter)}
        failed = entangled(seen, grouping, parameters)
        sound = [group for group in grouping.groups if group.name not in failed]
        groups, disproved = proved_groups(model, inputs, sound, cut, norms=frozenset(seen.norms), training=seen.trained)
        failed |= disproved
        names = {id(parameter): name for name, parameter in parameters.items()}
        layers = [module._parameters.get("weight") for module in model.modules() if isinstance(module, LAYERS)]
        weights = dict.fromkeys(names[id(weight)] for weight in layers if weight is not None)
        frozen = frozen_layers(seen, grouping, failed, weights, order)
        costs = cost_model(seen, grouping, [group.name not in failed for group in grouping.groups], parameters)
        return cls(skeleton, tensors, groups, frozen, costs, origin_of(model), program_of(model, inputs))

    @property
    def full(self) -> Blueprint:
        """The blueprint that keeps everything."""
        return Blueprint.from_masks({group.name: np.ones(group.size, dtype=bool) for group in self.groups})

    @property
    def channels(self) -> int:
        """Number of searchable channels: D of ECS."""
        return sum(group.size for group in self.groups)

    @property
    def fewest(self) -> NDArray[np.int64]:
        """Kept channels per group of the smallest legal candidate, shape (G,); no cost is lower for any other."""
        return np.array([group.legal_count(1) for group in self.groups], dtype=np.int64)

    def repaired(self, masks: Mapping[str, BoolArray], importance: Mapping[str, ArrayLike] | None = None) -> Blueprint:
        """Return the legal blueprint closest to `masks`: the most important channels that are missing are restored.

        Legal is a blueprint that keeps at least one channel per group (see `CouplingGroup.least`), equally many of every part
        of a grouped convolution, and a multiple of the number that the network was analysed with, or all.

        Args:
            masks: boolean, shape (channels,), by group name.
            importance: which channels to restore first, shape (channels,) by group name; default in their order.
        """
        legal = {}
        for group in self.groups:
            scores = -np.arange(group.size) if importance is None else np.asarray(importance[group.name])
            legal[group.name] = restored(group, masks[group.name], scores)
        return Blueprint.from_masks(legal)

    def is_weight(self, name: str) -> bool:
        """Tell whether `name` is a tensor with filters, unlike a bias or a scale: it has more than one dimension."""
        return name in self._tensors and self._tensors[name].dim() > 1

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

    def bits(self, blueprints: Blueprint | Sequence[Blueprint]) -> NDArray[np.int64] | None:
        """Return weight bits per layer of `costs.layers`, shape (L,) or (N, L); None if nothing is quantised.

        Raises:
            NetworkError: a blueprint has bits for something else.
        """
        if isinstance(blueprints, Blueprint):
            return self.costs.bits_of(blueprints.bits) if blueprints.layer_bits else None
        if not any(blueprint.layer_bits for blueprint in blueprints):
            return None
        return np.array([self.costs.bits_of(blueprint.bits) for blueprint in blueprints], dtype=np.int64)

    @property
    def quantisable(self) -> tuple[str, ...]:
        """Layers whose weights can have bits, in the order of `costs.layers`; one of those that share a weight."""
        weights = {
            name
            for name, module in self._skeleton.named_modules()
            if isinstance(module, QUANTISABLE) and isinstance(module._parameters.get("weight"), nn.Parameter)
        }
        return tuple(layer.name for layer in self.costs.layers if layer.name in weights)

    def cost_of(self, blueprint: Blueprint) -> dict[str, int]:
        """Return every cost of one candidate as plain integers, named as in `COSTS`; bytes by its bits.

        Raises:
            NetworkError: as `bits`.
        """
        costs = self.costs.costs(self.counts(blueprint), bits=self.bits(blueprint))
        return {name: int(value) for name, value in costs.items()}

    def build(self, blueprint: Blueprint) -> nn.Module:
        """Return the candidate as a plain network of its own: sliced copies of the trained weights, in evaluation mode.

        Weights of layers with bits are rounded to what these can express (`evo.quantization`); training goes on from what they
        were before, which is noted on the network.

        Raises:
            NetworkError: the blueprint is of another network, or keeps unequal parts of a grouped convolution.
        """
        model = self._template.make(*self._plan.apply(self._tensors, self._checked(blueprint)))
        if blueprint.bits:
            quantize_keeping(model, blueprint.bits)
        return remember(model, dataclasses.replace(self._origin, blueprint=blueprint))

    def untrained(
        self,
        counts: ArrayLike | Blueprint,
        seed: int = 0,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> nn.Module:
        """Return a candidate with random weights in training mode, in a fraction of the time of `build` (see `Untrained`).

        Args:
            counts: kept channels per group, shape (G,); of a blueprint only these matter.
            seed: of the weights, which depend on it and on `counts` alone.
            device: where to make it.
            dtype: of its floating-point parameters and buffers.

        Raises:
            SettingsError: the counts are of another shape or type.
            NetworkError: a group cannot keep so many channels, or the blueprint is of another network.
        """
        if isinstance(counts, Blueprint):
            self._checked(counts)
            counts = self.counts(counts)
        return self._untrained.make(np.asarray(counts), seed, torch.device(device), dtype)

    @cached_property
    def _untrained(self) -> Untrained:
        return Untrained(self._skeleton, self._tensors, self.groups, self._plan)

    def _checked(self, blueprint: Blueprint) -> Mapping[str, BoolArray]:
        masks = blueprint.masks
        expected = {group.name: group.size for group in self.groups}
        if {name: mask.size for name, mask in masks.items()} != expected:
            raise NetworkError(f"the blueprint's groups {sorted(masks)} are not this network's {sorted(expected)}")
        for group in self.groups:
            if group.least > 1 and masks[group.name].sum() < group.least:
                raise NetworkError(f"{group.name}: it keeps one channel, but the network only works with two or more")
            if group.parts > 1:
                kept = masks[group.name].reshape(group.parts, -1).sum(1)
                if (kept != kept[0]).any():
                    raise NetworkError(
                        f"{group.name}: its {group.parts} parts keep {kept.tolist()} channels, but a grouped layer needs "
                        "equally many of each; Network.repaired makes a blueprint legal"
                    )
        return masks

    def channel_maps(self, blueprint: Blueprint) -> dict[str, ChannelMap]:
        """Return, for every layer with a weight by its dotted name, where its original channels are in the candidate.

        Raises:
            NetworkError: as `build`.
        """
        entries = self._plan.entries(self._checked(blueprint))
        names = {id(parameter): name for name, parameter in self._skeleton.named_parameters()}

        def positions(weight: Tensor, dim: int) -> NDArray[np.int64]:
            pattern = self._plan.pattern(names[id(weight)], dim)
            kept = np.ones(weight.shape[dim], dtype=bool) if pattern is None else entries[pattern]
            return np.where(kept, np.cumsum(kept, axis=-1) - 1, -1)

        maps = {}
        for name, module in self._skeleton.named_modules():
            weight = module._parameters.get("weight")
            if weight is not None and isinstance(module, LAYERS):
                outputs, inputs = (1, 0) if isinstance(module, TRANSPOSED) else (0, 1)
                maps[name] = ChannelMap(positions(weight, outputs), positions(weight, inputs))
        return maps

    def digest(self) -> str:
        """Return a hexadecimal content hash of structure and weights."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self._tensors.items()):
            digest.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
            digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
        digest.update(repr([(group.name, group.size, group.step, group.least) for group in self.groups]).encode())
        return digest.hexdigest()[:32]

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        state["_tensors"] = {name: tensor.numpy() for name, tensor in self._tensors.items()}
        del state["_template"]
        state.pop("_untrained", None)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        arrays = state.pop("_tensors")
        self.__dict__.update(state)
        self._template = Template(self._skeleton)
        with warnings.catch_warnings():
            # Shared arrays are read-only, of which torch warns; `build` copies every one before anything can write.
            warnings.filterwarnings("ignore", message=".*not writable")
            self._tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}


def restored(group: CouplingGroup, mask: BoolArray, scores: NDArray[Any], minimum: int = 1) -> BoolArray:
    """Return a legal mask of `group` that keeps everything that `mask` keeps, and of the rest what scores highest.

    Args:
        group: the group.
        mask: boolean, shape (channels,).
        scores: importance of each channel, same shape.
        minimum: channels to keep at least.
    """
    rows = mask.reshape(group.parts, -1).copy()
    wanted = group.legal_count(max(minimum, int(rows.sum(1).max()) * group.parts)) // group.parts
    for row, own in zip(rows, np.asarray(scores).reshape(rows.shape), strict=True):
        missing = wanted - int(row.sum())
        if missing:
            removed = np.flatnonzero(~row)
            row[removed[np.argsort(-own[removed], kind="stable")[:missing]]] = True
    return rows.reshape(-1)


def _copied(model: nn.Module) -> nn.Module:
    """Return a deep copy, also of networks that keep results of a pass with gradients (pruning masks, activations).

    Raises:
        NetworkError: the network is compiled or cannot be copied.
    """
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule) or hasattr(module, "_orig_mod"):
            raise NetworkError(f"{name or type(model).__name__}: it is compiled; pass the network it was compiled from")
    results = {
        id(value): value.detach().clone()
        for module in model.modules()
        for value in vars(module).values()
        if isinstance(value, Tensor) and not value.is_leaf
    }
    try:
        return copy.deepcopy(model, results)
    except Exception as error:
        raise NetworkError(f"{type(model).__name__} cannot be copied: {error}") from error


def _runnable(model: nn.Module, example: Example) -> tuple[Tensor, ...]:
    """Return one input of the example, or two if the network does not run on one.

    Raises:
        NetworkError: it does not run on those either.
    """
    batch = (example,) if isinstance(example, Tensor) else tuple(example)
    problems: list[Exception] = []
    for count in (1, 2):
        inputs = tuple(value[:count].cpu() for value in batch)
        try:
            with evaluating(model):
                model(*inputs)
            return inputs
        except Exception as error:
            problems.append(error)
    shapes = " and ".join(str(tuple(value[:1].shape)) for value in batch)
    why = " ".join(str(problems[0]).split()) or type(problems[0]).__name__
    raise NetworkError(f"{type(model).__name__} does not run on an input of shape {shapes}: {why}") from problems[0]
