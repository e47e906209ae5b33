"""A small network that has everything training can stumble over, and how to compare what became of it."""

import numpy as np
import torch
from torch import Tensor, nn

from evo.training import Recipe, Samples, train


def network() -> nn.Module:
    """Return the same untrained network every time, with batch norm and dropout."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(4 * 36, 8),
            nn.BatchNorm1d(8),
            nn.Dropout(0.2),
            nn.Linear(8, 10),
        )


def content(model: nn.Module) -> dict[str, Tensor]:
    """Return copies of all tensors."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Return whether all tensors are equal, bit for bit."""
    return set(one) == set(other) and all(torch.equal(one[name], other[name]) for name in one)


def trained(samples: Samples, seed: int = 0, **recipe: object) -> dict[str, Tensor]:
    """Return the content of the network after training."""
    settings = Recipe(**{"batch_size": 32, **recipe})
    return content(train(network(), samples, settings, np.random.default_rng(seed)))
