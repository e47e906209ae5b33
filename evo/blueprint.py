"""The structure of one candidate: which channels of every coupling group are kept, and the bits of every layer."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evo.errors import SettingsError

BoolArray = NDArray[np.bool_]
FULL_BITS = 32
"""Bits of a weight that is not quantised."""


@dataclass(frozen=True)
class Blueprint:
    """Kept channels per coupling group, weight bits per layer: hashable, comparable, small enough to send anywhere.

    Use `from_masks` and `with_bits` to make one.

    >>> import numpy as np
    >>> blueprint = Blueprint.from_masks({"conv1": np.array([True, False, True])}).with_bits({"conv1": 4})
    >>> blueprint.counts, blueprint.bits
    ({'conv1': 2}, {'conv1': 4})

    Attributes:
        groups: (name, number of channels, keep mask packed into bytes), sorted by name.
        layer_bits: (dotted layer name, bits from 1 to 31) of the layers that are quantised, sorted by name.
    """

    groups: tuple[tuple[str, int, bytes], ...]
    layer_bits: tuple[tuple[str, int], ...] = ()

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel without what was derived from the fields: masks take eight times their packed bytes."""
        return Blueprint, (self.groups, self.layer_bits)

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

    def with_bits(self, bits: Mapping[str, int]) -> "Blueprint":
        """Return the same structure with these weight bits, by dotted layer name, in place of its own.

        A layer that is not named, or has 32 bits, keeps its floating-point weights: both are the same blueprint.

        Raises:
            SettingsError: a value is not a whole number from 1 to 32.
        """
        for name, count in bits.items():
            if isinstance(count, bool) or not isinstance(count, Integral) or not 1 <= count <= FULL_BITS:
                raise SettingsError(f"{name}: weight bits are a whole number from 1 to {FULL_BITS}, got {count!r}")
        quantised = sorted((name, int(count)) for name, count in bits.items() if count < FULL_BITS)
        return Blueprint(self.groups, tuple(quantised))

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
    def bits(self) -> dict[str, int]:
        """Weight bits of the quantised layers, from 1 to 31, by dotted layer name."""
        return dict(self.layer_bits)

    @cached_property
    def key(self) -> str:
        """32 hexadecimal digits that identify the structure: the cache key and the source of a candidate's randomness."""
        digest = hashlib.sha256()
        for name, size, packed in self.groups:
            digest.update(f"{name}\0{size}\0".encode())
            digest.update(packed)
        for name, count in self.layer_bits:
            # No group is named "" and has "bits" channels: bits cannot be mistaken for one, and without any the key is as ever.
            digest.update(f"\0bits\0{name}\0{count}\0".encode())
        return digest.hexdigest()[:32]

    def to_json(self) -> str:
        """Return the kept channel indices per group and the bits per layer as JSON, for people and other programs."""
        kept = {name: {"of": size, "kept": np.flatnonzero(self.masks[name]).tolist()} for name, size, _ in self.groups}
        return json.dumps({"kept": kept, "bits": self.bits})

    @classmethod
    def from_json(cls, text: str) -> "Blueprint":
        """Read what `to_json` wrote.

        Raises:
            SettingsError: it is something else.
        """
        masks = {}
        try:
            content: dict[str, dict[str, Any]] = json.loads(text)
            for name, entry in content["kept"].items():
                size, kept = int(entry["of"]), np.asarray(entry["kept"], dtype=np.int64)
                if kept.size and not 0 <= kept.min() <= kept.max() < size:
                    raise ValueError(f"{name}: kept channels go from 0 to {size - 1}")
                masks[name] = np.isin(np.arange(size), kept)
            bits = dict(content["bits"])
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
            raise SettingsError(f"expected a blueprint as JSON, with 'kept' and 'bits' ({error!r})") from None
        return cls.from_masks(masks).with_bits(bits)
