"""One look into a run's folder: everything that figures and pages are made of, read once."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from evo.convergence import evaluated
from evo.errors import SettingsError, unknown_name
from evo.fitness.base import Objective
from evo.front import non_dominated
from evo.network import COSTS
from evo.run import Run

FEW = 3
"""Objectives that a front is drawn over if a run has no more; of more, error or the first against parameters is."""


@dataclass(frozen=True)
class Look:
    """A run at one moment.

    Attributes:
        run: whose.
        frame: its history in the order in which the search learned of results, with a column `evaluation`, the number of
            evaluations finished by then.
        counts: kept channels of every coupling group, shape (N, G), in the order of `frame`.
        bits: weight bits of every layer, shape (N, L), likewise.
        objectives: what its front is drawn over.
    """

    run: Run
    frame: pd.DataFrame
    counts: NDArray[np.int64]
    bits: NDArray[np.int64]
    objectives: tuple[Objective, ...]

    @classmethod
    def at(cls, run: Run, objectives: Sequence[str] | None = None) -> "Look":
        """Read a run.

        Args:
            run: which.
            objectives: names of objectives or costs that its front is drawn over; default its objectives if there are two or
                three of them, else error (or the first) and parameters.

        Raises:
            SettingsError: an unknown name.
        """
        # Rows are only ever added: what is read first is the shorter.
        frame = run.history
        counts, bits = run.structures()
        # The column `turn` is the order of an asynchronous search; rows without one are still to be taken in.
        order = np.lexsort((frame.index, frame["turn"].fillna(len(frame)).to_numpy(dtype=np.int64)))
        frame = frame.iloc[order].copy()
        frame["evaluation"] = frame.index.isin(evaluated(frame).index).cumsum()
        known = {axis.name: axis for axis in axes_of(run)}
        names = list(objectives) if objectives is not None else _usual(run)
        for name in names:
            if name not in known:
                raise SettingsError(unknown_name("objective", name, known))
        return cls(run, frame, counts[order], bits[order], tuple(known[name] for name in dict.fromkeys(names)))

    @cached_property
    def axes(self) -> tuple[Objective, ...]:
        """All objectives, and the costs that are none; costs are minimised."""
        return axes_of(self.run)

    @cached_property
    def measured(self) -> NDArray[np.int64]:
        """Places in `frame` of the individuals that were measured, each structure once."""
        return np.flatnonzero((self.frame["status"] == "ok") & ~self.frame["cached"])

    @cached_property
    def original(self) -> dict[str, int]:
        """The costs of the whole network."""
        costs = self.run.costs.costs(self.run.costs.sizes)
        return {name: int(value) for name, value in costs.items()}

    @cached_property
    def best(self) -> "pd.Series[Any] | None":
        """The measured row with the best first objective; None if there is none."""
        first = self.run.objectives[0]
        rows = self.frame.iloc[self.measured]
        return None if rows.empty else rows.iloc[int((rows[first.name] * first.weight).argmax())]

    def values(self, axes: Sequence[Objective]) -> NDArray[np.float64]:
        """Return some columns of the measured individuals, shape (N, M), all to be minimised."""
        names = [axis.name for axis in axes]
        values = self.frame[names].to_numpy(dtype=float)[self.measured]
        return np.asarray(values * [-axis.weight for axis in axes])

    def front(self, axes: Sequence[Objective]) -> NDArray[np.int64]:
        """Return the places in `frame` of the individuals that no other beats in every one of `axes`.

        They are sorted by the first of them, the best first.
        """
        values = self.values(axes)
        chosen = np.flatnonzero(non_dominated(values))
        return self.measured[chosen[np.lexsort(values[chosen].T[::-1])]]


def axes_of(run: Run) -> tuple[Objective, ...]:
    """Return the objectives of a run, and the costs that are none of them."""
    names = {objective.name for objective in run.objectives}
    return (*run.objectives, *(Objective(name, False) for name in COSTS if name not in names))


def thinned(places: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """Return all of them, or `most` at even distances, ends included."""
    return places[evenly(len(places), most)]


def evenly(count: int, most: int) -> NDArray[np.int64]:
    """Return all of `count` places, or `most` of them at even distances, ends included."""
    if count <= most:
        return np.arange(count)
    return np.unique(np.linspace(0, count - 1, most).round().astype(np.int64))


def _usual(run: Run) -> list[str]:
    names = [objective.name for objective in run.objectives]
    return names if 2 <= len(names) <= FEW else run.trade_off
