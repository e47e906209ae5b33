"""Hill climbing: the simplest evolution."""

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import Field, PrivateAttr

from evo.algorithms import Algorithm, genomes
from evo.encodings.individual import Individual
from evo.errors import SettingsError
from evo.fitness import Objective


class HillClimbing(Algorithm):
    """(1 + λ): every step mutates the best individual so far, by the first objective, and keeps what is not worse."""

    steps: Annotated[int, Field(ge=1, description="rounds, the first individuals included")] = 20
    children: Annotated[int, Field(ge=1, description="λ, individuals per round")] = 8

    _best: list[Individual] = PrivateAttr(default_factory=list)  # one, or none before the first success

    @property
    def rounds(self) -> int:
        """As many as there are steps."""
        return self.steps

    @property
    def places(self) -> int:
        """The first round."""
        return self.children

    def check(self, objectives: Sequence[Objective]) -> None:
        """Accept every set of objectives; the first one counts."""

    def _reset(self) -> None:
        self._best = []

    def _propose(self) -> list[Individual]:
        if self._generation == 0:
            return self._first(self.children)
        if not self._best:
            raise SettingsError("HillClimbing: every evaluation so far failed; nothing to climb from")
        children = [genomes.child("mutation", self._best[0]) for _ in range(self.children)]
        for child in children:
            self.space.mutate(child, self._rng)  # all randomness is the algorithm's own
        return children

    def _learn(self, evaluated: list[Individual]) -> None:
        valid = [one for one in (*evaluated, *self._best) if one.fitness.valid]  # of equals the newer
        self._best = [max(valid, key=lambda one: one.fitness.wvalues[0])] if valid else []

    def _save(self) -> dict[str, Any]:
        return {"best": genomes.pack(self.space, self._best)}

    def _restore(self, state: dict[str, Any]) -> None:
        self._best = genomes.unpack(self.space, state["best"])
