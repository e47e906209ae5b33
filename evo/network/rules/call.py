"""One operation that was watched."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from evo.network.trace import Tracer

CONSTANTS = "it is combined with values that are not channels (padding, constants or the network's input)"


@dataclass(slots=True)
class Call:
    """An operation with its arguments and results.

    Attributes:
        func: the operation (a `torch._ops.OpOverload`).
        name: its name, e.g. "convolution"; that of the operation in place is the same.
        bound: all arguments by their names in the schema.
        inputs, outputs: the tensors among arguments and results.
    """

    func: Any
    name: str
    bound: dict[str, Any]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


Rule = Callable[[Tracer, Call], None]
