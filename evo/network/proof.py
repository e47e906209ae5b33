"""Proof of surgery: cutting channels must give the same output as silencing them, in float64, on random weights."""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from evo.blueprint import BoolArray
from evo.network.groups import BATCH_NORMS, CouplingGroup, evaluating

TOLERANCE = 1e-9  # relative to the largest output; float64 rounding stays four orders of magnitude below

Slice = Callable[[Sequence[CouplingGroup], Mapping[str, Tensor], Mapping[str, BoolArray]], nn.Module]


def disproved(model: nn.Module, example: Tensor, groups: Sequence[CouplingGroup], cut: Slice) -> dict[str, str]:
    """Return the groups that must not be offered for search, with reasons, by name.

    All groups are tried at once, with a random half of the channels removed and then with the other half; only if that
    fails is each tried alone. Weights are random, since trained ones can hide an error (a zero scale silences whatever
    follows it).

    Args:
        model: the network; it is copied.
        example: one input batch.
        groups: candidates found by `find_groups`.
        cut: builds a sliced network from groups, tensors and keep masks.
    """
    rng = np.random.default_rng(0)
    reference = _randomised(model)
    inputs = torch.from_numpy(rng.standard_normal(example.shape)).to(torch.float64)

    def problem(trial: Sequence[CouplingGroup], masks: Mapping[str, BoolArray]) -> str | None:
        tensors = {name: tensor.detach() for name, tensor in reference.named_parameters()}
        tensors |= dict(reference.named_buffers())
        try:
            silenced = _outputs(_silenced(reference, trial, masks), inputs)
            sliced = _outputs(cut(trial, tensors, masks), inputs)
        except Exception as error:  # whatever breaks here would have broken the user's candidate
            return f"cutting it breaks the network ({type(error).__name__}: {error})"
        if [out.shape for out in sliced] != [out.shape for out in silenced]:
            return "cutting it changes the shape of the network's output"
        for small, large in zip(sliced, silenced, strict=True):
            if small.is_floating_point():
                gap = float((small - large).abs().max()) if small.numel() else 0.0
                if not gap <= TOLERANCE * max(1.0, float(large.abs().max())):
                    return f"cutting it is not the same as silencing it (outputs differ by {gap:.1e})"
        return None

    def problems(trial: Sequence[CouplingGroup]) -> str | None:
        # One half and then the other: every channel is removed once, so that none is vouched for by chance.
        masks = {group.name: rng.permutation(np.arange(group.size) < (group.size + 1) // 2) for group in trial}
        others = {name: mask if mask.all() else ~mask for name, mask in masks.items()}
        return problem(trial, masks) or problem(trial, others)

    survivors = list(groups)
    failed: dict[str, str] = {}
    if survivors and problems(survivors):
        for group in groups:
            reason = problems([group])
            if reason:
                failed[group.name] = reason
        survivors = [group for group in groups if group.name not in failed]
        together = problems(survivors) if survivors else None
        if together:
            failed |= {group.name: f"together with other groups {together}" for group in survivors}
    return failed


def _randomised(model: nn.Module) -> nn.Module:
    """Return a float64 copy with random weights of unit gain and random batch statistics."""
    copied = copy.deepcopy(model).to(torch.float64).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in copied.parameters():
            if parameter.dim() > 1:
                fan_in = parameter[0].numel()
                parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) / fan_in**0.5)
            else:
                parameter.copy_(torch.rand(parameter.shape, generator=generator, dtype=torch.float64) + 0.5)
        for module in copied.modules():
            if isinstance(module, BATCH_NORMS) and module.running_mean is not None and module.running_var is not None:
                shape = module.running_mean.shape
                module.running_mean.copy_(torch.randn(shape, generator=generator, dtype=torch.float64) / 10)
                module.running_var.copy_(torch.rand(shape, generator=generator, dtype=torch.float64) + 0.5)
    return copied


def _silenced(model: nn.Module, groups: Sequence[CouplingGroup], masks: Mapping[str, BoolArray]) -> nn.Module:
    """Return a copy in which no layer reads a removed channel: the weights that would are zero."""
    copied = copy.deepcopy(model)
    with torch.no_grad():
        for group in groups:
            removed = ~masks[group.name]
            for part in group.cuts:
                if part.reads:
                    gone = np.flatnonzero((part.channels >= 0) & removed[part.channels])
                    copied.get_parameter(part.tensor).index_fill_(part.dim, torch.from_numpy(gone), 0.0)
    return copied


def _outputs(model: nn.Module, inputs: Tensor) -> list[Tensor]:
    """Return every tensor in the network's output."""
    with evaluating(model):
        return list(_tensors(model(inputs)))


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return [tensor for entry in value for tensor in _tensors(entry)]
    return []
