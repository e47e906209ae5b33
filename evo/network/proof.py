"""Proof of surgery: cutting channels must give the same output as silencing them, in float64, on random weights."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from evo.blueprint import BoolArray
from evo.network.groups import CouplingGroup
from evo.network.modes import DispatchMode, evaluating
from evo.network.template import NORMS, tensors_of
from evo.network.trace import doubled

TOLERANCE = 1e-9  # relative to the largest output; float64 rounding stays four orders of magnitude below

Slice = Callable[[Sequence[CouplingGroup], Mapping[str, Tensor], Mapping[str, BoolArray]], nn.Module]
Masks = Mapping[str, BoolArray]


def proved_groups(
    model: nn.Module,
    inputs: tuple[Any, ...],
    groups: Sequence[CouplingGroup],
    cut: Slice,
    *,
    norms: frozenset[str] = frozenset(),
    training: bool = False,
) -> tuple[list[CouplingGroup], dict[str, str]]:
    """Return the groups that may be offered for search, and why the others may not, by name.

    To silence a channel is to set the weights that read it to zero and to leave it out of the mean and variance of layers
    that normalise over channels. All groups are tried at once, with a random half of the channels removed and then with
    the other half, and with all but the fewest, so that three forward passes each way vouch for all; only if that fails
    are halves of the groups tried, and halves of these. A group that fails with a single channel only is offered with at
    least two. Weights are random, since trained ones can hide an error (a zero scale silences whatever follows it).

    Args:
        model: the network; it is copied.
        inputs: what its forward is called with; replaced by random values where they are floating-point.
        groups: candidates found by `find_groups`.
        cut: builds a sliced network from groups, tensors and keep masks.
        norms: names of the weights of layers that normalise over channels.
        training: the network has layers that work in training only; it has to run in that mode as well.
    """
    rng = np.random.default_rng(0)
    reference = _randomised(model)
    generator = torch.Generator().manual_seed(0)
    noise = tree_map(lambda value: _noise(value, generator), inputs)
    halves = {group.name: _half(group, rng) for group in groups}
    tensors = tensors_of(reference)

    def problem(trial: Sequence[CouplingGroup], masks: Masks) -> str | None:
        try:
            silenced = _silenced(reference, noise, trial, masks, norms)
            small = cut(trial, tensors, masks)
            sliced = _outputs(small, noise)
            if training:
                small.train()(*doubled(noise))
        except Exception as error:  # whatever breaks here would have broken the user's candidate
            return f"cutting it breaks the network ({_first_line(error)})"
        if [out.shape for out in sliced] != [out.shape for out in silenced]:
            return "cutting it changes the shape of the network's output"
        return next(filter(None, map(_difference, sliced, silenced)), None)

    def problems(trial: Sequence[CouplingGroup]) -> str | None:
        # One half and then the other: every channel is removed once, so that none is vouched for by chance.
        masks = {group.name: halves[group.name] for group in trial}
        others = {name: mask if mask.all() else ~mask for name, mask in masks.items()}
        # As few as can be: a single channel is where e.g. `squeeze` drops one dimension too many.
        fewest = {group.name: _fewest(group) for group in trial}
        return problem(trial, masks) or problem(trial, others) or problem(trial, fewest)

    def judged(trial: Sequence[CouplingGroup], reason: str | None) -> list[CouplingGroup]:
        if reason is None:
            return list(trial)
        if len(trial) > 1:
            parts = trial[: len(trial) // 2], trial[len(trial) // 2 :]
            return judged(parts[0], problems(parts[0])) + judged(parts[1], problems(parts[1]))
        pair = replace(trial[0], least=2)
        if pair.legal_count(1) > trial[0].legal_count(1) and problems([pair]) is None:
            return [pair]
        failed[trial[0].name] = reason
        return []

    failed: dict[str, str] = {}
    reason = problems(groups) if groups else None
    if reason is None:
        return list(groups), {}
    try:
        _outputs(reference, noise)
    except Exception as error:
        unproved = f"nothing can be proved, since the network does not run in float64 ({_first_line(error)})"
        return [], {group.name: unproved for group in groups}
    proved = judged(groups, reason)
    if proved and (together := problems(proved)):
        return [], failed | {group.name: f"together with other groups {together}" for group in proved}
    return proved, failed


def _half(group: CouplingGroup, rng: np.random.Generator) -> BoolArray:
    """Return a keep mask of a random half of the channels, equally many of each part."""
    width = group.size // group.parts
    rows = [rng.permutation(np.arange(width) < (width + 1) // 2) for _ in range(group.parts)]
    return np.concatenate(rows)


def _fewest(group: CouplingGroup) -> BoolArray:
    """Return a keep mask of as few channels as are legal."""
    width = group.size // group.parts
    return np.tile(np.arange(width) < group.legal_count(1) // group.parts, group.parts)


def _noise(value: Any, generator: torch.Generator) -> Any:
    if isinstance(value, Tensor) and value.is_floating_point():
        return torch.randn(value.shape, generator=generator, dtype=torch.float64)
    return value


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _difference(small: Tensor, large: Tensor) -> str | None:
    if not small.is_floating_point():
        return None if torch.equal(small, large) else "cutting it is not the same as silencing it"
    if not small.numel():
        return None
    gap, scale = float((small - large).abs().max()), float(large.abs().max())
    if gap <= TOLERANCE * scale:
        return None
    return f"cutting it is not the same as silencing it (outputs differ by {gap:.1e}, the largest is {scale:.1e})"


def _randomised(model: nn.Module) -> nn.Module:
    """Return a float64 copy with random weights that keep the size of signals, and random batch statistics."""
    copied = copy.deepcopy(model).to(torch.float64).eval()
    generator = torch.Generator().manual_seed(0)

    def draw(shape: torch.Size) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    with torch.no_grad():
        for parameter in copied.parameters():
            if not parameter.is_floating_point():
                continue
            if parameter.dim() > 1:
                # Gain √2 makes up for the half that ReLU loses, else deep networks forget their input. Uniform and in place:
                # the large networks have gigabytes of them.
                bound = (6 / max(1, parameter[0].numel())) ** 0.5
                parameter.uniform_(-bound, bound, generator=generator)
            else:
                parameter.uniform_(0.5, 1.5, generator=generator)
        for module in copied.modules():
            bias = module._parameters.get("bias")
            if bias is not None:
                bias.copy_(draw(bias.shape) / 10)
            if isinstance(module, NORMS) and module.running_mean is not None and module.running_var is not None:
                module.running_mean.copy_(draw(module.running_mean.shape) / 10)
                module.running_var.copy_(torch.rand(module.running_var.shape, generator=generator) + 0.5)
    return copied


def _outputs(model: nn.Module, inputs: tuple[Any, ...], kept: Mapping[int, Tensor] | None = None) -> list[Tensor]:
    """Return every tensor in the network's output, computed in float64; see `_Exact` for `kept`."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with evaluating(model), torch.random.fork_rng(devices=[]), _Exact(kept or {}):
            torch.default_generator.manual_seed(0)  # torch.manual_seed would begin those of GPUs anew, too
            return [leaf for leaf in tree_leaves(model(*inputs)) if isinstance(leaf, Tensor)]
    finally:
        torch.set_default_dtype(default)


