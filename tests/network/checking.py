"""What must hold of every network that is analysed, written without the code that cuts, proves or counts."""

import copy
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

import evo
from evo.blueprint import Blueprint
from evo.network.expressions import cost_model
from evo.network.groups import find_groups
from evo.network.rules import apply
from evo.network.trace import trace

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear, *TRANSPOSED)
Inputs = tuple[Tensor, ...]


def distinct(model: nn.Module, seed: int = 0) -> nn.Module:
    """Return a float64 copy all of whose weights differ: any entry of a cut network tells where it comes from."""
    model = copy.deepcopy(model).double().eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            if not tensor.is_floating_point():
                continue
            value = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
            if tensor.dim() > 1:
                value *= (2 / max(1, tensor[0].numel())) ** 0.5
            elif not name.endswith(("bias", "mean")):
                value = value.abs() + 0.5
            tensor.copy_(value)
    return model


def drawn(network: evo.Network, rng: np.random.Generator, fewest: int = 1) -> Blueprint:
    """Return a random legal blueprint: each group keeps the fewest channels, all, or any share of them."""
    masks = {}
    for group in network.groups:
        share = rng.choice([0.0, 1.0, rng.uniform()])
        masks[group.name] = rng.permutation(np.arange(group.size) < max(fewest, round(share * group.size)))
    return network.repaired(masks, {group.name: rng.uniform(size=group.size) for group in network.groups})


def outputs(model: nn.Module, inputs: Inputs) -> list[Tensor]:
    """Return every tensor of the output; noise is the same every time."""
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return [leaf for leaf in tree_leaves(model(*inputs)) if isinstance(leaf, Tensor)]


def kept_entries(original: Tensor, cut: Tensor) -> Tensor:
    """Return which entries of `original`, which are all different, are in `cut`."""
    return torch.isin(original, cut)


def silenced(original: nn.Module, small: nn.Module) -> tuple[nn.Module, "MaskedNorms"]:
    """Return a copy of `original` that ignores every channel that `small` lacks, and a mode to run it in.

    Filters that are gone go on producing values, biases and all; only the entries of other weights that would read them
    are zero. Which these are is told by the weights that `small` still has.
    """
    model = copy.deepcopy(original)
    have = dict(small.named_parameters())
    rows = {id(m.weight): int(isinstance(m, TRANSPOSED)) for m in model.modules() if isinstance(m, LAYERS)}
    masks: dict[int, Tensor] = {}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            kept = kept_entries(parameter, have[name])
            assert int(kept.sum()) == have[name].numel(), f"{name} has entries that the original has not"
            if parameter.dim() == 1:
                masks[id(parameter)] = kept
                continue
            row = rows.get(id(parameter))
            if row is not None:
                # A filter that is gone as a whole stays as it is.
                gone = ~kept.transpose(0, row).flatten(1).any(1)
                kept.transpose(0, row)[gone] = True
            parameter.mul_(kept)
    return model, MaskedNorms(masks)


class MaskedNorms(TorchFunctionMode):
    """Leaves entries whose weight is gone out of the statistics of layer and group normalisation."""

    def __init__(self, masks: Mapping[int, Tensor]) -> None:
        super().__init__()
        self.masks = masks

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.layer_norm:
            x, shape, weight, bias, eps = (*args, *kwargs.values())
            mask = self.masks.get(id(weight)) if len(shape) == 1 else None
            if mask is not None and not mask.all():
                return masked_norm(x, mask, eps) * weight + (0 if bias is None else bias)
        if func is F.group_norm:
            x, groups, weight, bias, eps = (*args, *kwargs.values())
            mask = self.masks.get(id(weight))
            if mask is not None and not mask.all():
                per_group = []
                for part, kept in zip(x.chunk(groups, 1), mask.chunk(groups), strict=True):
                    flat = kept.view(-1, *[1] * (x.dim() - 2)).expand(part.shape[1:]).flatten()
                    if not flat.any():
                        flat = torch.ones_like(flat)
                    per_group.append(masked_norm(part.flatten(1), flat, eps).view(part.shape))
                shape = (-1, *[1] * (x.dim() - 2))
                return torch.cat(per_group, 1) * weight.view(shape) + (0 if bias is None else bias.view(shape))
        return func(*args, **kwargs)


def masked_norm(x: Tensor, mask: Tensor, eps: float) -> Tensor:
    """Normalise along the last dimension by the mean and variance of the entries in the mask."""
    some = x[..., mask]
    return (x - some.mean(-1, keepdim=True)) / torch.sqrt(some.var(-1, unbiased=False, keepdim=True) + eps)


def assert_cut_is_silenced(original: nn.Module, small: nn.Module, inputs: Inputs) -> None:
    model, mode = silenced(original, small)
    with mode:
        expected = outputs(model, inputs)
    for mine, theirs in zip(outputs(small, inputs), expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9 * max(1.0, float(theirs.abs().max())))


def recounted(model: nn.Module, inputs: Inputs) -> dict[str, int]:
    """Return the costs of a network analysed as if it were an original."""
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    parameters = dict(model.named_parameters())
    seen = trace(model, inputs, tensors, apply, len(tree_leaves(inputs)[0]))
    grouping = find_groups(seen, {name: index for index, (name, _) in enumerate(model.named_modules())})
    costs = cost_model(seen, grouping, [True] * len(grouping.groups), parameters)
    return {name: int(value) for name, value in costs.costs(costs.sizes).items()}


