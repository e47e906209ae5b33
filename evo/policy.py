"""Layer policies: how much of every layer stays, in how many bits; AdaLayerNet's closed form (Zhu 2025, eq. 1 to 3 and 6)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field, model_validator

from evo.blueprint import Blueprint
from evo.budget import Limits
from evo.errors import SettingsError, unknown_name
from evo.importance import FilterSelection
from evo.importance.contributions import contributions, kept_channels, perturbations
from evo.importance.filters import free_groups
from evo.network import Network
from evo.network.groups import layer_name
from evo.network.modes import using_threads
from evo.settings import Settings
from evo.task import Task
from evo.training import error_rate

Counts = NDArray[np.int64]
FloatArray = NDArray[np.float64]

DEFAULT_GAMMA = 0.5


class AdaLayer(Settings):
    """AdaLayerNet's closed form. The paper leaves the coefficients open; its bits go from 4 to 8 (Table 1).

    α was chosen on a network of six layers for scikit-learn's digits, fine-tuned with four seeds at 6 and 3 % of its bytes: 0.8
    was more accurate than 0.2, 0.5 and 1.
    """

    alpha: Annotated[
        float,
        Field(
            ge=0, le=1, description="α: accuracy contribution in a layer's importance; β = 1 − α is that of its FLOPs"
        ),
    ] = 0.8
    delta: Annotated[float, Field(ge=0, le=1, description="δ: pruning for redundancy, weights that vary little")] = 0.1
    lam: Annotated[
        float, Field(ge=0, description="λ: bits that the least important layer loses; 4 spans the paper's 4 to 8")
    ] = 4.0
    eta: Annotated[
        float,
        Field(ge=0, description="η: penalty on the absolute weights of unimportant layers while training (eq. 5)"),
    ] = 1e-6
    gamma: Annotated[
        float | None,
        Field(
            ge=0,
            description="γ: pruning for unimportance; default the smallest with which the budget is met, "
            f"{DEFAULT_GAMMA} without one",
        ),
    ] = None
    p_max: Annotated[float, Field(gt=0, lt=1, description="largest share of a layer's filters that goes")] = 0.9
    b_min: Annotated[int, Field(ge=1, le=32, description="fewest bits of a weight")] = 4
    b_max: Annotated[int, Field(ge=1, le=32, description="most bits of a weight")] = 8
    perturb: Annotated[
        float,
        Field(
            gt=0, lt=1, description="share of a layer's filters that goes to measure what it contributes to accuracy"
        ),
    ] = 0.5

    @model_validator(mode="after")
    def _check_bits(self) -> "AdaLayer":
        if self.b_min > self.b_max:
            raise ValueError(f"b_min {self.b_min} is more than b_max {self.b_max}")
        return self


@dataclass(frozen=True)
class Policy:
    """Filters and bits of every layer.

    Attributes:
        gamma: the pruning intensity that they come of.
        counts: kept channels per coupling group, shape (G,).
        bits: of the layers whose weights can have them, by dotted name.
        layers: a row per layer; see `layer_table`, and `closed_form` for what else it holds.
    """

    gamma: float
    counts: Counts
    bits: Mapping[str, int]
    layers: pd.DataFrame

    def blueprint(self, selection: FilterSelection) -> Blueprint:
        """Return the structure that keeps the filters that `selection` chooses."""
        return Blueprint.from_masks(selection.masks(self.counts)).with_bits(self.bits)


def measured_contributions(
    task: Task, selection: FilterSelection, share: float = 0.5, free: Sequence[str] = ("*",)
) -> dict[str, float]:
    """Return the contributions of a task's network on its validation images, measured in this process by one thread."""
    network = task.network
    with using_threads(1):
        original = error_rate(network.build(network.full), task.val)
        errors = {
            name: error_rate(network.build(blueprint), task.val)
            for name, blueprint in perturbations(network, selection, share, free).items()
        }
    return contributions(original, errors)


