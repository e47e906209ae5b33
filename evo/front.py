"""Fronts of several objectives: what no other point beats, and how much of the space of objectives it dominates.

Arrays are of shape (N, M), N points with M objectives that are all minimised; `Criteria` knows the directions that users
give their objectives, and flips them once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import moocore
import numpy as np
from numpy.typing import NDArray

from evo.errors import SettingsError, unknown_name
from evo.fitness.base import Objective
from evo.network import COSTS

Values = NDArray[np.float64]

MOST = 4
"""Objectives that a hypervolume is taken of unasked: what it takes to compute grows exponentially with their number."""


def non_dominated(values: Values) -> NDArray[np.bool_]:
    """Return which rows of `values`, shape (N, M), all minimised, no other row dominates; equal rows all stay."""
    kept: NDArray[np.bool_] = moocore.is_nondominated(values, keep_weakly=True)
    return kept


def hypervolume(values: Values, reference: Values) -> float:
    """Return the volume that points dominate up to a reference point.

    Args:
        values: shape (N, M), all minimised.
        reference: shape (M,); what is not better than it in every objective dominates nothing.
    """
    return float(moocore.hypervolume(values, ref=reference))


class Archive:
    """The non-dominated of the points that were added, one by one, and their hypervolume, which never falls.

    A new point costs about the hypervolume of that part of the front that it shares something with (the exclusive
    hypervolume of While, Bradstreet & Barone 2012, "A fast way of calculating exact hypervolumes", sec. III).

    Attributes:
        reference: what the hypervolume is bounded by, shape (M,).
        values: the front, shape (N, M), all minimised; equal points all stay.
        hypervolume: what they dominate up to the reference.
    """

    def __init__(self, reference: Values) -> None:
        self.reference = reference
        self.values: Values = np.empty((0, reference.size))
        self.hypervolume = 0.0

    def add(self, point: Values) -> bool:
        """Take in a point, shape (M,); return whether it is non-dominated, so far."""
        if ((self.values <= point).all(1) & (self.values < point).any(1)).any():
            return False
        alone = float(np.prod(np.maximum(self.reference - point, 0.0)))
        shared = hypervolume(np.maximum(self.values, point), self.reference)
        self.hypervolume += max(0.0, alone - shared)
        beaten = (self.values >= point).all(1) & (self.values > point).any(1)
        self.values = np.vstack([self.values[~beaten], point])
        return True


@dataclass(frozen=True)
class Box:
    """The part of the space of objectives that is looked at: all of it has volume 1.

    Attributes:
        ideal: its best corner, shape (M,), all minimised.
        reference: its worst corner, likewise.
    """

    ideal: Values
    reference: Values

    def scaled(self, values: Values) -> Values:
        """Return points with the ideal at 0 and the reference at 1; where the box is empty, they dominate nothing of it."""
        width = self.reference - self.ideal
        filled = width > 0
        return np.where(filled, (values - self.ideal) / np.where(filled, width, 1.0), 1.0)

    def hypervolume(self, values: Values) -> float:
        """Return which share of the box these points, shape (N, M), dominate."""
        return hypervolume(self.scaled(values), np.ones(self.reference.size))

    def archive(self) -> Archive:
        """Return an empty archive for scaled points."""
        return Archive(np.ones(self.reference.size))


@dataclass(frozen=True)
class Criteria:
    """What a front is drawn over: objectives and costs, each in its direction."""

    chosen: tuple[Objective, ...]

    @classmethod
    def choose(cls, objectives: Sequence[Objective], names: str | Sequence[str] | None = None) -> Self:
        """Return those of these `names`: objectives of a fitness, or costs, which are minimised; default all objectives.

        Raises:
            SettingsError: an unknown name, one that is there twice, or none at all.
        """
        if names is None:
            return cls(tuple(objectives))
        known = {name: Objective(name, False) for name in COSTS} | {entry.name: entry for entry in objectives}
        listed = [names] if isinstance(names, str) else list(names)
        for name in listed:
            if name not in known:
                raise SettingsError(unknown_name("objective", name, known))
        if not listed or len({*listed}) < len(listed):
            raise SettingsError(f"objectives: expected at least one, each once, got {listed}")
        return cls(tuple(known[name] for name in listed))

    @classmethod
    def of_volume(cls, objectives: Sequence[Objective], names: str | Sequence[str] | None = None) -> Self:
        """Return what to take a hypervolume of: as `choose`, but by default `trade_off` if there are more than `MOST`."""
        return cls.choose(objectives, trade_off(objectives) if names is None and len(objectives) > MOST else names)

    @property
    def names(self) -> list[str]:
        """Their names."""
        return [entry.name for entry in self.chosen]

    @property
    def maximized(self) -> dict[str, bool]:
        """By name, whether more is better."""
        return {entry.name: entry.maximize for entry in self.chosen}

    def minimised(self, values: Values) -> Values:
        """Return `values`, shape (…, M), with the maximised ones negated: all are minimised then; or back again."""
        signed: Values = values * np.array([-entry.weight for entry in self.chosen])
        return signed

    def box(
        self,
        values: Values,
        original: Mapping[str, int],
        reference: Mapping[str, float] | None = None,
        ideal: Mapping[str, float] | None = None,
    ) -> Box:
        """Return the box that a hypervolume is taken in.

        A cost, minimised, reaches from 0 to that of the original network; every other objective from the best to the worst
        of `values`. One that is the same everywhere says nothing, and counts as the best.

        Args:
            values: all points measured, shape (N, M), N ≥ 1, all minimised.
            original: costs of the original network.
            reference, ideal: by name, what takes the place of the worst or the best; in the direction of the objective.

        Raises:
            SettingsError: see `check_corner`.
        """
        best, worst = values.min(0), values.max(0)
        worst = np.where(worst > best, worst, best + 1)
        for index, entry in enumerate(self.chosen):
            if entry.name in original and not entry.maximize:
                best[index], worst[index] = 0.0, original[entry.name]
        for corner, given in ((worst, reference), (best, ideal)):
            self.check_corner(given or {}, "reference" if corner is worst else "ideal")
            for index, entry in enumerate(self.chosen):
                if given and entry.name in given:
                    corner[index] = -entry.weight * given[entry.name]
        return Box(best, worst)

    def check_corner(self, corner: Mapping[str, float], what: str) -> None:
        """Refuse what cannot be a corner of the box.

        Raises:
            SettingsError: it has a name that is not among these, or a value that is no finite number.
        """
        for name, value in corner.items():
            if name not in self.names:
                raise SettingsError(f"{what}: {unknown_name('objective', name, self.names)}")
            if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
                raise SettingsError(f"{what}: expected a finite number for {name}, got {value!r}")


def trade_off(objectives: Sequence[Objective]) -> list[str]:
    """Return the two that pictures, tables and comparisons weigh unless told otherwise: the objectives if there are two.

    Else the error, or the first objective if there is none, and the parameters.
    """
    names = [objective.name for objective in objectives]
    return names if len(names) == 2 else list(dict.fromkeys(["error" if "error" in names else names[0], "params"]))
