"""One bit per filter (ECS): 1 keeps it, 0 removes it; filters that an architecture ties together share a bit."""

from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from evo.blueprint import Blueprint
from evo.budget import Limits
from evo.encodings.base import Encoding, GenomeSpace
from evo.encodings.channels import refuse_bits
from evo.encodings.individual import Individual
from evo.importance import magnitude
from evo.network import Network, restored
from evo.task import Task

Bits = NDArray[np.uint8]


class FilterBits(Encoding):
    """ECS's genome b ∈ {0,1}^D, D = all filters of all searchable layers."""

    initial: Annotated[
        Literal["sparse", "random"],
        Field(
            description="first population: `random` draws every bit with probability 1/2 (the paper); `sparse` draws a "
            "keep ratio per individual, then one per layer around it, and prefers important filters"
        ),
    ] = "sparse"
    keep: Annotated[tuple[float, float], Field(description="range of keep ratios of `sparse`, each in (0, 1]")] = (
        0.1,
        0.9,
    )
    min_filters: Annotated[int, Field(ge=1, description="filters that every layer keeps at least")] = 1
    max_fragment: Annotated[
        float,
        Field(
            gt=0, le=1, description="longest fragment that mutation inverts, as a share of the genome; 1 is the paper"
        ),
    ] = 1.0

    @model_validator(mode="after")
    def _check_keep(self) -> "FilterBits":
        low, high = self.keep
        if not 0 < low <= high <= 1:
            raise ValueError("keep is a range (low, high) with 0 < low ≤ high ≤ 1")
        return self

    def bind(self, task: Task, weights: tuple[float, ...], limits: Limits | None = None) -> "FilterBitsSpace":
        """Return the space of bit strings of the network; the first population is the same whatever the limits."""
        return FilterBitsSpace(self, task.network, weights)


class FilterBitsSpace(GenomeSpace):
    """Bit strings of one network, groups one after the other in module order, typecode "b"."""

    def __init__(self, settings: FilterBits, network: Network, weights: tuple[float, ...]) -> None:
        self.settings = settings
        self.size = network.channels
        self._weights = weights
        bounds = np.cumsum([0, *(group.size for group in network.groups)])
        self._slices = {
            group.name: slice(int(start), int(stop))
            for group, start, stop in zip(network.groups, bounds[:-1], bounds[1:], strict=True)
        }
        self._starts = bounds[:-1]
        self._groups = network.groups
        self._sizes = np.array([group.size for group in network.groups])
        self._steps = np.array([group.step for group in network.groups])
        self._minimum = np.array([group.legal_count(min(settings.min_filters, group.size)) for group in network.groups])
        importance = magnitude(network)
        self._importance = {name: importance[name] for name in self._slices}

    def individual(self, bits: Bits) -> Individual:
        """Return `bits`, shape (D,), as a new individual."""
        return Individual("b", bits.astype(np.uint8).tobytes(), self._weights)

    def initial(self, count: int, rng: np.random.Generator) -> list[Individual]:
        """Return `count` repaired genomes drawn as the settings say."""
        if self.settings.initial == "random":
            drawn = rng.integers(0, 2, (count, self.size), dtype=np.uint8)
        else:
            drawn = np.stack([self._sparse(rng) for _ in range(count)]) if count else np.zeros((0, self.size), np.uint8)
        return [self.repair(self.individual(bits)) for bits in drawn]

    def _sparse(self, rng: np.random.Generator) -> Bits:
        low, high = self.settings.keep
        # Ratios are uniform in their logarithm: halving a layer is as likely at 80 % as at 20 %.
        ratio = np.exp(rng.uniform(np.log(low), np.log(high)))
        bits = np.zeros(self.size, dtype=np.uint8)
        for name, part in self._slices.items():
            width = part.stop - part.start
            own = np.clip(ratio * np.exp(rng.normal(0.0, 0.3)), low, high)
            kept = max(1, round(own * width))
            # Gumbel noise on log-importance draws without replacement in proportion to importance.
            scores = np.log(self._importance[name] + 1e-12) + rng.gumbel(size=width)
            bits[part.start + np.argsort(-scores)[:kept]] = 1
        return bits

    def decode(self, individual: Individual) -> Blueprint:
        """Return the kept filters per group."""
        bits = _view(individual).astype(bool)
        return Blueprint.from_masks({name: bits[part] for name, part in self._slices.items()})

    def counts(self, individual: Individual) -> NDArray[np.int64]:
        """Return the number of ones per group, shape (G,)."""
        return np.asarray(np.add.reduceat(_view(individual), self._starts, dtype=np.int64))

    def encode(self, blueprint: Blueprint) -> Individual:
        """Return the bits of a structure.

        Raises:
            SettingsError: a layer has weight bits.
        """
        refuse_bits(blueprint)
        masks = blueprint.masks
        return self.individual(np.concatenate([masks[name] for name in self._slices]).astype(np.uint8))

    def nearest(self, blueprint: Blueprint) -> Individual:
        """Return the genome of the same filters, and of more where a layer keeps too few; weight bits are left out."""
        return self.repair(self.encode(blueprint.with_bits({})))

    def repair(self, individual: Individual) -> Individual:
        """Restore the most important filters of every layer that keeps too few, or a number that it cannot keep."""
        bits = _view(individual)
        kept = self.counts(individual)
        uneven = (self._steps > 1) & (kept < self._sizes)
        for index in np.flatnonzero((kept < self._minimum) | uneven):
            group = self._groups[index]
            part = self._slices[group.name]
            mask = restored(group, bits[part].astype(bool), self._importance[group.name], int(self._minimum[index]))
            bits[part] = mask
        return individual

    def mate(self, first: Individual, second: Individual, rng: np.random.Generator) -> tuple[Individual, Individual]:
        """Swap one contiguous fragment (ECS, Crossover)."""
        part = self._fragment(self.size, rng)
        first[part], second[part] = second[part], first[part]
        return self.repair(first), self.repair(second)

    def mutate(self, individual: Individual, rng: np.random.Generator) -> tuple[Individual]:
        """Invert one contiguous fragment (ECS, Mutation)."""
        part = self._fragment(max(1, round(self.settings.max_fragment * self.size)), rng)
        _view(individual)[part] ^= 1
        return (self.repair(individual),)

    def _fragment(self, longest: int, rng: np.random.Generator) -> slice:
        """Draw a non-empty fragment: between any two ends, or, if `longest` is less than all, of a length up to that."""
        if longest >= self.size:
            start, stop = np.sort(rng.choice(self.size + 1, 2, replace=False))
        else:
            length = rng.integers(1, longest + 1)
            start = rng.integers(0, self.size - length + 1)
            stop = start + length
        return slice(int(start), int(stop))

    def pack(self, individual: Individual) -> bytes:
        """Return eight bits per byte."""
        return np.packbits(_view(individual)).tobytes()

    def unpack(self, packed: bytes) -> Individual:
        """Return the individual that `pack` packed."""
        return self.individual(np.unpackbits(np.frombuffer(packed, np.uint8), count=self.size))


def _view(individual: Individual) -> Bits:
    """Return the genes as a writable NumPy view."""
    return np.frombuffer(individual, dtype=np.uint8)
