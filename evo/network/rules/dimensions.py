"""Operations over dimensions that are not those of the channels: pooling, reductions, softmax."""

import re
from typing import Any

from evo.network.numbers import varying
from evo.network.rules.call import Call
from evo.network.trace import Tracer

_SPACE = re.compile(r"([123])d")


def spatial(tracer: Tracer, call: Call) -> None:
    """Pool, resize or pad over the last one to three dimensions, channel by channel."""
    found = _SPACE.search(call.name)
    last = int(found.group(1)) if found else 0
    source = call.inputs[0]
    tracer.freeze_all(call.inputs[1:], "its values steer how others are sampled")
    for numbers in tracer.numbers(source):
        if any(dim >= source.dim() - last for dim in varying(numbers)):
            tracer.freeze(numbers, "it is pooled or resized along its channels")
            continue
        small = numbers
        for dim in range(source.dim() - last, source.dim()):
            small = small.narrow(dim, 0, 1)
        for tensor in call.outputs:
            tracer.give(tensor, small.expand(tensor.shape))


def reduction(tracer: Tracer, call: Call) -> None:
    """Reduce over dimensions, which must not be those of the channels."""
    source = call.inputs[0]
    given = call.bound.get("dim")
    dims = {dim % source.dim() for dim in _list(given)} if given not in (None, []) else set(range(source.dim()))
    for numbers in tracer.numbers(source):
        if dims & set(varying(numbers)):
            tracer.freeze(numbers, f"{call.name} is taken over its channels")
            continue
        for dim in dims:
            numbers = numbers.narrow(dim, 0, 1)
        for tensor in call.outputs:
            if tensor.dim() < source.dim():
                tracer.give(tensor, numbers.squeeze(tuple(dims)))
            else:
                tracer.give(tensor, numbers)


def dimension(tracer: Tracer, call: Call) -> None:
    """Compute along dimensions, which must not be those of the channels, and keep the shape."""
    source = call.inputs[0]
    dims = {dim % source.dim() for dim in _list(call.bound["dim"] if "dim" in call.bound else call.bound["dims"])}
    for numbers in tracer.numbers(source):
        if dims & set(varying(numbers)):
            tracer.freeze(numbers, f"{call.name.lstrip('_')} is taken over its channels")
        for tensor in call.outputs:
            tracer.give(tensor, numbers)


def _list(value: Any) -> list[int]:
    return list(value) if isinstance(value, list | tuple) else [value]
