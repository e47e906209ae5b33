"""Which filters stay when a number of them is given: methods by name, and their choices for one network."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from evo.blueprint import BoolArray
from evo.errors import SettingsError, unknown_name
from evo.importance.clusters import Clusters
from evo.importance.filters import FloatArray, filter_vectors
from evo.importance.magnitude import l1, l2
from evo.importance.neighbours import reciprocal_order
from evo.importance.norm_scale import bn_scale
from evo.importance.ocnna import ocnna_scores
from evo.network import CouplingGroup, Network
from evo.training.data import Samples

Choice: TypeAlias = Callable[[int], NDArray[np.int64]]
"""Returns, for a number of filters to keep, which of one part of a group."""

Method: TypeAlias = Callable[["Material", CouplingGroup, int], list[Choice]]
"""Returns the choices of every part of a group; the number is a seed for this group alone."""

Scores: TypeAlias = Callable[[Network], Mapping[str, ArrayLike]]
"""A user's own method: scores per channel, larger is kept, shape (channels,), by name of the group."""


@dataclass(frozen=True)
class Material:
    """What methods choose by.

    Attributes:
        network: whose filters are chosen.
        samples: training images, for methods that look at feature maps.
        seed: of the choice of such images.
    """

    network: Network
    samples: Samples | None
    seed: int

    @cached_property
    def importance(self) -> dict[str, FloatArray]:
        """OCNNA's importance of all channels, by name of the group; computed when it is first asked for."""
        if self.samples is None:
            raise SettingsError("select: 'ocnna' looks at feature maps; give FilterSelection training images (samples)")
        return ocnna_scores(self.network, self.samples, seed=self.seed)


@dataclass(frozen=True)
class Ranking:
    """Keeps the first of an order, best first: the choices of different numbers are nested."""

    order: NDArray[np.int64]

    def __call__(self, count: int) -> NDArray[np.int64]:
        """Return the `count` best."""
        return self.order[:count]


def _ranked(scores: FloatArray, group: CouplingGroup) -> list[Choice]:
    """Rank every part of a group by its scores, ties by index."""
    return [Ranking(np.argsort(-part, kind="stable")) for part in scores.reshape(group.parts, -1)]


def _by(score: Callable[[Network, CouplingGroup], FloatArray]) -> Method:
    return lambda material, group, seed: _ranked(score(material.network, group), group)


def _vectors(material: Material, group: CouplingGroup) -> Sequence[FloatArray]:
    return np.split(filter_vectors(material.network, group), group.parts)


def _knn(material: Material, group: CouplingGroup, seed: int) -> list[Choice]:
    return [Ranking(reciprocal_order(part)) for part in _vectors(material, group)]


def _kmeans(material: Material, group: CouplingGroup, seed: int) -> list[Choice]:
    return [Clusters.of(part, seed) for part in _vectors(material, group)]


def _random(material: Material, group: CouplingGroup, seed: int) -> list[Choice]:
    return _ranked(np.random.default_rng(seed).random(group.size), group)


def _ocnna(material: Material, group: CouplingGroup, seed: int) -> list[Choice]:
    return _ranked(material.importance[group.name], group)


NORMS: dict[str, Callable[[Network, CouplingGroup], FloatArray]] = {"l1": l1, "l2": l2, "bn_scale": bn_scale}
"""Scores of a group's channels by the size of their weights, of a mean near one in every layer."""

METHODS: dict[str, Method] = {
    **{name: _by(norm) for name, norm in NORMS.items()},
    "knn": _knn,
    "kmeans": _kmeans,
    "random": _random,
    "ocnna": _ocnna,
}
"""L1 and L2 norm, k-reciprocal nearest neighbours (FNP), k-means, chance, the scale of the batch normalisation, and OCNNA."""