def closed_form(
    network: Network,
    contributed: Mapping[str, float],
    settings: AdaLayer | None = None,
    limits: Limits | None = None,
    *,
    free: Sequence[str] = ("*",),
    min_channels: int = 1,
) -> Policy:
    """Return the policy of AdaLayerNet eq. 1, 2, 3 and 6.

    Per layer: importance I = α·A + β·F, pruning ratio P = γ·(1 − I) + δ·R in [0, P_max], bits B = B_max − λ·(1 − I),
    rounded, in [B_min, B_max]. A is the contribution of the group of its filters; a layer without one, such as the
    classifier, cannot be pruned and counts as A = 1. F are its multiply-accumulates, scaled so that the largest are 1. R is 1
    less the variance of its weights, scaled likewise; where all weights of all layers are alike, R = 1 throughout. Layers
    whose filters are tied lose the same share: the mean of their P by their weights. Unless the settings have γ, it is the
    smallest within the limits (eq. 6), which are exact.

    Args:
        network: with trained weights.
        contributed: A by coupling group, as `contributions` gives it.
        settings: α, δ, λ, …
        limits: what the policy has to obey.
        free: groups that may shrink, as names or patterns (`fnmatch`).
        min_channels: channels that every free group keeps at least; all, if it has fewer.

    Returns:
        The policy; its table also has the columns A, F, R, I, and P before rounding, 0 where nothing can be pruned.

    Raises:
        SettingsError: a pattern matches no group, a contribution is of none or not in [0, 1], or no γ meets the limits.
    """
    settings = settings or AdaLayer()
    _check_contributions(network, contributed)
    terms = _terms(network, contributed, settings, free, min_channels)
    bits = _bits(network, terms.importance, settings)
    if settings.gamma is not None:
        gamma = settings.gamma
        _check_fits(limits, terms, gamma, bits, "another gamma")
    else:
        gamma = DEFAULT_GAMMA if limits is None else _smallest(limits, terms, terms.most_gamma, bits)
    counts = terms.counts(gamma)
    table = layer_table(network, counts, bits)
    columns = {"A": terms.contribution, "F": terms.flops, "R": terms.redundancy, "I": terms.importance}
    return Policy(gamma, counts, bits, table.assign(**columns, P=np.where(terms.group_of < 0, 0, terms.ratios(gamma))))


def uniform(
    network: Network,
    bits: int,
    limits: Limits,
    *,
    free: Sequence[str] = ("*",),
    min_channels: int = 1,
    p_max: float = 0.99,
) -> Policy:
    """Return the policy that treats all layers alike, the yardstick for every other: the same bits, the same share of filters.

    Args:
        network: with trained weights.
        bits: of every layer whose weights can have them.
        limits: the share that goes is the smallest with which they are met.
        free, min_channels: as for `closed_form`.
        p_max: largest share.

    Raises:
        SettingsError: a pattern matches no group, or no share meets the limits.
    """
    # With no importance anywhere and δ = 0, P = γ.
    settings = AdaLayer(alpha=1, delta=0, p_max=p_max, b_min=bits, b_max=bits)
    nothing = {group.name: 0.0 for group in network.groups}
    terms = _terms(network, nothing, settings, free, min_channels)
    widths = dict.fromkeys(network.quantisable, bits)
    gamma = _smallest(limits, terms, p_max, widths)
    counts = terms.counts(gamma)
    return Policy(gamma, counts, widths, layer_table(network, counts, widths))


def layer_table(network: Network, counts: Counts, bits: Mapping[str, int]) -> pd.DataFrame:
    """Return what is left of every layer, a row each, indexed by its dotted name.

    Columns: `params` and `kept_params`, weights and biases; `macs` and `kept_macs` for one input; `bytes` and `kept_bytes`,
    of the weights with their scales; `pruned`, the share of its filters that is gone; `bits` of its weights.

    Args:
        network: whose layers.
        counts: kept channels per group, shape (G,).
        bits: by dotted name; other layers have 32.
    """
    costs = network.costs
    table = costs.table(counts, costs.bits_of(bits)).drop(index="total")
    # One bias per filter, where there are any.
    tensors = network.tensors()
    biased = np.array([tensors.get(f"{layer.name}.bias") is not None for layer in costs.layers])
    return pd.DataFrame(
        {
            "params": table["weights"] + biased * table["filters"],
            "kept_params": table["kept_weights"] + biased * table["kept_filters"],
            "macs": table["macs"],
            "kept_macs": table["kept_macs"],
            "bytes": table["bytes"],
            "kept_bytes": table["kept_bytes"],
            "pruned": table["pruned"],
            "bits": table["bits"].astype("int64"),
        }
    )


