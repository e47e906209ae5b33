"""What decides which filters stay: criteria by name, and of one's own."""

import hashlib
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from evo.errors import EvoError, SettingsError
from evo.importance.clusters import Clusters
from evo.importance.filters import FloatArray, filter_vectors
from evo.importance.magnitude import l1 as l1_norm
from evo.importance.magnitude import l2 as l2_norm
from evo.importance.neighbours import reciprocal_order
from evo.importance.norm_scale import bn_scale as norm_scale
from evo.importance.ocnna import ocnna_scores
from evo.importing import describe
from evo.network import CouplingGroup, Network
from evo.plugins import Registry, described, reference_to
from evo.training.data import Samples

Value = TypeVar("Value")

Choice: TypeAlias = Callable[[int], NDArray[np.int64]]
"""Returns, for a number of channels to keep, which of one part of a group."""


@dataclass(frozen=True)
class Material:
    """What a criterion decides by.

    Attributes:
        network: whose channels are chosen.
        samples: training images; None if there are none.
        seed: of everything random.
    """

    network: Network
    samples: Samples | None
    seed: int
    _known: dict[Hashable, Any] = field(default_factory=dict, repr=False, compare=False)

    def once(self, function: Callable[["Material"], Value]) -> Value:
        """Return what `function` makes of this; computed when it is first asked for."""
        if function not in self._known:
            self._known[function] = function(self)
        found: Value = self._known[function]
        return found

    def seed_of(self, group: CouplingGroup) -> int:
        """Return a seed for this group alone: whether others are cut, and in which order, makes no difference."""
        digest = hashlib.sha256(f"{self.seed}\0{group.name}".encode()).digest()
        return int.from_bytes(digest[:4], "little")


class Criterion(ABC):
    """Decides which channels of a coupling group stay, whatever their number.

    The decorator `criterion` makes one of a function that scores channels, which is what most are. Besides, a module may
    hold an object of a class made from this one.
    """

    @property
    @abstractmethod
    def name(self) -> str:
        """Where it can be had again: module:attribute."""

    @abstractmethod
    def choices(self, material: Material, group: CouplingGroup) -> list[Choice]:
        """Return what chooses among the channels of each part of a group, `group.parts` of them.

        All parts have as many channels, of which equally many stay. It has to depend on the arguments alone.
        """


