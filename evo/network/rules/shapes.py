"""Other shapes of the same values: views, parts, concatenations, padding."""

from collections.abc import Sequence

import torch
from torch import Tensor

from evo.network.numbers import Numbers, along, core, settled, varying
from evo.network.rules.call import CONSTANTS, Call
from evo.network.rules.elementwise import aligned, merge
from evo.network.trace import Tracer


def view(tracer: Tracer, call: Call) -> None:
    """Give the numbers the new shape too."""
    source, target = call.inputs[0], call.outputs[0]
    others = {key: value for key, value in call.bound.items() if value is not source}
    sets = []
    for numbers in tracer.numbers(source):
        if call.name in ("view", "_unsafe_view", "_reshape_alias"):
            sets.append(_reshaped(tracer, numbers, target.shape))
        else:
            # An alias: operations that change a shape in place change it alone.
            moved = call.func(numbers.detach(), **others)
            sets.append(settled(moved) if call.name == "repeat" else moved)
    tracer.same(target, source)
    tracer.give(target, *sets)


def _reshaped(tracer: Tracer, numbers: Numbers, shape: Sequence[int]) -> Numbers:
    """Reshape numbers; channels that become several dimensions stay rectangular: all but the largest one are constants."""
    before = len(varying(numbers))
    if torch.Size(shape) == numbers.shape:
        return numbers
    moved = settled(numbers.reshape(tuple(shape)))
    dims = varying(moved)
    if len(dims) > before:
        variable = max(dims, key=lambda dim: moved.shape[dim])
        for dim in dims:
            if dim != variable:
                first = moved.narrow(dim, 0, 1)
                tracer.tie(moved, first, CONSTANTS)
                moved = first.expand(moved.shape)
    return moved


def laid_out(tracer: Tracer, call: Call) -> None:
    """Lay the same shape out differently in memory, as pooling does where channels come last."""
    target = call.outputs[0]
    for numbers in tracer.numbers(call.inputs[0]):
        if numbers.shape != target.shape:
            tracer.freeze(numbers, "its memory is read in another shape")
    tracer.give(target, *(numbers for numbers in tracer.numbers(call.inputs[0]) if numbers.shape == target.shape))


def expand(tracer: Tracer, call: Call) -> None:
    """Repeat without copying: the numbers do not vary along new dimensions."""
    tracer.give(
        call.outputs[0], *(aligned(numbers, call.outputs[0].shape) for numbers in tracer.numbers(call.inputs[0]))
    )


def divide(tracer: Tracer, call: Call) -> None:
    """Split along a dimension; equal parts stay equal: what lies at the same place of each is tied."""
    source, dim = call.inputs[0], call.bound.get("dim", 0) % call.inputs[0].dim()
    for numbers in tracer.numbers(source):
        if dim not in varying(numbers):
            continue
        sizes = [tensor.size(dim) if tensor.dim() == source.dim() else 0 for tensor in call.outputs]
        if sizes[0] and len(set(sizes)) == 1:
            tracer.tie(_repeated(numbers.narrow(dim, 0, sizes[0]), dim, len(sizes)), numbers, CONSTANTS)
        else:
            tracer.freeze(numbers, "it is split into parts of fixed sizes")
    start = 0
    for tensor in call.outputs:
        size = tensor.size(dim) if tensor.dim() == source.dim() else 1
        pieces = [numbers.narrow(dim, start, size) for numbers in tracer.numbers(source)]
        if tensor.dim() < source.dim():
            pieces = [piece.squeeze(dim) for piece in pieces]
        tracer.give(tensor, *map(settled, pieces))
        start += size


def _repeated(numbers: Numbers, dim: int, times: int) -> Numbers:
    """Repeat the numbers along one dimension, without spreading them over those in which they do not vary."""
    small = core(numbers)
    return small.repeat([times if index == dim else 1 for index in range(numbers.dim())])


