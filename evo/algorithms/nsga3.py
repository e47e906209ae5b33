"""NSGA-III: a front of many objectives, spread evenly over directions (Deb & Jain 2014)."""

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from pydantic import Field, PrivateAttr

from evo.algorithms.niching import Plane, associate, fill, how_many, reference_points
from evo.algorithms.sorting import NonDominatedSorting
from evo.encodings.individual import Individual
from evo.errors import SettingsError
from evo.fitness.base import Objective


class NSGA3(NonDominatedSorting):
    """NSGA-III, by all objectives, meant for three or more, each in its direction.

    As NSGA-II, but of the front that does not fit whole, those survive that are nearest to reference points which have the
    fewest individuals; and parents are drawn evenly. The reference points are spread over a plane through the front's
    extreme points, so that the units of the objectives do not matter.

    A genome that was proposed before is drawn again, see `evo.algorithms.sorting.NonDominatedSorting`.

    Asynchronous: the same, with a selection whenever a sixteenth of a population has arrived.
    """

    divisions: Annotated[
        int | None,
        Field(
            ge=1,
            description="p, parts that each axis of the plane is cut into: (p + M − 1 choose p) reference points for M "
            "objectives; default as many as there are individuals, or somewhat fewer",
        ),
    ] = None

    _plane: Plane = PrivateAttr(default_factory=Plane)

    def check(self, objectives: Sequence[Objective]) -> None:
        """Accept every set of objectives for which there are no more reference points than individuals."""
        if self.divisions is None:
            return
        points = how_many(len(objectives), self.divisions)
        if points > self.population:
            raise SettingsError(
                f"NSGA3: {self.divisions} divisions make {points:,} reference points of {len(objectives)} objectives, more "
                f"than the population of {self.population}; give fewer divisions or a larger population"
            )

    def _reset(self) -> None:
        super()._reset()
        self._plane = Plane()

    def _survivors(self, fronts: list[list[Individual]]) -> list[Individual]:
        """Return whole fronts, and of the one that does not fit whom the emptiest niches choose."""
        pool = [one for front in fronts for one in front]
        values = -np.array([one.fitness.wvalues for one in pool])
        nadir = self._plane.update(values, values[: len(fronts[0])])
        if len(pool) <= self.population:
            return pool
        width = nadir - self._plane.ideal
        scaled = (values - self._plane.ideal) / np.where(width > 0, width, 1.0)
        points = reference_points(values.shape[1], self.population, self.divisions)
        niches, distances = associate(scaled, points)
        whole = len(pool) - len(fronts[-1])
        taken = np.bincount(niches[:whole], minlength=len(points))
        chosen = fill(niches[whole:], distances[whole:], taken, self.population - whole, self._rng)
        return pool[:whole] + [pool[whole + index] for index in chosen]

    def _parent(self) -> Individual:
        return self._population[int(self._rng.integers(len(self._population)))]

    def _save(self) -> dict[str, Any]:
        return {**super()._save(), "plane": self._plane.save()}

    def _restore(self, state: dict[str, Any]) -> None:
        super()._restore(state)
        self._plane = Plane.restored(state["plane"])
