"""Structures from scores of channels: what is at or above a percentile stays."""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from evo.blueprint import Blueprint
from evo.errors import SettingsError
from evo.importance.filters import FloatArray, free_groups
from evo.network import Network

PERCENTILE = 40.0
"""The best percentile k of OCNNA's paper."""

Scope = Literal["layer", "global"]
"""Whether a percentile is that of every group's own scores, or of those of all groups that may shrink."""

HALVINGS = 40
"""Of the range of percentiles when one is looked for: ranks of neighbours are further apart than 100 · 2⁻⁴⁰ per cent."""


def listed(k: float | Sequence[float]) -> list[float]:
    """Return one or several percentiles as a list.

    Raises:
        SettingsError: one is none.
    """
    try:
        percentiles: list[float] = np.ravel(np.asarray(k, dtype=np.float64)).tolist()
    except (TypeError, ValueError):
        raise SettingsError(f"k: expected percentiles between 0 and 100, got {k!r}") from None
    for one in percentiles:
        if not 0 <= one <= 100:
            raise SettingsError(f"k: a percentile lies between 0 and 100, got {one:g}")
    return percentiles


def structures(
    network: Network,
    scores: Mapping[str, ArrayLike],
    k: float | Sequence[float] = PERCENTILE,
    *,
    free: Sequence[str] = ("*",),
    scope: Scope = "layer",
) -> list[Blueprint]:
    """Return what stays at every percentile k: the channels whose score is at or above the k-th percentile.

    0 keeps everything, 100 the best and what is as good. Percentiles are interpolated linearly. Where a group cannot keep
    so many or so few (grouped convolutions, multiples, none), the next best join them. `evo.seeds` begins a search with them.

    Args:
        network: that was scored.
        scores: shape (channels,) by name of the group, larger is kept; of the groups that may shrink at least.
        k: percentile, or several, each in [0, 100].
        free: groups that may shrink, as names or patterns; the others stay whole.
        scope: the percentile is that of every group by itself ("layer"), or of all of them together, every score relative to
            the mean of its group ("global").

    Raises:
        SettingsError: a percentile that is none, a pattern that matches no group, or a group without scores.
    """
    percentiles = listed(k)
    values = _values(network, scores, free)
    return [_above(network, values, one, scope) for one in percentiles]


def largest(
    network: Network,
    scores: Mapping[str, ArrayLike],
    fits: Callable[[Blueprint], bool],
    *,
    free: Sequence[str] = ("*",),
    scope: Scope = "layer",
) -> Blueprint | None:
    """Return the structure of the smallest percentile that is within limits, or None if not even that of 100 is.

    Args:
        network, scores, free, scope: see `structures`.
        fits: tells of a structure whether it is; who fits with more channels also fits with fewer.

    Raises:
        SettingsError: as `structures`.
    """
    values = _values(network, scores, free)
    low, high = 0.0, 100.0
    found = _above(network, values, high, scope)
    if not fits(found):
        return None
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        structure = _above(network, values, middle, scope)
        if fits(structure):
            high, found = middle, structure
        else:
            low = middle
    return found


def _values(network: Network, scores: Mapping[str, ArrayLike], free: Sequence[str]) -> dict[str, FloatArray]:
    """Return the scores of the groups that may shrink, checked."""
    values = {}
    for group, shrinks in zip(network.groups, free_groups(network, free).tolist(), strict=True):
        if shrinks:
            own = values[group.name] = np.asarray(scores.get(group.name, ()), dtype=np.float64)
            if own.shape != (group.size,) or not np.isfinite(own).all():
                raise SettingsError(f"scores: {group.name} has {group.size} channels and needs as many finite numbers")
    return values


def _above(network: Network, values: Mapping[str, FloatArray], k: float, scope: Scope) -> Blueprint:
    """Return the structure of one percentile; groups without scores keep all."""
    if scope == "global":
        values = {name: own / (np.abs(own).mean() or 1.0) for name, own in values.items()}
    together = np.concatenate(list(values.values()))
    masks = {group.name: np.ones(group.size, dtype=bool) for group in network.groups}
    for name, own in values.items():
        masks[name] = own >= np.percentile(together if scope == "global" else own, k)
    return network.repaired(masks, {name: values.get(name, np.zeros(mask.size)) for name, mask in masks.items()})
