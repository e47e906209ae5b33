"""Batches in random order, and random changes to their images."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from evo.training.recipe import Recipe


def batches(count: int, size: int, rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """Yield the index batches of one epoch: a new permutation, its incomplete last batch left out."""
    order = rng.permutation(count)
    for start in range(0, max(1, count - size + 1), size):
        yield order[start : start + size]


def augment(x: Tensor, recipe: Recipe, rng: np.random.Generator) -> Tensor:
    """Return a batch (N, C, H, W) shifted and flipped at random, each image by its own draw; edges are filled with zero."""
    count = len(x)
    if recipe.shift:
        reach, (height, width) = recipe.shift, x.shape[2:]
        padded = nn.functional.pad(x, (reach,) * 4)
        rows = torch.from_numpy(rng.integers(0, 2 * reach + 1, count))[:, None] + torch.arange(height)
        columns = torch.from_numpy(rng.integers(0, 2 * reach + 1, count))[:, None] + torch.arange(width)
        x = padded[torch.arange(count)[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    if recipe.flip:
        flipped = torch.from_numpy(rng.random(count) < 0.5)
        x = torch.where(flipped[:, None, None, None], x.flip(3), x)
    return x
