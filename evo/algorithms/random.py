"""Random search: the yardstick for every other algorithm."""

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

from pydantic import Field

from evo.algorithms.base import Algorithm
from evo.encodings.individual import Individual
from evo.fitness.base import Objective


class RandomSearch(Algorithm):
    """Independent draws from the encoding's initial distribution."""

    multiobjective: ClassVar[bool] = True

    evaluations: Annotated[int, Field(ge=1, description="individuals in all")] = 1000
    batch: Annotated[int, Field(ge=1, description="individuals per round")] = 50

    @property
    def rounds(self) -> int:
        """Number of batches; the last may be smaller."""
        return -(-self.evaluations // self.batch)

    @property
    def places(self) -> int:
        """All of them."""
        return self.evaluations

    def check(self, objectives: Sequence[Objective]) -> None:
        """Accept every set of objectives."""

    def _reset(self) -> None:
        """Nothing beyond the generator."""

    def _propose(self) -> list[Individual]:
        done = self._generation * self.batch
        return self._first(min(self.batch, self.evaluations - done), "random")

    def _learn(self, evaluated: list[Individual]) -> None:
        """Nothing to learn."""

    def _save(self) -> dict[str, Any]:
        return {}

    def _restore(self, state: dict[str, Any]) -> None:
        """Nothing beyond the generator."""
