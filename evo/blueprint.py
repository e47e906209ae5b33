"""The structure of one candidate: which channels of every coupling group are kept."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evo.errors import SettingsError

BoolArray = NDArray[np.bool_]


@dataclass(frozen=True)
class Blueprint:
    """Kept channels per coupling group: hashable, comparable, small enough to send anywhere.

    `groups` holds (name, number of channels, keep mask packed into bytes), sorted by name. Use `from_masks` to make one.
    """

    groups: tuple[tuple[str, int, bytes], ...]

    @classmethod
    def from_masks(cls, masks: Mapping[str, BoolArray]) -> "Blueprint":
        """Make a blueprint from one boolean mask of shape (channels,) per group, true where the channel is kept.

        Raises:
            SettingsError: a mask is empty, has another shape or keeps nothing.
        """
        groups = []
        for name in sorted(masks):
            mask = np.asarray(masks[name])
            if mask.ndim != 1 or mask.dtype != np.bool_:
                raise SettingsError(f"{name}: a keep mask is one-dimensional and boolean, got {mask.dtype}{mask.shape}")
            if not mask.any():
                raise SettingsError(f"{name}: the keep mask keeps none of {mask.size} channels; keep at least one")
            groups.append((name, mask.size, np.packbits(mask).tobytes()))
        return cls(tuple(groups))

    @cached_property
    def masks(self) -> dict[str, BoolArray]:
        """Boolean keep masks of shape (channels,), by group name."""
        return {
            name: np.unpackbits(np.frombuffer(packed, np.uint8), count=size).astype(bool)
            for name, size, packed in self.groups
        }

    @cached_property
    def counts(self) -> dict[str, int]:
        """Number of kept channels, by group name."""
        return {name: int(mask.sum()) for name, mask in self.masks.items()}

    @cached_property
    def key(self) -> str:
        """32 hexadecimal digits that identify the structure: the cache key and the source of a candidate's randomness."""
        digest = hashlib.sha256()
        for name, size, packed in self.groups:
            digest.update(f"{name}\0{size}\0".encode())
            digest.update(packed)
        return digest.hexdigest()[:32]

    def to_json(self) -> str:
        """Return the kept channel indices per group as JSON, for people and other programs."""
        kept = {name: {"of": size, "kept": np.flatnonzero(self.masks[name]).tolist()} for name, size, _ in self.groups}
        return json.dumps(kept)

    @classmethod
    def from_json(cls, text: str) -> "Blueprint":
        """Read what `to_json` wrote."""
        kept: dict[str, dict[str, Any]] = json.loads(text)
        masks = {}
        for name, entry in kept.items():
            mask = np.zeros(entry["of"], dtype=bool)
            mask[entry["kept"]] = True
            masks[name] = mask
        return cls.from_masks(masks)
