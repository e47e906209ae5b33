"""Labelled images as tensors in memory: decoded once, then sliced."""

import hashlib
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evo.errors import DataError


def digest_of(tensors: Iterable[Tensor]) -> str:
    """Return a hexadecimal hash of the tensors' contents, one after the other."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:32]


class SizedDataset(Protocol):
    """What counts as a data set: `len(data)` and `data[i] -> (input, label)`, like every map-style torch data set."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Any: ...


@dataclass(frozen=True, eq=False)
class Samples:
    """Inputs of shape (N, C, H, W), floating point, and class labels of shape (N,), int64.

    Pickles as NumPy arrays, so that workers on one machine share them.
    """

    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        return len(self.y)

    @cached_property
    def classes(self) -> int:
        """Number of classes: the largest label plus one."""
        return int(self.y.max()) + 1

    @cached_property
    def digest(self) -> str:
        """Hexadecimal content hash."""
        return digest_of((self.x, self.y))

    def take(self, indices: NDArray[np.int64]) -> "Samples":
        """Return a copy of the samples at `indices`, in that order."""
        rows = torch.from_numpy(indices)
        return Samples(self.x.index_select(0, rows), self.y.index_select(0, rows))

    def __getstate__(self) -> dict[str, Any]:
        return {"x": self.x.numpy(), "y": self.y.numpy()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        with warnings.catch_warnings():
            # Arrays shared between workers are read-only; training gathers batches out of them and never writes.
            warnings.filterwarnings("ignore", message=".*not writable")
            for name, array in state.items():
                object.__setattr__(self, name, torch.from_numpy(array))


def load_samples(data: "Samples | SizedDataset | Sequence[Any]", name: str) -> Samples:
    """Decode `data` into tensors.

    Args:
        data: Samples, a pair (inputs, labels) of arrays or tensors, a TensorDataset, or any data set of (input, label).
            A data set's own random transforms run once: give them to the fitness as augmentation instead.
        name: what to call it in errors, e.g. "train".

    Raises:
        DataError: empty, of unequal lengths, not numeric, or with labels that are not class numbers.
    """
    if isinstance(data, Samples):
        data = (data.x, data.y)
    if isinstance(data, torch.utils.data.TensorDataset):
        data = data.tensors
    if isinstance(data, tuple | list) and len(data) == 2 and all(hasattr(part, "shape") for part in data):
        inputs, labels = (torch.as_tensor(part) for part in data)
    else:
        try:
            pairs = [data[index] for index in range(len(data))]
            inputs = torch.stack([torch.as_tensor(pair[0]) for pair in pairs])
            labels = torch.tensor([int(pair[1]) for pair in pairs])
        except (TypeError, ValueError, IndexError, KeyError, RuntimeError) as error:
            raise DataError(
                f"{name}: expected (inputs, labels) or a data set whose items are (tensor, class number), "
                f"got {type(data).__name__} ({error or type(error).__name__})"
            ) from error
    if len(inputs) == 0 or len(inputs) != len(labels):
        raise DataError(f"{name}: expected as many labels as inputs and at least one, got {len(inputs)}, {len(labels)}")
    if inputs.dim() < 2:
        raise DataError(f"{name}: inputs need a batch dimension, got shape {tuple(inputs.shape)}")
    if labels.dim() != 1 or labels.is_floating_point() or int(labels.min()) < 0:
        raise DataError(
            f"{name}: labels must be class numbers 0, 1, …, got {labels.dtype} of shape {tuple(labels.shape)}"
        )
    if not inputs.is_floating_point():
        raise DataError(f"{name}: inputs must be floating point and normalised, got {inputs.dtype}")
    if not bool(torch.isfinite(inputs).all()):
        raise DataError(f"{name}: inputs contain NaN or infinite values")
    return Samples(inputs.detach().cpu().contiguous(), labels.detach().cpu().long().contiguous())


def balanced_subset(labels: Tensor, images: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return indices of `images` random samples in random order, class counts equal up to one where the data allow it.

    A class with fewer samples than its share gives all it has; the others make up for it.
    """
    classes = labels.numpy()
    order = rng.permutation(len(classes))
    # The rank of every sample within its class, in random order: taking the lowest ranks fills all classes evenly.
    rank = np.empty(len(classes), dtype=np.int64)
    for label in np.unique(classes):
        members = order[classes[order] == label]
        rank[members] = np.arange(len(members))
    chosen = order[np.argsort(rank[order], kind="stable")][:images]
    return rng.permutation(chosen)


def split(samples: Samples, fraction: float, rng: np.random.Generator) -> tuple[Samples, Samples]:
    """Return (rest, part): `part` is a class-balanced random `fraction` of the samples, `rest` everything else."""
    chosen = balanced_subset(samples.y, max(1, round(fraction * len(samples))), rng)
    rest = np.setdiff1d(np.arange(len(samples)), chosen)
    return samples.take(rest), samples.take(chosen)
