"""Normalisation: over each channel alone, or over several together."""

from collections.abc import Sequence

from torch import Tensor

from evo.network.numbers import along, core, varying
from evo.network.rules.call import CONSTANTS, Call
from evo.network.rules.channels import channel_vectors
from evo.network.trace import Tracer


def batch_norm(tracer: Tracer, call: Call) -> None:
    """Normalise every channel on its own: its scale, shift and statistics are tied to it."""
    source, target = call.bound["input"], call.outputs[0]
    names = ("weight", "bias", "running_mean", "running_var")
    tensors = [call.bound[name] for name in names if call.bound.get(name) is not None]
    _scale(tracer, source, target, tensors, 1)
    _statistics(tracer, source, call.outputs[1:], 0)


def layer_norm(tracer: Tracer, call: Call) -> None:
    """Normalise over the last dimensions; a removed channel leaves the mean and the variance."""
    source, weight = call.bound["input"], call.bound["weight"]
    first = source.dim() - len(call.bound["normalized_shape"])
    over = [numbers for numbers in tracer.numbers(source) if any(dim >= first for dim in varying(numbers))]
    if not over:
        tracer.give(call.outputs[0], *tracer.numbers(source))
        for tensor in call.outputs[1:]:
            tracer.give(tensor, *(core(numbers).expand(tensor.shape) for numbers in tracer.numbers(source)))
        return
    name = tracer.root(weight) if weight is not None else None
    if name is None or first != source.dim() - 1:
        for numbers in over:
            tracer.freeze(numbers, "it is normalised over together with others, without a scale for each")
        return
    _scale(
        tracer, source, call.outputs[0], [t for t in (weight, call.bound["bias"]) if t is not None], source.dim() - 1
    )
    tracer.trace.norms.add(name)


def group_norm(tracer: Tracer, call: Call) -> None:
    """Normalise over groups of channels, which keep equally many; a removed one leaves its group's mean and variance."""
    source, weight = call.bound["input"], call.bound["weight"]
    name = tracer.root(weight) if weight is not None else None
    if name is None:
        tracer.freeze_all([source], "it is normalised over together with others, without a scale for each")
        return
    for vector in channel_vectors(tracer, source, 1):
        if call.bound["group"] < vector.numel():
            tracer.equal_parts(vector.view(call.bound["group"], -1))
    _scale(tracer, source, call.outputs[0], [t for t in (weight, call.bound["bias"]) if t is not None], 1)
    if call.bound["group"] == source.size(1):
        _statistics(tracer, source, call.outputs[1:], 1)
    tracer.trace.norms.add(name)


def _statistics(tracer: Tracer, source: Tensor, outputs: Sequence[Tensor], dim: int) -> None:
    """Hand on the channels to their means and deviations, which lie along `dim`: they take memory too."""
    outputs = [tensor for tensor in outputs if tensor.numel()]
    for vector in channel_vectors(tracer, source, 1) if outputs else ():
        for tensor in outputs:
            if tensor.dim() > dim and tensor.size(dim) == vector.numel():
                tracer.give(tensor, along(vector, dim, tensor.shape))


def _scale(tracer: Tracer, source: Tensor, target: Tensor, tensors: Sequence[Tensor], dim: int) -> None:
    """Tie vectors with one entry per channel to the channels of an activation, and hand its numbers on."""
    found = [numbers for numbers in tracer.numbers(source) if varying(numbers) == (dim,)]
    for numbers in tracer.numbers(source):
        if varying(numbers) != (dim,):
            tracer.freeze(numbers, "its channels do not lie along the dimension that is normalised")
    for numbers in found:
        vector = core(numbers).reshape(-1).numpy()
        for tensor in tensors:
            if tensor.numel() == len(vector):
                tracer.tie_vectors(vector, tracer.entries(tensor, 0).numpy(), CONSTANTS)
    tracer.give(target, *found)
