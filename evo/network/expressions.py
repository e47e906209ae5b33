"""From a trace to exact costs: every size as an expression of the groups' kept channels."""

from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from evo.network.costs import CostModel, LayerCost, Width
from evo.network.groups import Grouping, layer_name
from evo.network.record import IntArray, Site, Trace


def entangled(trace: Trace, grouping: Grouping, parameters: Mapping[str, Tensor]) -> dict[str, str]:
    """Return the groups whose costs would not be sums of products of two widths, with the reason, by name."""
    touched: dict[str, list[set[int]]] = {}
    for site in trace.sites:
        if site.tensor in parameters and site.tensor not in trace.contractions:
            groups = set(np.unique(grouping.group_of[site.vector]).tolist()) - {-1}
            touched.setdefault(site.tensor, []).extend([groups] if groups else [])
    return {
        grouping.groups[group].name: f"{tensor}, which is not a layer's weight, shrinks along several dimensions"
        for tensor, dims in touched.items()
        if len(dims) > 1
        for group in set().union(*dims)
    }


def cost_model(
    trace: Trace, grouping: Grouping, offered: Sequence[bool], parameters: Mapping[str, Tensor]
) -> CostModel:
    """Return the costs of every candidate.

    Args:
        trace: of the network.
        grouping: the groups that it implies.
        offered: which of these are offered for search; the others count as fixed.
        parameters: the network's parameters by name.
    """
    sizes = [group.size for group, kept in zip(grouping.groups, offered, strict=True) if kept]
    index = np.append(np.where(offered, np.cumsum(offered) - 1, -1), -1).astype(np.int64)
    group_of = index[grouping.group_of]

    def width(numbers: IntArray, each: int = 1, divisor: int = 1) -> Width:
        groups = group_of[numbers]
        entries = np.bincount(groups[groups >= 0], minlength=len(sizes))
        # A group has equally many entries for every channel, since its channels touch the same places.
        per_channel = tuple((g, int(entries[g]) // sizes[g] * each) for g in np.flatnonzero(entries).tolist())
        return Width(int((groups < 0).sum()) * each, per_channel, divisor)

    layers = []
    for name, use in trace.contractions.items():
        if name not in parameters:
            continue  # a buffer, which is not learnt
        inputs, outputs = use.inputs.numpy(), use.outputs.numpy()
        fan_in = Width(1) if use.depthwise else width(inputs, divisor=use.groups)
        uses = use.work // parameters[name].numel() // trace.batch
        positions = use.values // outputs.size // trace.batch
        layers.append(LayerCost(layer_name(name), use.kernel, width(inputs), width(outputs), fan_in, uses, positions))

    varying: dict[str, Site] = {}
    for site in trace.sites:
        if (group_of[site.vector] >= 0).any():
            varying.setdefault(site.tensor, site)
    others = []
    for name, parameter in parameters.items():
        if name in trace.contractions:
            continue
        if name in varying:
            shrinks = varying[name]
            rest = parameter.numel() // parameter.shape[shrinks.dim]
            others.append(width(shrinks.vector, rest))
        else:
            others.append(Width(parameter.numel()))
    size = next(iter(parameters.values())).element_size() if parameters else 4
    activations = _activations(trace, group_of, sizes)
    return CostModel(sizes, layers, others=others, bytes_per_parameter=size, activations=activations)


def _activations(trace: Trace, group_of: IntArray, sizes: Sequence[int]) -> list[Width]:
    """Return the bytes of activations alive after each operation, for one input."""
    known: dict[int, IntArray] = {}

    def entries(numbers: IntArray) -> IntArray:
        """Return how many entries are fixed (last) and how many each group has per channel."""
        if id(numbers) not in known:
            found = np.bincount(group_of[numbers] % (len(sizes) + 1), minlength=len(sizes) + 1)
            found[:-1] //= np.asarray(sizes, dtype=np.int64)
            known[id(numbers)] = found
        return known[id(numbers)]

    nothing = np.zeros(len(sizes) + 1, dtype=np.int64)
    totals = {
        tuple((sum((entries(numbers) * each for numbers, each in alive), nothing) // trace.batch).tolist())
        for alive in trace.memory
    }
    return [
        Width(total[-1], tuple((group, each) for group, each in enumerate(total[:-1]) if each))
        for total in sorted(totals)
    ]
