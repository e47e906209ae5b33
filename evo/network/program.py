"""What a network does with its weights, as a hash."""

import hashlib
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_map

from evo.network.modes import DispatchMode
from evo.network.trace import doubled


class _Listing(DispatchMode):  # type: ignore[no-untyped-call]
    """Hashes every operation with its constants, not the values of tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.digest = hashlib.sha256()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the operation."""
        kwargs = kwargs or {}
        self.digest.update(f"{func}{tree_map(_constant, (args, kwargs))}".encode())
        return func(*args, **kwargs)


def program_of(model: nn.Module, inputs: tuple[Any, ...]) -> str:
    """Return a hexadecimal hash of the operations of a forward pass in evaluation and of one in training.

    Also of what takes part in training. Equal programs with equal weights are the same network, as far as one input shows.

    Args:
        model: in evaluation mode; its batch statistics change.
        inputs: positional arguments of its forward.
    """
    listing = _Listing()
    listing.digest.update(str([(name, one.requires_grad) for name, one in model.named_parameters()]).encode())
    with torch.no_grad(), torch.random.fork_rng(devices=[]), listing:
        model(*inputs)
        try:
            model.train()(*doubled(inputs))
        except Exception as error:  # a network that cannot be trained on this input
            listing.digest.update(type(error).__name__.encode())
        finally:
            model.eval()
    return listing.digest.hexdigest()[:32]


def _constant(value: Any) -> object:
    """Return a plain value as it is, and the kind alone of anything else."""
    plain = value is None or isinstance(value, bool | int | float | str | torch.dtype | torch.layout)
    return value if plain else type(value).__name__
