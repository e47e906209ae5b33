"""What an algorithm is: it proposes genomes and learns how they did. It knows nothing of networks or processes."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from deap import tools
from pydantic import PrivateAttr

from evo.encodings.base import GenomeSpace
from evo.encodings.individual import Individual
from evo.fitness.base import Objective
from evo.settings import Settings


class Algorithm(Settings, ABC):
    """Settings of an algorithm and, once started, its state.

    The loop is `start`, then `ask` and `tell` in turn until `ask` returns nothing. `tell` receives the very individuals that
    `ask` returned, in order: `fitness.values` set where the evaluation succeeded, `fitness.valid` false where it failed.
    """

    _space: GenomeSpace | None = PrivateAttr(default=None)
    _rng: np.random.Generator = PrivateAttr(default_factory=np.random.default_rng)
    _asked: list[Individual] | None = PrivateAttr(default=None)
    _generation: int = PrivateAttr(default=0)

    @property
    @abstractmethod
    def rounds(self) -> int:
        """Number of times that `ask` returns individuals."""

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

    def start(self, space: GenomeSpace, objectives: Sequence[Objective], seed: int) -> None:
        """Begin a new search in `space`, with all randomness from `seed`."""
        self.check(objectives)
        self._space = space
        self._rng = np.random.default_rng(seed)
        self._asked = None
        self._generation = 0
        self._reset()

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
        return {"generation": self._generation, "rng": self._rng.bit_generator.state, **self._save()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned; call `start` first."""
        _ = self.space
        self._rng.bit_generator.state = state["rng"]
        self._generation = state["generation"]
        self._asked = None
        self._restore(state)
