"""What an algorithm is: it proposes genomes and learns how they did. It knows nothing of networks or processes."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from deap import tools
from pydantic import PrivateAttr

from evo.encodings.base import GenomeSpace
from evo.encodings.individual import Individual
from evo.errors import SettingsError
from evo.fitness.base import Objective
from evo.settings import Settings


class Algorithm(Settings, ABC):
    """Settings of an algorithm and, once started, its state.

    The loop is `start`, then `ask` and `tell` in turn until `ask` returns nothing. `tell` receives the very individuals that
    `ask` returned, in order: `fitness.values` set where the evaluation succeeded, `fitness.valid` false where it failed or
    a cascade has not promoted the individual.

    Attributes:
        multiobjective: it goes by all objectives, not by the first alone; a cascade then promotes by costs as well.
    """

    multiobjective: ClassVar[bool] = False

    _space: GenomeSpace | None = PrivateAttr(default=None)
    _rng: np.random.Generator = PrivateAttr(default_factory=np.random.default_rng)
    _asked: list[Individual] | None = PrivateAttr(default=None)
    _seeds: list[Individual] = PrivateAttr(default_factory=list)
    _generation: int = PrivateAttr(default=0)

    @property
    @abstractmethod
    def rounds(self) -> int:
        """Number of times that `ask` returns individuals."""

    @property
    @abstractmethod
    def places(self) -> int:
        """Number of individuals that a search certainly takes from the seeds and the encoding's first population."""

    @abstractmethod
    def check(self, objectives: Sequence[Objective]) -> None:
        """Raise SettingsError if these objectives are not for this algorithm."""

    @abstractmethod
    def _reset(self) -> None:
        """Forget an earlier search: a new one begins."""

    @abstractmethod
    def _propose(self) -> list[Individual]:
        """Return new individuals to evaluate; may be empty if all of this generation are copies."""

    @abstractmethod
    def _learn(self, evaluated: list[Individual]) -> None:
        """Take in the results of the individuals just proposed."""

    @abstractmethod
    def _save(self) -> dict[str, Any]:
        """Return the algorithm's own state as plain values."""

    @abstractmethod
    def _restore(self, state: dict[str, Any]) -> None:
        """Set what `_save` returned."""

    def start(
        self, space: GenomeSpace, objectives: Sequence[Objective], seed: int, seeds: Sequence[Individual] = ()
    ) -> None:
        """Begin a new search.

        Args:
            space: the genomes to search.
            objectives: of the fitness.
            seed: of all randomness.
            seeds: individuals that the search begins with; what else the first population takes, the encoding draws.

        Raises:
            SettingsError: the objectives are not for this algorithm, or there are more seeds than `places`.
        """
        self.check(objectives)
        if len(seeds) > self.places:
            raise SettingsError(
                f"seeds: got {len(seeds)} structures, but {type(self).__name__} begins with {self.places}"
            )
        self._seeds = list(seeds)
        self._space = space
        self._rng = np.random.default_rng(seed)
        self._asked = None
        self._generation = 0
        self._reset()

    def _first(self, count: int, operator: str = "initial") -> list[Individual]:
        """Return individuals to begin with: the seeds, each once, then some of the encoding's first population."""
        seeds, self._seeds = self._seeds[:count], self._seeds[count:]
        drawn = self.space.initial(count - len(seeds), self._rng)
        for individuals, name in ((seeds, "seed"), (drawn, operator)):
            for individual in individuals:
                individual.operator = name
        return seeds + drawn

    @property
    def space(self) -> GenomeSpace:
        """The genomes that are searched."""
        if self._space is None:
            raise RuntimeError(f"{type(self).__name__}: call start() before ask() and tell()")
        return self._space

    @property
    def generation(self) -> int:
        """Number of finished rounds."""
        return self._generation

    def ask(self) -> list[Individual] | None:
        """Return individuals to evaluate, or None when the search is over.

        Raises:
            RuntimeError: not started, or the last ones have not been told.
        """
        _ = self.space
        if self._asked is not None:
            raise RuntimeError(f"{type(self).__name__}: ask() again before tell()")
        if self._generation >= self.rounds:
            return None
        self._asked = self._propose()
        return self._asked

    def tell(self, evaluated: Sequence[Individual]) -> None:
        """Learn the results of the individuals that `ask` returned.

        Raises:
            RuntimeError: nothing was asked.
            ValueError: these are not the individuals that were asked.
        """
        if self._asked is None:
            raise RuntimeError(f"{type(self).__name__}: tell() without ask()")
        if len(evaluated) != len(self._asked) or any(a is not b for a, b in zip(evaluated, self._asked, strict=True)):
            raise ValueError(
                f"{type(self).__name__}: tell() takes the {len(self._asked)} individuals that ask() returned, in order"
            )
        asked, self._asked = self._asked, None
        self._learn(asked)
        self._generation += 1

    def statistics(self, individuals: Sequence[Individual]) -> dict[str, float]:
        """Return mean, standard deviation, minimum and maximum of the first objective over the evaluated `individuals`.

        Of `individuals`, those just asked for. An algorithm may add counts of its own, of how it came by them.
        """
        statistics = tools.Statistics(lambda individual: individual.fitness.values[0])
        for name, function in (("mean", np.mean), ("std", np.std), ("min", np.min), ("max", np.max)):
            statistics.register(name, function)
        valid = [individual for individual in individuals if individual.fitness.valid]
        return {name: float(value) for name, value in statistics.compile(valid).items()} if valid else {}

    def state(self) -> dict[str, Any]:
        """Return everything needed to go on later, as plain values for JSON; only between tell and ask."""
        if self._asked is not None:
            raise RuntimeError(f"{type(self).__name__}: its state can only be saved after tell()")
        return {
            "generation": self._generation,
            "rng": self._rng.bit_generator.state,
            "seeds": len(self._seeds),
            **self._save(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned; call `start` first, with the same seeds."""
        _ = self.space
        self._seeds = self._seeds[len(self._seeds) - state["seeds"] :]
        self._rng.bit_generator.state = state["rng"]
        self._generation = state["generation"]
        self._asked = None
        self._restore(state)
