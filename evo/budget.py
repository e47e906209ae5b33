"""Budgets: costs that no candidate may exceed, as shares of the original or as absolute numbers."""

from dataclasses import dataclass
from fractions import Fraction
from numbers import Integral, Real
from typing import Annotated, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field, field_validator, model_validator

from evo.blueprint import BoolArray
from evo.errors import SettingsError
from evo.network import COSTS, CostModel
from evo.settings import Settings

Amount = int | float
"""A number with a point is a share of the original in (0, 1]; a whole number, from 2, is absolute."""


class Budget(Settings):
    """Costs that no candidate may exceed: a number with a point is a share of the original network's, in (0, 1]; a whole
    number, from 2 on, is absolute.

    >>> Budget(params=0.3, macs=1_000_000).amounts
    {'params': 0.3, 'macs': 1000000}
    """

    params: Annotated[Amount | None, Field(description=COSTS["params"])] = None
    macs: Annotated[Amount | None, Field(description=COSTS["macs"])] = None
    weights: Annotated[Amount | None, Field(description=COSTS["weights"])] = None
    bytes: Annotated[Amount | None, Field(description=COSTS["bytes"])] = None
    feature_maps: Annotated[Amount | None, Field(description=COSTS["feature_maps"])] = None
    peak_memory: Annotated[Amount | None, Field(description=COSTS["peak_memory"])] = None

    @field_validator("*", mode="before")
    @classmethod
    def _check_amount(cls, value: Any) -> Any:
        right = "expected a share of the original in (0, 1], such as 0.5, or a whole number ≥ 2"
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, Real):
            raise ValueError(right)
        if isinstance(value, Integral):
            if value == 1:
                raise ValueError(f"{right}; all of the original is 1.0")
            if value < 2:
                raise ValueError(right)
            return int(value)
        share = float(value)
        if not 0 < share <= 1:
            raise ValueError(f"{right}; write {share:.0f}" if share >= 2 and share.is_integer() else right)
        return share

    @model_validator(mode="after")
    def _check_entries(self) -> "Budget":
        if not self.amounts:
            raise ValueError("name at least one cost to limit, e.g. params = 0.3")
        return self

    @property
    def amounts(self) -> dict[str, Amount]:
        """What is limited, by name of the cost."""
        return {name: value for name in COSTS if (value := getattr(self, name)) is not None}

    def bind(self, costs: CostModel, fewest: ArrayLike | None = None, bits: ArrayLike | None = None) -> "Limits":
        """Return the limits in numbers for one network.

        Args:
            costs: of the network.
            fewest: kept channels per group of its smallest legal candidate, shape (G,) (`Network.fewest`); default: it is not
                checked whether any candidate is within the budget.
            bits: the fewest that the layers' weights can have, shape (L,); default none are quantised.

        Raises:
            SettingsError: not even the smallest candidate is within the budget.
        """
        names = tuple(self.amounts)
        original = {name: int(value) for name, value in costs.costs(costs.sizes, names).items()}
        # As a decimal fraction, which is what was written: 0.29 of 100 is 29, although 0.29 · 100 < 29 in binary.
        maxima = [
            amount if isinstance(amount, int) else int(Fraction(repr(amount)) * original[name])
            for name, amount in self.amounts.items()
        ]
        limits = Limits(costs, names, tuple(maxima))
        if fewest is not None:
            for name, most, least in zip(names, maxima, limits.values(fewest, bits).tolist(), strict=True):
                if least > most:
                    raise SettingsError(
                        f"budget: {limits.entry(name)} cannot be met; even the smallest candidate has {least:,}"
                    )
        return limits


@dataclass(frozen=True)
class Limits:
    """A budget in numbers, for the candidates of one network.

    Attributes:
        costs: what candidates cost.
        names: limited costs, named as in `evo.network.COSTS`.
        maxima: the largest value of each that is still allowed.
    """

    costs: CostModel
    names: tuple[str, ...]
    maxima: tuple[int, ...]

    def values(self, counts: ArrayLike, bits: ArrayLike | None = None) -> NDArray[np.int64]:
        """Return the limited costs, shape (…, len(names)), for counts of shape (…, G), and bits, as `CostModel.costs` takes
        them.
        """
        found = self.costs.costs(counts, self.names, bits)
        return np.stack([found[name] for name in self.names], axis=-1)

    def fits(self, counts: ArrayLike, bits: ArrayLike | None = None) -> BoolArray:
        """Return which candidates are within all limits, shape (…), for counts of shape (…, G), and bits, likewise."""
        return np.asarray((self.values(counts, bits) <= np.array(self.maxima)).all(-1))

    def describe(self) -> str:
        """Return the limits in words: "params ≤ 12,345 (30 % of 41,150), macs ≤ 9,000 (1.2 % of 750,000)"."""
        return ", ".join(map(self.entry, self.names))

    def entry(self, name: str) -> str:
        """Return one of the limits in words.

        Raises:
            ValueError: the cost of this name is not limited.
        """
        most = self.maxima[self.names.index(name)]
        original = int(self.costs.costs(self.costs.sizes, [name])[name])
        share = f"{100 * most / original:.3g} % of " if original else "of "
        return f"{name} ≤ {most:,} ({share}{original:,})"