@dataclass(frozen=True)
class _Terms:
    """What the closed form of one network is made of; arrays of shape (L,) are in the order of the cost model's layers.

    Attributes:
        group_of: index of the free group that a layer's filters are, -1 if they all stay; shape (L,).
        weights: number of weights, shape (L,).
    """

    network: Network
    settings: AdaLayer
    group_of: NDArray[np.int64]
    weights: NDArray[np.int64]
    contribution: FloatArray
    flops: FloatArray
    redundancy: FloatArray
    min_channels: int

    @property
    def importance(self) -> FloatArray:
        """I (eq. 1)."""
        return self.settings.alpha * self.contribution + (1 - self.settings.alpha) * self.flops

    def ratios(self, gamma: float) -> FloatArray:
        """P of every layer (eq. 2), shape (L,)."""
        ratios = gamma * (1 - self.importance) + self.settings.delta * self.redundancy
        return np.clip(ratios, 0, self.settings.p_max)

    def counts(self, gamma: float) -> Counts:
        """Return kept channels per group, shape (G,); they fall with γ."""
        ratios, counts = self.ratios(gamma), self.network.costs.sizes.copy()
        for index in np.unique(self.group_of[self.group_of >= 0]).tolist():
            mine = self.group_of == index
            share = float(np.average(ratios[mine], weights=self.weights[mine]))
            counts[index] = kept_channels(self.network.groups[index], share, self.min_channels)
        return counts

    @property
    def most_gamma(self) -> float:
        """A γ beyond which nothing changes: every layer that it has a say in has lost P_max."""
        unimportant = 1 - self.importance[(self.group_of >= 0) & (self.importance < 1)]
        return self.settings.p_max / float(unimportant.min()) if unimportant.size else 0.0


def _terms(
    network: Network, contributed: Mapping[str, float], settings: AdaLayer, free: Sequence[str], min_channels: int
) -> _Terms:
    costs, allowed = network.costs, free_groups(network, free)
    owner = {
        layer: index
        for index in reversed(np.flatnonzero(allowed).tolist())
        for layer in network.groups[index].producers
    }
    group_of = np.array([owner.get(layer.name, -1) for layer in costs.layers], dtype=np.int64)
    contribution = np.array(
        [contributed.get(network.groups[index].name, 1.0) if index >= 0 else 1.0 for index in group_of.tolist()]
    )
    weights = costs.weights(costs.sizes)
    macs = weights * np.array([layer.uses for layer in costs.layers], dtype=np.int64)
    variances = {
        layer_name(name): float(tensor.double().var(correction=0))
        for name, tensor in network.tensors().items()
        if network.is_weight(name)
    }
    variance = np.array([variances.get(layer.name, 0.0) for layer in costs.layers])
    redundancy = 1 - _scaled(variance)
    return _Terms(network, settings, group_of, weights, contribution, _scaled(macs), redundancy, min_channels)


def _bits(network: Network, importance: FloatArray, settings: AdaLayer) -> dict[str, int]:
    """Return B of every layer that can have bits (eq. 3); halves are rounded to even."""
    exact = np.rint(settings.b_max - settings.lam * (1 - importance))
    found = np.clip(exact, settings.b_min, settings.b_max).astype(int)
    by_name = dict(zip((layer.name for layer in network.costs.layers), found.tolist(), strict=True))
    return {name: by_name[name] for name in network.quantisable}


def _check_contributions(network: Network, contributed: Mapping[str, float]) -> None:
    """Raise SettingsError for a contribution of no group, or one that is no share."""
    names = [group.name for group in network.groups]
    for name, share in contributed.items():
        if name not in names:
            raise SettingsError(f"contributions: {unknown_name('coupling group', name, names)}")
        if not 0 <= share <= 1:
            raise SettingsError(f"contributions: that of {name!r} is a share in [0, 1], got {share!r}")


def _smallest(limits: Limits, terms: _Terms, most: float, bits: Mapping[str, int]) -> float:
    """Return the smallest γ up to `most` within the limits, to the last digit (eq. 6)."""
    _check_fits(limits, terms, most, bits, "a larger p_max, fewer bits or a larger budget")

    def fits(gamma: float) -> bool:
        return bool(limits.fits(terms.counts(gamma), terms.network.costs.bits_of(bits)))

    low, high = 0.0, most
    if fits(low):
        return low
    while low < (middle := (low + high) / 2) < high:
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high


def _check_fits(limits: Limits | None, terms: _Terms, gamma: float, bits: Mapping[str, int], mend: str) -> None:
    """Raise SettingsError unless γ meets the limits."""
    if limits is None:
        return
    values = limits.values(terms.counts(gamma), terms.network.costs.bits_of(bits)).tolist()
    if any(value > most for value, most in zip(values, limits.maxima, strict=True)):
        found = ", ".join(f"{name} {value:,}" for name, value in zip(limits.names, values, strict=True))
        raise SettingsError(
            f"budget: {limits.describe()} is not met by the closed form with gamma {gamma:.3g}, p_max "
            f"{terms.settings.p_max:g} and {min(bits.values(), default=32)} to {max(bits.values(), default=32)} bits, "
            f"which has {found}; try {mend}"
        )


def _scaled(values: NDArray[np.generic]) -> FloatArray:
    """Return values ≥ 0 divided by the largest; zeros if that is 0."""
    numbers = np.asarray(values, dtype=np.float64)
    largest = numbers.max(initial=0.0)
    return np.asarray(numbers / largest) if largest > 0 else np.zeros_like(numbers)
