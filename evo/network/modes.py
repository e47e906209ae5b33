"""Modes of torch: evaluation and threads, borrowed and given back, and watching what runs."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put `model` into evaluation mode without gradients; restore every module's own mode afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def using_threads(count: int) -> Iterator[None]:
    """Let torch compute with `count` threads; restore the number afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class DispatchMode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees every operation that runs under it; a subclass says in `__torch_dispatch__` what becomes of one."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Spare the import of torch's compiler, which takes longer than watching a network: nothing here is compiled."""
        return False