def assert_costs_are_exact(
    network: evo.Network, blueprint: Blueprint, small: nn.Module, inputs: Inputs, batch: int = 1
) -> None:
    stated, found = network.cost_of(blueprint), recounted(small, tuple(x[:batch] for x in inputs))
    assert stated == found, (stated, found)
    assert stated["params"] == sum(parameter.numel() for parameter in small.parameters())
    assert stated["bytes"] == sum(parameter.numel() * parameter.element_size() for parameter in small.parameters())


def assert_learns(model: nn.Module, inputs: Inputs) -> None:
    """A step of SGD in training mode changes weights, and nothing but numbers comes of it."""
    model = copy.deepcopy(model).train()
    before = [parameter.detach().clone() for parameter in model.parameters()]
    optimiser = torch.optim.SGD(model.parameters(), 0.01)
    results = [leaf for leaf in tree_leaves(model(*inputs)) if isinstance(leaf, Tensor) and leaf.requires_grad]
    torch.stack([result.square().mean() for result in results]).sum().backward()  # type: ignore[no-untyped-call]
    optimiser.step()
    changed = [not torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True)]
    assert any(changed)
    assert all(bool(parameter.isfinite().all()) for parameter in model.parameters())


def assert_shares_no_memory(network: evo.Network, blueprint: Blueprint, original: nn.Module) -> None:
    before = {name: tensor.clone() for name, tensor in original.state_dict().items()}
    one, other = network.build(blueprint), network.build(blueprint)
    expected = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    with torch.no_grad():
        for tensor in one.state_dict().values():
            tensor.fill_(7)
    again = network.build(blueprint)
    for name, tensor in expected.items():
        assert torch.equal(other.state_dict()[name], tensor), name
        assert torch.equal(again.state_dict()[name], tensor), name
    for name, tensor in before.items():
        assert torch.equal(original.state_dict()[name], tensor), name


def assert_maps_lead_to_the_weights(
    network: evo.Network, blueprint: Blueprint, original: nn.Module, small: nn.Module
) -> None:
    """Every kept weight is where the maps say, in a module that knows its size."""
    for name, maps in network.channel_maps(blueprint).items():
        layer, was = small.get_submodule(name), original.get_submodule(name)
        assert isinstance(layer.weight, Tensor)
        assert isinstance(was.weight, Tensor)
        rows, columns = (1, 0) if isinstance(was, TRANSPOSED) else (0, 1)
        new, old = layer.weight.transpose(0, rows), was.weight.transpose(0, rows)
        outs = np.flatnonzero(maps.outputs >= 0)
        assert maps.outputs[outs].tolist() == list(range(len(new)))
        inputs = np.atleast_2d(maps.inputs)
        per_row = np.repeat(np.arange(len(inputs)), len(maps.outputs) // len(inputs))
        for index in outs:
            kept = np.flatnonzero(inputs[per_row[index]] >= 0)
            assert torch.equal(new[maps.outputs[index]], old[index][torch.from_numpy(kept)]), name
        sizes = ("out_features", "in_features") if isinstance(was, nn.Linear) else ("out_channels", "in_channels")
        groups = 1 if isinstance(was, nn.Linear) else int(layer.groups)  # type: ignore[arg-type]
        shape = (layer.weight.shape[rows], layer.weight.shape[columns])
        factors = (groups, 1) if isinstance(was, TRANSPOSED) else (1, groups)
        assert tuple(getattr(layer, size) for size in sizes) == (shape[0] * factors[0], shape[1] * factors[1])


def verify(
    model: nn.Module,
    inputs: Inputs,
    *,
    blueprints: int = 3,
    seed: int = 0,
    batch: int = 1,
    fewest: int = 1,
    **options: Any,
) -> evo.Network:
    """Analyse `model` and check random candidates from all sides; return what was analysed (in float64).

    Args:
        model: any network.
        inputs: a batch of at least two.
        blueprints: how many candidates.
        seed: of weights and candidates.
        batch: how many inputs it takes at least.
        fewest: channels that every group of a candidate keeps at least.
        options: of `Network.analyse`.
    """
    original = distinct(model, seed)
    inputs = tuple(x.double() if x.is_floating_point() else x for x in inputs)
    network = evo.Network.analyse(original, inputs, **options)
    rng = np.random.default_rng(seed)
    for expected, full in zip(outputs(original, inputs), outputs(network.build(network.full), inputs), strict=True):
        assert torch.equal(expected, full)
    for index in range(blueprints):
        blueprint = drawn(network, rng, fewest)
        small = network.build(blueprint)
        assert_cut_is_silenced(original, small, inputs)
        assert_costs_are_exact(network, blueprint, small, inputs, batch)
        assert_maps_lead_to_the_weights(network, blueprint, original, small)
        assert_learns(small, inputs)
        if not index:
            assert_shares_no_memory(network, blueprint, original)
    return network


def searchable(network: evo.Network) -> dict[str, int]:
    """Return the channels of every group by name."""
    return {group.name: group.size for group in network.groups}


def reasons(network: evo.Network) -> dict[str, str]:
    return {entry.name: entry.reason for entry in network.frozen}


Mask = NDArray[np.bool_]
