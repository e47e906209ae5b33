"""Cutting compiled once: which entries of every tensor follow which channels."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evo.blueprint import BoolArray
from evo.errors import NetworkError
from evo.network.groups import CouplingGroup


class SlicePlan:
    """What `groups` cut out of which tensors of a network; `apply` does it for one set of masks."""

    def __init__(self, groups: Sequence[CouplingGroup], tensors: Mapping[str, Tensor]) -> None:
        self.names = [group.name for group in groups]
        self._sizes = [group.size for group in groups]
        # Position of each entry's channel in the joined keep mask; the last position is that of what always stays.
        always = sum(group.size for group in groups)
        owners: dict[tuple[str, int], NDArray[np.int64]] = {}
        start = 0
        for group in groups:
            for cut in group.cuts:
                owner = owners.setdefault((cut.tensor, cut.dim), np.full(cut.channels.shape, always, dtype=np.int64))
                mine = cut.channels >= 0
                owner[mine] = start + cut.channels[mine]
            start += group.size
        self._owners: list[NDArray[np.int64]] = []
        known: dict[bytes, int] = {}
        self._cuts: dict[str, list[tuple[int, int]]] = {}
        self.attributes: list[tuple[str, int]] = []
        for (tensor, dim), owner in owners.items():
            key = repr(owner.shape).encode() + owner.tobytes()
            if key not in known:
                known[key] = len(self._owners)
                self._owners.append(owner)
            if tensor in tensors:
                self._cuts.setdefault(tensor, []).append((dim, known[key]))
            else:
                self.attributes.append((tensor, known[key]))
        for cuts in self._cuts.values():
            cuts.sort()

    def entries(self, masks: Mapping[str, BoolArray]) -> list[NDArray[np.bool_]]:
        """Return which entries stay, for every distinct pattern of ownership."""
        keep = np.concatenate([*(masks[name] for name in self.names), [True]])
        return [keep[owner] for owner in self._owners]

    def apply(
        self, tensors: Mapping[str, Tensor], masks: Mapping[str, BoolArray]
    ) -> tuple[dict[str, Tensor], dict[str, int]]:
        """Return a copy of every tensor without the entries of removed channels, and the sizes that layers note."""
        kept = self.entries(masks)
        indices = [None if entries.all() else _indices(entries) for entries in kept]
        blocked = [entries.ndim > 1 for entries in kept]
        result = {}
        for name, tensor in tensors.items():
            sliced = tensor
            for dim, pattern in self._cuts.get(name, ()):
                index = indices[pattern]
                if index is not None:
                    sliced = _select_blocks(sliced, index) if blocked[pattern] else sliced.index_select(dim, index)
            result[name] = tensor.clone() if sliced is tensor else sliced
        return result, {name: int(kept[pattern].sum()) for name, pattern in self.attributes}

    def cuts(self, tensor: str) -> Sequence[tuple[int, int]]:
        """Return the dimensions of a tensor that are cut, each with its pattern of `entries`."""
        return self._cuts.get(tensor, ())

    def lengths(self, counts: NDArray[np.int64]) -> tuple[list[int], list[int]]:
        """Return how many entries of every pattern stay, in each of its rows and in all, for kept channels of shape (G,)."""
        totals = self._entries_per_channel @ np.append(counts, 1)
        return (totals // self._rows).tolist(), totals.tolist()

    @cached_property
    def _entries_per_channel(self) -> NDArray[np.int64]:
        """Entries of every pattern that each channel of a group owns; in the last column those that always stay."""
        found = np.zeros((len(self._owners), len(self._sizes) + 1), dtype=np.int64)
        bounds = np.cumsum([0, *self._sizes])
        for row, owner in zip(found, self._owners, strict=True):
            owned = np.bincount(owner.ravel(), minlength=bounds[-1] + 1)
            row[-1] = owned[-1]
            for group, (start, end) in enumerate(pairwise(bounds)):
                if (owned[start:end] != owned[start]).any():
                    raise NetworkError(
                        f"{self.names[group]}: its channels differ in how many entries of a weight they own, so that the "
                        "number of kept channels does not tell the shapes of a candidate"
                    )
                row[group] = owned[start]
        return found

    @cached_property
    def _rows(self) -> NDArray[np.int64]:
        return np.array([len(owner) if owner.ndim > 1 else 1 for owner in self._owners], dtype=np.int64)

    def pattern(self, tensor: str, dim: int) -> int | None:
        """Return which of the patterns of `entries` a tensor's dimension follows, None if it is never cut."""
        return dict(self._cuts.get(tensor, ())).get(dim)


def _indices(entries: NDArray[np.bool_]) -> Tensor:
    if entries.ndim == 1:
        return torch.from_numpy(entries.nonzero()[0])
    return torch.from_numpy(np.stack([np.flatnonzero(row) for row in entries]))


def _select_blocks(weight: Tensor, index: Tensor) -> Tensor:
    """Select inputs of a grouped convolution: `index`, shape (groups, kept), has a row for each group's filters."""
    groups = len(index)
    blocks = weight.view(groups, -1, *weight.shape[1:])
    filters = torch.arange(blocks.shape[1])
    picked = blocks[torch.arange(groups)[:, None, None], filters[None, :, None], index[:, None, :]]
    return picked.flatten(0, 1)