def part(tracer: Tracer, call: Call) -> None:
    """Take a slice: one of equal parts of the channels, or every so many of them; anything else is a fixed size."""
    source, target = call.inputs[0], call.outputs[0]
    dim = call.bound["dim"] % source.dim()
    length, size = source.size(dim), target.size(dim)
    start = call.bound["start"] or 0
    start, step = (start + length if start < 0 else start), call.bound["step"]
    sets = []
    for numbers in tracer.numbers(source):
        if dim in varying(numbers) and size < length:
            if step == 1 and length % size == 0 and start % size == 0:
                tracer.tie(_repeated(numbers.narrow(dim, 0, size), dim, length // size), numbers, CONSTANTS)
            elif step > 1 and length % step == 0 and size * step == length:
                tracer.tie(core(numbers)[_every(numbers, dim, step)].repeat_interleave(step, dim), numbers, CONSTANTS)
            else:
                tracer.freeze(numbers, "a part of fixed size is taken out of it")
        sets.append(call.func(numbers, dim, call.bound["start"], call.bound["end"], step))
    tracer.give(target, *map(settled, sets))


def _every(numbers: Numbers, dim: int, step: int) -> tuple[slice, ...]:
    return tuple(slice(None, None, step) if index == dim else slice(None) for index in range(numbers.dim()))


def select(tracer: Tracer, call: Call) -> None:
    """Take entries along one dimension, which must not be that of the channels."""
    source = call.inputs[0]
    dim = call.bound["dim"] % source.dim()
    sets = []
    for numbers in tracer.numbers(source):
        if dim in varying(numbers):
            tracer.freeze(numbers, "single channels are picked out of it")
        elif call.outputs[0].dim() < source.dim():
            sets.append(numbers.select(dim, 0))
        else:
            size = call.outputs[0].size(dim)
            sets.append(numbers.narrow(dim, 0, 1).expand(*numbers.shape[:dim], size, *numbers.shape[dim + 1 :]))
    tracer.give(call.outputs[0], *sets)


def indexed(tracer: Tracer, call: Call) -> None:
    """Index with tensors along dimensions that are not the channels'."""
    source = call.inputs[0]
    used = {dim for dim, index in enumerate(call.bound["indices"]) if index is not None}
    tracer.freeze_all(call.inputs[1:], "its values are used as indices")
    sets = []
    for numbers in tracer.numbers(source):
        if used & set(varying(numbers)):
            tracer.freeze(numbers, "single channels are picked out of it")
        else:
            sets.append(settled(call.func(numbers, call.bound["indices"])))
    tracer.give(call.outputs[0], *sets)


def concatenate(tracer: Tracer, call: Call) -> None:
    """Put channels side by side; along other dimensions what lies at the same place is tied."""
    target = call.outputs[0]
    tensors = [tensor for tensor in call.bound["tensors"] if tensor.dim() == target.dim() and tensor.numel()]
    dim = call.bound["dim"] % target.dim()
    pieces: list[Tensor] = []
    across: list[Numbers] = []
    for tensor in tensors:
        here = torch.zeros(tensor.size(dim), dtype=torch.int64)
        for numbers in tracer.numbers(tensor):
            if varying(numbers) == (dim,):
                here = core(numbers).reshape(-1)
            elif dim in varying(numbers):
                tracer.freeze(numbers, "it is concatenated along several dimensions")
            else:
                across.append(numbers.narrow(dim, 0, 1).expand(target.shape))
        pieces.append(here)
    if len(across) not in (0, len(tensors)):
        for numbers in across:
            tracer.freeze(numbers, CONSTANTS)
    merged: list[Numbers] = [along(torch.cat(pieces), dim, target.shape)]
    for numbers in across:
        merge(tracer, merged, numbers)
    tracer.give(target, *(numbers for numbers in merged if bool(core(numbers).any())))


def stack(tracer: Tracer, call: Call) -> None:
    """Put tensors one behind the other along a new dimension: what lies at the same place is tied."""
    target = call.outputs[0]
    dim = call.bound["dim"] % target.dim()
    merged: list[Numbers] = []
    labelled = 0
    for tensor in call.bound["tensors"]:
        labelled += bool(tracer.numbers(tensor))
        for numbers in tracer.numbers(tensor):
            merge(tracer, merged, numbers.unsqueeze(dim).expand(target.shape))
    if labelled < len(call.bound["tensors"]):
        for numbers in merged:
            tracer.freeze(numbers, CONSTANTS)
    tracer.give(target, *merged)


def pad(tracer: Tracer, call: Call) -> None:
    """Pad: what is new along the channels may follow whatever it is added to, if the program computes its amount.

    Where it is a constant of the program, the proof finds out.
    """
    source, target = call.inputs[0], call.outputs[0]
    amounts = list(call.bound["pad"])
    sets = []
    for numbers in tracer.numbers(source):
        padded = core(numbers)
        for index in range(len(amounts) // 2):
            dim, before, after = source.dim() - 1 - index, amounts[2 * index], amounts[2 * index + 1]
            if dim not in varying(numbers):
                continue
            if min(before, after) < 0:
                tracer.freeze(numbers, "a part of fixed size is taken out of it")
                padded = torch.zeros(1, dtype=torch.int64)
                break
            padded = torch.cat([tracer.fresh(padded, dim, before), padded, tracer.fresh(padded, dim, after)], dim)
        sets.append(padded.expand(target.shape))
    tracer.give(target, *sets)