class _FunctionCriterion(Criterion):
    """A function that a decorator has made a criterion of; named and pickled by the place where it is defined."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.__module__ = function.__module__
        self.__qualname__: str = function.__qualname__
        self.__doc__ = function.__doc__

    @property
    def name(self) -> str:
        """Module and name of the function."""
        return reference_to(self)

    def __reduce_ex__(self, protocol: Any) -> Any:
        found: Any = sys.modules.get(self.__module__)
        for part in self.__qualname__.split("."):
            found = getattr(found, part, None)
        # The name takes the place of the function: pickle finds what the decorator has put there. A script's own
        # definitions travel by value.
        if found is self and self.__module__ != "__main__":
            return self.__qualname__
        return super().__reduce_ex__(protocol)


class GroupCriterion(_FunctionCriterion):
    """A function of material and group that returns a choice for every part of the group."""

    def choices(self, material: Material, group: CouplingGroup) -> list[Choice]:
        """Call the function."""
        choices: list[Choice] = self.function(material, group)
        return choices


class ScoreCriterion(_FunctionCriterion):
    """A function that scores all channels of a network; what has the larger score stays, of equals the first."""

    def __call__(self, material: Material) -> Mapping[str, ArrayLike]:
        """Call the function."""
        scores: Mapping[str, ArrayLike] = self.function(material)
        return scores

    def scores(self, material: Material, group: CouplingGroup) -> FloatArray:
        """Return the scores of a group, shape (channels,).

        Raises:
            SettingsError: the function raised, or returned something else than finite numbers, one per channel.
        """
        given = material.once(self._all_scores).get(group.name, ())
        try:
            scores = np.asarray(given, dtype=np.float64)
        except (TypeError, ValueError, RuntimeError) as error:  # text, a tensor that is elsewhere or has a gradient
            raise SettingsError(
                f"select: {group.name} got what NumPy cannot read as numbers ({error}); expected {group.size}, one per channel"
            ) from None
        if scores.shape != (group.size,) or not np.isfinite(scores).all():
            what = f"scores of shape {scores.shape}" if scores.shape != (group.size,) else "NaN or infinity"
            raise SettingsError(f"select: {group.name} got {what}; expected {group.size} numbers, one per channel")
        return scores

    def choices(self, material: Material, group: CouplingGroup) -> list[Choice]:
        """Rank every part of the group by its scores."""
        return ranked(self.scores(material, group), group)

    def _all_scores(self, material: Material) -> Mapping[str, ArrayLike]:
        try:
            scores = self(material)
        except EvoError:
            raise
        except Exception as error:  # a user's function may raise anything
            raise SettingsError(f"select: {self.name} raised {describe(error)}") from error
        if not isinstance(scores, Mapping):
            raise SettingsError(
                f"select: got {type(scores).__name__} from {self.name}; expected scores per channel by name of the group"
            )
        return scores


def criterion(function: Callable[[Material], Mapping[str, ArrayLike]]) -> ScoreCriterion:
    """Make a criterion of a function that scores the channels of a network; a decorator::

        @evo.importance.criterion
        def variance(material: evo.importance.Material) -> dict[str, np.ndarray]:
            network = material.network
            return {group.name: filter_vectors(network, group).var(axis=1) for group in network.groups}

        evo.ChannelVector(select=variance)

    Args:
        function: returns finite scores, shape (channels,), by name of the group; what has the larger score stays. It has to
            depend on its argument alone, and to leave network and images as they are. It is called once per search, when the
            first channels are chosen.
    """
    return ScoreCriterion(function)


@dataclass(frozen=True)
class Ranking:
    """Keeps the first of an order, best first: the choices of different numbers are nested."""

    order: NDArray[np.int64]

    def __call__(self, count: int) -> NDArray[np.int64]:
        """Return the `count` best."""
        return self.order[:count]


def ranked(scores: FloatArray, group: CouplingGroup) -> list[Choice]:
    """Rank every part of a group by its scores, shape (channels,), the largest first, ties by index."""
    return [Ranking(np.argsort(-part, kind="stable")) for part in scores.reshape(group.parts, -1)]


def _vectors(material: Material, group: CouplingGroup) -> Sequence[FloatArray]:
    return np.split(filter_vectors(material.network, group), group.parts)


@GroupCriterion
def l1(material: Material, group: CouplingGroup) -> list[Choice]:
    """Sum of absolute weights."""
    return ranked(l1_norm(material.network, group), group)


@GroupCriterion
def l2(material: Material, group: CouplingGroup) -> list[Choice]:
    """Root of the sum of squared weights."""
    return ranked(l2_norm(material.network, group), group)


@GroupCriterion
def knn(material: Material, group: CouplingGroup) -> list[Choice]:
    """Filters that are among the nearest of all others, k-reciprocal nearest neighbours (FNP)."""
    return [Ranking(reciprocal_order(part)) for part in _vectors(material, group)]


@GroupCriterion
def kmeans(material: Material, group: CouplingGroup) -> list[Choice]:
    """Filters nearest to the centres of k-means clusters (FNP, Table 12)."""
    return [Clusters.of(part, material.seed_of(group)) for part in _vectors(material, group)]


@GroupCriterion
def chance(material: Material, group: CouplingGroup) -> list[Choice]:
    """Any filters: the yardstick for every other criterion."""
    return ranked(np.random.default_rng(material.seed_of(group)).random(group.size), group)


@GroupCriterion
def bn_scale(material: Material, group: CouplingGroup) -> list[Choice]:
    """Scale |γ| of the batch normalisation (network slimming)."""
    return ranked(norm_scale(material.network, group), group)


@criterion
def ocnna(material: Material) -> dict[str, FloatArray]:
    """Variation of feature maps from image to image, over 5,000 training images (OCNNA)."""
    if material.samples is None:
        raise SettingsError("select: 'ocnna' looks at feature maps; give FilterSelection training images (samples)")
    return ocnna_scores(material.network, material.samples, seed=material.seed)


def _complaint(found: object) -> str | None:
    if isinstance(found, Criterion):
        return None
    undecorated = callable(found) and not isinstance(found, type)
    return "decorate it with @evo.importance.criterion" if undecorated else f"expected a {reference_to(Criterion)}"


CRITERIA: Registry[Criterion] = Registry(
    "importance criterion",
    "evo.importance",
    {"l1": l1, "l2": l2, "knn": knn, "kmeans": kmeans, "random": chance, "bn_scale": bn_scale, "ocnna": ocnna},
    _complaint,
)


def criterion_of(select: object) -> Criterion:
    """Return a criterion itself, or the one of this name: of `CRITERIA`, of a plug-in, or module:attribute.

    Raises:
        SettingsError: it is neither.
    """
    if isinstance(select, str):
        return CRITERIA.find(select, "select")
    if not isinstance(select, Criterion):
        raise SettingsError(f"select: got {described(select)}; {_complaint(select)}")
    return select
