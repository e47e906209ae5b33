"""Operations element by element, with broadcasting."""

from collections.abc import Sequence

import torch

from evo.network.numbers import Numbers, core, varying
from evo.network.rules.call import CONSTANTS, Call
from evo.network.trace import Tracer


def pointwise(tracer: Tracer, call: Call) -> None:
    """Tie the channels of all operands entry by entry, with broadcasting."""
    if not call.outputs:
        tracer.freeze_all(call.inputs, "its values are read by the program")
        return
    shape = call.outputs[0].shape
    if len(call.inputs) == 1 and all(tensor.shape == call.inputs[0].shape for tensor in call.outputs):
        tracer.hand_on(call.inputs[0], call.outputs)
        return
    # Activations first: theirs are the numbers that go on.
    operands = sorted(call.inputs, key=tracer.learnt)
    spread = [[aligned(numbers, shape) for numbers in tracer.numbers(tensor)] for tensor in operands]
    merged: list[Numbers] = []
    for sets in spread:
        for numbers in sets:
            merge(tracer, merged, numbers)
    for numbers in merged:
        for tensor, sets in zip(operands, spread, strict=True):
            covered = {dim for own in sets for dim in varying(own)}
            sizes = [1] * (len(shape) - tensor.dim()) + list(tensor.shape)
            if any(sizes[dim] > 1 and dim not in covered for dim in varying(numbers)):
                tracer.freeze(numbers, CONSTANTS)
    for tensor in call.outputs:
        if tensor.shape == shape:
            tracer.give(tensor, *merged)


def aligned(numbers: Numbers, shape: Sequence[int]) -> Numbers:
    """Broadcast the numbers to `shape`."""
    if numbers.shape == shape:
        return numbers
    return numbers.reshape((1,) * (len(shape) - numbers.dim()) + tuple(numbers.shape)).expand(tuple(shape))


def merge(tracer: Tracer, merged: list[Numbers], numbers: Numbers) -> None:
    """Tie `numbers` to those of `merged` that vary along the same dimensions, or add them."""
    dims = set(varying(numbers))
    found = False
    for index, other in enumerate(merged):
        if dims & set(varying(other)):
            if numbers is not other:
                tracer.tie(other, numbers, CONSTANTS)
            if dims > set(varying(other)):
                merged[index] = numbers
            elif bool((core(other) == 0).any()) and core(other).shape == core(numbers).shape:
                merged[index] = torch.maximum(core(other), core(numbers)).expand(numbers.shape)
            found = True
    if not found and dims:
        merged.append(numbers)


def created_like(tracer: Tracer, call: Call) -> None:
    """Hand the numbers on to a new tensor of the same shape, whose size follows its source."""
    for tensor in call.outputs:
        if tensor.shape == call.inputs[0].shape:
            tracer.give(tensor, *tracer.numbers(call.inputs[0]))


def created_of_size(tracer: Tracer, call: Call) -> None:
    """Hand the numbers on to a new tensor with as many channels, which will be written over (circular padding)."""
    (target,) = call.outputs
    for numbers in tracer.numbers(call.inputs[0]):
        dims = varying(numbers)
        if target.dim() == numbers.dim() and all(target.size(dim) == numbers.size(dim) for dim in dims):
            tracer.give(target, core(numbers).expand(target.shape))


def plain(tracer: Tracer, call: Call) -> None:
    """Make a tensor that has nothing to do with the channels of its source."""
