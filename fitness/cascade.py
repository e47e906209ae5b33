"""A fitness at several fidelities, of which each lets only the promising candidates go on to the next."""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Self

from pydantic import ConfigDict, Field, field_validator, model_validator

from evo.candidate import Candidate
from evo.errors import SettingsError
from evo.fitness.base import Fitness, Objective
from evo.settings import Settings
from evo.task import Task


class Cascade(Settings, Fitness):
    """Several fitnesses from cheap to dear: each judges what the one before it has promoted (successive halving).

    In every generation the new structures are judged by the first fidelity; the best share of them goes on to the second,
    and so on. Only the last fidelity's objectives are those of the search. What is not promoted has no objectives and is
    never a parent; proposed again later, it may be promoted then, by the numbers that it has.

    A fidelity ranks by its first objective, in its direction. For an algorithm that compares by all objectives, it trades
    that against the exact costs among the last fidelity's objectives, see `evo.promotion.ranking`: by the error alone, no
    small network would ever be promoted. There, what earlier generations promoted counts as being before.

    So the first objective should mean the same as the last fidelity's, costs apart: with `compare_by=("error", "params")`
    there, `compare_by=("error",)` or a zero-shot score here.

    Called by itself, outside of a search, it is its last fidelity. (Jamieson & Talwalkar 2016 halve a fixed set; here every
    generation is such a set.)
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    fidelities: Annotated[
        tuple[Fitness, ...],
        Field(min_length=2, description="tables like [fitness], from the cheapest to the one that counts"),
    ]
    promote: Annotated[
        tuple[Annotated[float, Field(gt=0, le=1)], ...],
        Field(
            description="of every fidelity but the last, the share of the structures it has judged in a generation that "
            "goes on to the next; rounded, at least one"
        ),
    ]

    def __init__(self, fidelities: Sequence[Fitness], *, promote: Sequence[float]) -> None:
        """Take the fidelities in their order.

        Raises:
            SettingsError: fewer than two, or not as many shares as there are steps between them.
        """
        super().__init__(fidelities=fidelities, promote=promote)

    @field_validator("fidelities")
    @classmethod
    def _no_cascades(cls, fidelities: tuple[Fitness, ...]) -> tuple[Fitness, ...]:
        if any(isinstance(fidelity, Cascade) for fidelity in fidelities):
            raise ValueError("a fidelity cannot be a cascade itself; list all of them in one")
        return fidelities

    @model_validator(mode="after")
    def _one_share_per_step(self) -> Self:
        steps = len(self.fidelities) - 1
        if len(self.promote) != steps:
            raise ValueError(
                f"promote takes one share per fidelity but the last: {steps} for {len(self.fidelities)} fidelities, "
                f"got {len(self.promote)}"
            )
        return self

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """Those of the last fidelity."""
        return self.fidelities[-1].objectives

    @property
    def names(self) -> tuple[str, ...]:
        """What the fidelities are called."""
        return tuple(str(fidelity.describe()["name"]) for fidelity in self.fidelities)

    def places(self, fidelity: int, judged: int) -> int:
        """Return how many of the structures that a fidelity has judged go on to the next.

        Args:
            fidelity: its place, from 0; not the last.
            judged: how many.
        """
        return min(judged, max(1, math.floor(self.promote[fidelity] * judged + 0.5)))

    def most(self, new: int) -> int:
        """Return how many of `new` structures reach the last fidelity at most."""
        for fidelity in range(len(self.promote)):
            new = self.places(fidelity, new)
        return new

    def __call__(self, candidate: Candidate) -> Mapping[str, float]:
        """Judge by the last fidelity."""
        return self.fidelities[-1](candidate)

    def describe(self) -> dict[str, Any]:
        """Return name, shares, and what every fidelity says of itself."""
        described = [fidelity.describe() for fidelity in self.fidelities]
        return {"name": "cascade", "promote": list(self.promote), "fidelities": described}

    def check(self, task: Task) -> None:
        """Refuse what any fidelity refuses."""
        for place, fidelity in enumerate(self.fidelities):
            try:
                fidelity.check(task)
            except SettingsError as error:
                raise SettingsError(f"Cascade.fidelities.{place}: {error}") from None
