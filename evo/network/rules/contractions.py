"""Layers with weights: convolutions and matrix products, which read some channels and produce others."""

import torch
from torch import Tensor

from evo.network.numbers import Numbers, along, core, varying
from evo.network.record import Contraction
from evo.network.rules.call import CONSTANTS, Call
from evo.network.rules.channels import channel_vectors
from evo.network.trace import Tracer

COMPUTED = (
    "its weight is computed from other parameters (weight normalisation, pruning masks, …) or used in parts; make it a "
    "plain parameter first, e.g. with torch.nn.utils.parametrize.remove_parametrizations"
)


def convolution(tracer: Tracer, call: Call) -> None:
    """Read the channels of the input along one dimension of the weight, and hand on those of the other."""
    source, weight, target = call.bound["input"], call.bound["weight"], call.outputs[0]
    groups, transposed = call.bound["groups"], call.bound["transposed"]
    name = tracer.root(weight)
    work = weight.numel() * (source.numel() // source.size(1) if transposed else target.numel() // target.size(1))
    if name is None or weight.dim() != source.dim():
        _fixed_use(tracer, call, weight, work)
        return
    rows, columns = (tracer.entries(weight, dim) for dim in (0, 1))
    channels = channel_vectors(tracer, source, 1)
    depthwise = groups > 1 and source.size(1) == groups
    if depthwise:
        # One channel in, one or more filters of its own; a transposed one has them in the other dimension.
        read, made = rows.view(groups, -1)[:, 0], rows.repeat_interleave(columns.numel()) if transposed else rows
        tracer.tie(rows.view(groups, -1), rows.view(groups, -1)[:, :1], CONSTANTS)
        for vector in channels or [torch.zeros_like(read)]:
            tracer.tie(vector, read, CONSTANTS)
    else:
        read, made = _grouped(tracer, name, rows, columns, groups, transposed)
        for vector in channels:
            _read(tracer, vector, read)
            if groups > 1:
                tracer.equal_parts(vector.view(groups, -1))
    if call.bound["bias"] is not None:
        _tie_bias(tracer, call.bound["bias"], made)
    kernel = torch.Size(weight.shape[2:]).numel()
    tracer.contract(Contraction(name, kernel, read, made, groups, depthwise, work, target.numel()))
    if target.size(1) > 1:
        tracer.give(target, along(made, 1, target.shape))


def _grouped(
    tracer: Tracer, name: str, rows: Tensor, columns: Tensor, groups: int, transposed: bool
) -> tuple[Tensor, Tensor]:
    """Return the numbers along the input and the output channels of a convolution that is not depthwise."""
    if transposed:
        return rows, columns.repeat(groups)
    if groups == 1:
        return columns, rows
    tracer.equal_parts(rows.view(groups, -1))
    return tracer.blocked(name, groups, columns.numel()).reshape(-1), rows


def multiply(tracer: Tracer, call: Call) -> None:
    """Multiply matrices, one of which is a weight: (…, rows, k) by (…, k, columns); perhaps add a bias."""
    bound, target = call.bound, call.outputs[0]
    added = next((name for name in ("mat1", "batch1") if name in bound), None)
    left, right = bound[added or "self"], bound["batch2" if added == "batch1" else "mat2"]
    # Of the weight, the dimension that is summed over and the one that is kept; of the other, the one that is summed over.
    if tracer.learnt(left) and not tracer.learnt(right):
        weight, other, contracted, kept, place = left, right, left.dim() - 1, left.dim() - 2, right.dim() - 2
    else:
        weight, other, contracted, kept, place = right, left, right.dim() - 2, right.dim() - 1, left.dim() - 1
    name = tracer.root(weight)
    work = target.numel() * left.size(-1)
    if name is None or any(size != 1 for size in weight.shape[:-2]):
        _fixed_use(tracer, call, weight, work)
        return
    entries, made = (tracer.entries(weight, dim) for dim in (contracted, kept))
    passed: list[Numbers] = []
    for numbers in tracer.numbers(other):
        if varying(numbers) == (place,):
            _read(tracer, core(numbers).reshape(-1), entries)
        elif place in varying(numbers):
            tracer.freeze(numbers, "its channels lie along several dimensions of a matrix")
        else:
            passed.append(numbers.narrow(place, 0, 1).expand(target.shape))
    if bool(made.any()):
        passed.insert(0, along(made, place, target.shape))
        if added is not None:
            _tie_bias(tracer, bound["self"], made)
    tracer.contract(Contraction(name, 1, entries, made, 1, False, work, target.numel()))
    tracer.give(target, *passed)


def _fixed_use(tracer: Tracer, call: Call, weight: Tensor, work: int) -> None:
    """Note the use of a weight that is computed from parameters or is a part of one: it costs, but is never cut."""
    source = tracer.source(weight)
    reason = "its weights are activations" if source is None else COMPUTED
    tracer.freeze_all(call.inputs, reason)
    if source is not None:
        name, tensor = source
        zeros = torch.zeros(tensor.numel(), dtype=torch.int64)
        inputs, outputs = zeros[: tensor.numel() // tensor.size(0)], zeros[: tensor.size(0)]
        values = call.outputs[0].numel()
        tracer.contract(Contraction(name, 1, inputs, outputs, 1, False, work, values, reason))


def _read(tracer: Tracer, channels: Tensor, entries: Tensor) -> None:
    """Tie weight entries to the channels they multiply; those that multiply constants stay."""
    made, read = channels.numpy(), entries.numpy()
    if made.all() and read.all():
        tracer.tie_vectors(made, read, CONSTANTS)
        tracer.read(entries)
        return
    both = (channels > 0) & (entries > 0)
    tracer.tie(channels[both], entries[both], CONSTANTS)
    tracer.freeze(channels[(channels > 0) & (entries == 0)], CONSTANTS)
    tracer.read(entries[both])


def _tie_bias(tracer: Tracer, bias: Tensor, made: Tensor) -> None:
    """Tie the entries of a bias to the channels that it is added to."""
    own = tracer.numbers(bias)
    if own and bias.numel() == made.numel():
        tracer.tie(made, core(own[0]).reshape(-1), CONSTANTS)
    elif bias.numel() > 1:
        tracer.freeze_all([bias], CONSTANTS)
        tracer.freeze(made, CONSTANTS)
