"""Modes of torch: evaluation, threads and global state, borrowed and given back, and watching what runs."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
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


_BORROWED = np.random.MT19937()


@contextmanager
def apart(seed: int) -> Iterator[None]:
    """Keep what happens here apart from everything before and after it.

    Gradients are on and numbers are of single precision; the global generators of torch, NumPy and Python start from `seed`.
    All of them are put back afterwards, the generators of GPUs excepted.
    """
    gradients, dtype = torch.is_grad_enabled(), torch.get_default_dtype()
    states = random.getstate(), torch.get_rng_state()
    # NumPy's is exchanged, which takes a hundredth of the time of copying its state.
    before = np.random.get_bit_generator()  # type: ignore[attr-defined]
    np.random.set_bit_generator(np.random.MT19937() if before is _BORROWED else _BORROWED)  # type: ignore[attr-defined]
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    torch.default_generator.manual_seed(seed % 2**63)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.manual_seed_all(seed % 2**63)
    torch.set_grad_enabled(True)
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(dtype)
        torch.set_grad_enabled(gradients)
        random.setstate(states[0])
        np.random.set_bit_generator(before)  # type: ignore[attr-defined]
        torch.set_rng_state(states[1])


class DispatchMode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees every operation that runs under it; a subclass says in `__torch_dispatch__` what becomes of one."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Spare the import of torch's compiler, which takes longer than watching a network: nothing here is compiled."""
        return False