class FilterSelection:
    """The filters of a network that stay, for any numbers of them.

    A group is looked at when it is first cut, and a choice is made once. All choices are legal: equally many of every part
    of a grouped convolution.
    """

    def __init__(
        self, network: Network, method: str | Scores, seed: int = 0, *, samples: Samples | None = None
    ) -> None:
        """Take a method.

        Args:
            network: whose filters are chosen.
            method: one of `METHODS`, or a function that scores all channels of a network, larger is kept.
            seed: of "random" and "kmeans", and of the images of "ocnna".
            samples: training images for "ocnna", which runs the network on 5,000 of them when the first filters are chosen.

        Raises:
            SettingsError: there is no such method.
        """
        if isinstance(method, str) and method not in METHODS:
            raise SettingsError(f"select: {unknown_name('filter selection', method, METHODS)}")
        self._network = network
        self._material = Material(network, samples, seed)
        self._method = method
        self._seed = seed
        self._choices: dict[str, list[Choice]] = {}
        self._masks: dict[tuple[str, int], BoolArray] = {}

    def masks(self, counts: ArrayLike) -> dict[str, BoolArray]:
        """Return keep masks, shape (channels,), by group name; they are read-only.

        Args:
            counts: kept channels, shape (G,), in the order of the network's groups.

        Raises:
            SettingsError: a count is not legal for its group, or a user's method returned something else than scores.
            NetworkError: the method cannot tell which filters of a group matter.
        """
        wanted = np.asarray(counts)
        groups = self._network.groups
        if wanted.shape != (len(groups),) or wanted.dtype.kind not in "iu":
            raise SettingsError(
                f"counts: got {wanted.dtype} of shape {wanted.shape}, expected {len(groups)} integers, one per group"
            )
        return {group.name: self._mask(group, count) for group, count in zip(groups, wanted.tolist(), strict=True)}

    def _mask(self, group: CouplingGroup, count: int) -> BoolArray:
        key = (group.name, count)
        if key not in self._masks:
            if not 0 < count <= group.size or group.legal_count(count) != count:
                raise SettingsError(
                    f"{group.name}: cannot keep {count} of {group.size} channels; "
                    f"{group.legal_count(min(count, group.size))} would be legal"
                )
            mask = self._chosen(group, count)
            mask.flags.writeable = False
            self._masks[key] = mask
        return self._masks[key]

    def _chosen(self, group: CouplingGroup, count: int) -> BoolArray:
        if count == group.size:
            return np.ones(group.size, dtype=bool)
        if group.name not in self._choices:
            self._choices[group.name] = self._look_at(group)
        mask = np.zeros((group.parts, group.size // group.parts), dtype=bool)
        for row, choose in zip(mask, self._choices[group.name], strict=True):
            row[choose(count // group.parts)] = True
        return mask.reshape(-1)

    def _look_at(self, group: CouplingGroup) -> list[Choice]:
        if isinstance(self._method, str):
            # A seed of its own for each group: whether others are cut, and in which order, makes no difference.
            digest = hashlib.sha256(f"{self._seed}\0{group.name}".encode()).digest()
            return METHODS[self._method](self._material, group, int.from_bytes(digest[:4], "little"))
        given = self._own_scores.get(group.name, ())
        try:
            scores = np.asarray(given, dtype=np.float64)
        except (TypeError, ValueError, RuntimeError) as error:  # text, a tensor that is elsewhere or has a gradient
            raise SettingsError(
                f"select: {group.name} got what NumPy cannot read as numbers ({error}); expected {group.size}, one per channel"
            ) from None
        if scores.shape != (group.size,) or np.isnan(scores).any():
            what = "NaN" if np.isnan(scores).any() else f"scores of shape {scores.shape}"
            raise SettingsError(f"select: {group.name} got {what}; expected {group.size} numbers, one per channel")
        return _ranked(scores, group)

    @cached_property
    def _own_scores(self) -> Mapping[str, ArrayLike]:
        assert not isinstance(self._method, str)
        scores = self._method(self._network)
        if not isinstance(scores, Mapping):
            raise SettingsError(
                f"select: got {type(scores).__name__} from the function; expected scores per channel by name of the group"
            )
        return scores
