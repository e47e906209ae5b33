"""What a part has to leave as it is."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from evo.task import Task


def content_of(task: Task) -> dict[str, Tensor]:
    """Return copies of all trained tensors and images of a task."""
    content = task.network.tensors()
    for name, samples in (("train", task.train), ("val", task.val)):
        content |= {f"{name} inputs": samples.x.clone(), f"{name} labels": samples.y.clone()}
    return content


def global_state() -> dict[str, object]:
    """Return what a part has to leave as it is: random generators, thread count, gradient mode and default type."""
    return {
        "torch": torch.get_rng_state().tolist(),
        "numpy": str(np.random.get_state()),  # noqa: NPY002 - the global generator is what is watched
        "random": random.getstate(),
        "threads": torch.get_num_threads(),
        "gradients": torch.is_grad_enabled(),
        "dtype": torch.get_default_dtype(),
    }


@contextmanager
def other_global_randomness() -> Iterator[None]:
    """Let Python's and torch's global generators be at another place than usual."""
    before = random.getstate()
    random.seed(12345)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(12345)
        try:
            yield
        finally:
            random.setstate(before)