def _silenced(
    model: nn.Module, inputs: tuple[Any, ...], groups: Sequence[CouplingGroup], masks: Masks, norms: frozenset[str]
) -> list[Tensor]:
    """Return the outputs of a network of full size in which nothing reads a removed channel."""
    tensors = tensors_of(model)
    restored: dict[str, Tensor] = {}
    kept: dict[int, Tensor] = {}
    try:
        for group in groups:
            removed = np.append(~masks[group.name], False)
            for cut in group.cuts:
                gone = torch.from_numpy(removed[cut.channels])
                if cut.tensor in norms:
                    weight = tensors[cut.tensor]
                    kept.setdefault(weight.data_ptr(), torch.ones(len(weight), dtype=torch.bool)).logical_and_(~gone)
                elif cut.reads:
                    weight = tensors[cut.tensor]
                    if cut.tensor not in restored:
                        restored[cut.tensor] = weight.clone()
                    _zero(weight, cut.dim, gone)
        return _outputs(model, inputs, kept)
    finally:
        for name, weight in restored.items():
            tensors[name].copy_(weight)


def _zero(weight: Tensor, dim: int, gone: Tensor) -> None:
    """Set the entries of a weight that read what is gone to zero, in place."""
    if gone.dim() == 1:
        weight.index_fill_(dim, gone.nonzero().squeeze(1), 0.0)
    else:
        blocks = weight.view(len(gone), -1, *weight.shape[1:])
        for block, own in zip(blocks, gone, strict=True):
            block.index_fill_(dim, own.nonzero().squeeze(1), 0.0)


class _Exact(DispatchMode):  # type: ignore[no-untyped-call]
    """Keeps a network in float64, and silenced channels out of the statistics of layer and group normalisation.

    `kept` has, by address of a layer's weight, which of its channels are not silenced.
    """

    def __init__(self, kept: Mapping[int, Tensor]) -> None:
        super().__init__()
        self.kept = kept

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Compute the two normalisations here, and everything else as ever."""
        name = func._schema.name
        kwargs = kwargs or {}
        if name == "aten::_to_copy" and kwargs.get("dtype") in (torch.float32, torch.float16, torch.bfloat16):
            return func(*args, **{**kwargs, "dtype": torch.float64})
        if name == "aten::native_layer_norm" and args[2] is not None and args[2].data_ptr() in self.kept:
            x, _, weight, bias, eps = args
            normal = _normalised(x, self.kept[weight.data_ptr()], eps)
            return (normal * weight + (0 if bias is None else bias), *func(*args)[1:])
        if name == "aten::native_group_norm" and args[1] is not None and args[1].data_ptr() in self.kept:
            x, weight, bias, batch, channels, _, groups, eps = args
            mask = self.kept[weight.data_ptr()].view(1, groups, -1, 1)
            mask = mask.expand(batch, groups, channels // groups, x.numel() // (batch * channels))
            normal = _normalised(x.reshape(mask.shape).flatten(2), mask.flatten(2), eps).view(x.shape)
            shape = (1, channels, *[1] * (x.dim() - 2))
            return (normal * weight.view(shape) + (0 if bias is None else bias.view(shape)), *func(*args)[1:])
        return func(*args, **kwargs)


def _normalised(x: Tensor, mask: Tensor, eps: float) -> Tensor:
    """Normalise along the last dimension with the mean and variance of what the mask keeps."""
    count = mask.expand(x.shape).sum(-1, keepdim=True).clamp(min=1)  # all of a group may be silenced
    mean = (x * mask).sum(-1, keepdim=True) / count
    variance = ((x - mean).square() * mask).sum(-1, keepdim=True) / count
    return (x - mean) * (variance + eps).rsqrt()
