"""OCNNA (Balderas, Lastra and Benítez 2024): the importance of a filter is how much the content of its feature maps varies."""

from collections.abc import Callable, Mapping, Sequence
from numbers import Integral
from typing import Protocol, TypeVar

import numpy as np

from evo.errors import NetworkError, SettingsError
from evo.importance.feature_maps import NormStatistics, OutputNorms, producers
from evo.importance.filters import FloatArray, producing_cuts
from evo.importance.magnitude import scaled_sum
from evo.network import CouplingGroup, Network
from evo.network.modes import using_threads
from evo.training.data import Samples, balanced_subset

IMAGES = 5000
VARIANCE = 0.95
"""The paper's number of images, and retained variance."""

SHARD = 250
"""Images that are measured together; the result depends on it in the last bits, hence it is no setting."""

Shared = TypeVar("Shared")
Item = TypeVar("Item")
Result = TypeVar("Result")


class Map(Protocol):
    """How a function is called on many items, like `Evaluator.map`."""

    def __call__(
        self, function: Callable[[Shared, Item], Result], shared: Shared, items: Sequence[Item], /
    ) -> list[Result]:
        """Return `function(shared, item)` of every item, in their order."""


def one_by_one(function: Callable[[Shared, Item], Result], shared: Shared, items: Sequence[Item], /) -> list[Result]:
    """Call the function here, on one thread."""
    with using_threads(1):
        return [function(shared, item) for item in items]


def ocnna_scores(
    network: Network,
    samples: Samples,
    *,
    images: int = IMAGES,
    variance: float = VARIANCE,
    seed: int = 0,
    map_items: Map = one_by_one,
) -> dict[str, FloatArray]:
    """Return the importance C_m = σ/μ of every channel's norms over images (eq. 4 to 6), shape (channels,) per group.

    For every image and filter the norm is that of the filter's feature map, projected on as few principal components as
    hold `variance` of its variance (`evo.importance.retained_norm`). The feature map is what the layer that has the filter
    returns, "the output from the i-th convolutional layer" (Fig. 1): before a normalisation and an activation that are
    modules or calls of their own. A batch normalisation in between would change nothing: C_m does not depend on a map's
    offset and scale. σ is the standard deviation over all images, without Bessel's correction. Where the mean is 0, as of
    filters whose maps are constant, the importance is 0.

    Maps of other than two dimensions: linear layers have maps of 1×1, sequences of one row, volumes are rows of all their
    slices. A layer that the network calls several times per image has as many maps per image. Where a channel has several
    filters in a layer, as before a pixel shuffle, its importance is their mean; where several layers produce it, as in a
    residual stream, the mean over the layers of these, scaled to a mean of one per layer.

    Whatever number of workers does it, the result is the same, bit for bit. Memory beyond network and images is that of one
    forward pass on at most 250 images, fewer for large maps, and of a few copies of 2²³ numbers.

    Args:
        network: whose channels are scored.
        samples: training images.
        images: of these, class-balanced; all if there are not so many.
        variance: in (0, 1].
        seed: of the choice of images.
        map_items: where the work is done: `evaluator.map` for all its workers, default here on one thread.

    Raises:
        SettingsError: fewer than two images, or a share that is none.
        NetworkError: no layer that is called as a module produces a group's channels, or an output is not finite.
    """
    check_measurement(samples, images, variance)
    chosen = samples.take(balanced_subset(samples.y, images, np.random.default_rng(seed)))
    norms = OutputNorms(network, tuple(producers(network)), chosen, variance)
    shards = [(start, min(start + SHARD, len(chosen))) for start in range(0, len(chosen), SHARD)]
    measured = map_items(OutputNorms.measure, norms, shards)
    total = measured[0]
    for part in measured[1:]:
        total = {layer: statistics + part[layer] for layer, statistics in total.items()}
    return {group.name: _score(network, group, total) for group in network.groups}


def check_measurement(samples: Samples, images: int, variance: float) -> None:
    """Raise SettingsError for arguments of `ocnna_scores` that cannot work."""
    if not isinstance(images, Integral):
        raise SettingsError(f"images: expected a whole number, got {images!r}")
    if not 0 < variance <= 1:
        raise SettingsError(f"variance: expected a share in (0, 1], got {variance}")
    if min(images, len(samples)) < 2:
        raise SettingsError(
            f"images: a deviation takes at least 2 images, got {images} of {len(samples)} training images"
        )


def _score(network: Network, group: CouplingGroup, statistics: Mapping[str, NormStatistics]) -> FloatArray:
    """Return the importance of one group's channels, shape (channels,)."""
    rows = []
    for layer, cut in producing_cuts(network, group):
        if layer not in statistics:
            continue
        variation = statistics[layer].variation
        # Every group of a grouped transposed convolution has the same filters' numbers.
        owner = np.tile(cut.channels, variation.size // cut.channels.size)
        mine = owner >= 0
        entries = np.bincount(owner[mine], minlength=group.size)
        rows.append(np.bincount(owner[mine], variation[mine], group.size) / entries)
    if not rows:
        raise NetworkError(
            f"{group.name}: OCNNA looks at what layers return, and none that is called as a module produces these channels"
        )
    return rows[0] if len(rows) == 1 else scaled_sum(rows, group.size) / len(rows)
