"""Any encoding within a budget: what exceeds it is drawn again, before anything is built or measured."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from evo.blueprint import Blueprint, BoolArray
from evo.budget import Budget, Limits
from evo.encodings.base import Encoding, GenomeSpace, bits_of
from evo.encodings.individual import Individual
from evo.errors import SettingsError
from evo.network import Network
from evo.task import Task

TRIES = 10_000
"""Draws in a row that may all exceed the limits before `Budgeted` gives up."""


def bind_within(encoding: Encoding, task: Task, weights: tuple[float, ...], budget: Budget | None) -> GenomeSpace:
    """Return the genomes of the task's network that are within `budget`, if there is one; a `Budgeted` space then.

    Raises:
        SettingsError: not even the smallest candidate is within the budget.
    """
    if budget is None:
        return encoding.bind(task, weights)
    limits = limits_of(encoding, task.network, budget)
    return Budgeted(encoding.bind(task, weights, limits), limits)


def limits_of(encoding: Encoding, network: Network, budget: Budget) -> Limits:
    """Return `budget` in numbers for the candidates that an encoding makes of `network`.

    Raises:
        SettingsError: not even the smallest of them is within the budget.
    """
    return budget.bind(network.costs, network.fewest, encoding.fewest_bits(network))


class Budgeted(GenomeSpace):
    """The genomes of another space, with operators that make only what is within limits.

    A first individual or a child that exceeds them is drawn again from the same parents; the generator that is passed in
    decides alone what comes of it. `drawn` and `rejected` count genomes since the space was made or `tally` was called.

    Attributes:
        space: the genomes as the encoding makes them.
        limits: what they have to obey.
    """

    def __init__(self, space: GenomeSpace, limits: Limits) -> None:
        self.space = space
        self.limits = limits
        self.size = space.size
        self.drawn = self.rejected = 0

    def tally(self) -> dict[str, int]:
        """Return how many genomes were `drawn` and `rejected` since the last call, and count from 0 again."""
        counted = {"drawn": self.drawn, "rejected": self.rejected}
        self.drawn = self.rejected = 0
        return counted

    @property
    def seeds(self) -> list[Individual]:
        """New individuals that a search begins with: those of the encoding that are within the limits."""
        return [one for one in self.space.seeds if self.fits(one)]

    def fits(self, individual: Individual) -> bool:
        """Tell whether a genome is within the limits."""
        return bool(self.limits.fits(self.space.counts(individual), self.space.bits(individual)))

    def initial(self, count: int, rng: np.random.Generator) -> list[Individual]:
        """Return `count` genomes within the limits, of those that the encoding draws.

        Raises:
            SettingsError: `TRIES` in a row were not.
        """
        accepted: list[Individual] = []
        streak = _Streak(self.limits)
        while len(accepted) < count:
            drawn = self.space.initial(count - len(accepted), rng)
            accepted += [one for one, fits in zip(drawn, self._judge(drawn, streak), strict=True) if fits]
        return accepted

    def mate(self, first: Individual, second: Individual, rng: np.random.Generator) -> tuple[Individual, Individual]:
        """Cross two genomes in place until there are two children within the limits, not always of one crossing.

        Raises:
            SettingsError: `TRIES` in a row were not.
        """
        self._redraw((first, second), lambda: self.space.mate(first, second, rng))
        return first, second

    def mutate(self, individual: Individual, rng: np.random.Generator) -> tuple[Individual]:
        """Mutate a genome in place until it is within the limits.

        Raises:
            SettingsError: `TRIES` in a row were not.
        """
        self._redraw((individual,), lambda: self.space.mutate(individual, rng))
        return (individual,)

    def _redraw(self, family: Sequence[Individual], vary: Callable[[], object]) -> None:
        """Apply an operator that changes `family` in place to the genes it has now until each has had one that fits.

        Two children of parents near the limits seldom fit both: what one gains the other has lost. So each takes the first
        of its own.
        """
        before = [one[:] for one in family]
        found = list(before)
        pending = list(range(len(family)))
        streak = _Streak(self.limits)
        while True:
            vary()
            fits = self._judge([family[index] for index in pending], streak)
            for index in [index for index, fit in zip(pending, fits, strict=True) if fit]:
                found[index] = family[index][:]
                pending.remove(index)
            if not pending:
                break
            for one, genes in zip(family, before, strict=True):
                one[:] = genes
        for one, genes in zip(family, found, strict=True):
            one[:] = genes

    def _judge(self, drawn: Sequence[Individual], streak: "_Streak") -> BoolArray:
        """Return which of these genomes are within the limits, having counted them."""
        values = self.limits.values(np.stack([self.space.counts(one) for one in drawn]), bits_of(self.space, drawn))
        exceeded = values > np.array(self.limits.maxima)
        fits = ~exceeded.any(1)
        self.drawn += len(drawn)
        self.rejected += int((~fits).sum())
        streak.add(values, exceeded)
        return np.asarray(fits)

    def decode(self, individual: Individual) -> Blueprint:
        """Return the structure that a genome stands for."""
        return self.space.decode(individual)

    def counts(self, individual: Individual) -> NDArray[np.int64]:
        """Return kept channels per group, shape (G,)."""
        return self.space.counts(individual)

    def bits(self, individual: Individual) -> NDArray[np.int64] | None:
        """Return weight bits per layer, shape (L,); None if the encoding quantises nothing."""
        return self.space.bits(individual)

    def encode(self, blueprint: Blueprint) -> Individual:
        """Return the genome of a structure, whatever it costs."""
        return self.space.encode(blueprint)

    def nearest(self, blueprint: Blueprint) -> Individual:
        """Return the genome of the closest structure of the encoding, whatever it costs."""
        return self.space.nearest(blueprint)

    def repair(self, individual: Individual) -> Individual:
        """Make a genome legal for the encoding; that may exceed the limits, and one that does is not made smaller."""
        return self.space.repair(individual)

    def pack(self, individual: Individual) -> bytes:
        """Return a genome as bytes."""
        return self.space.pack(individual)

    def unpack(self, packed: bytes) -> Individual:
        """Return the genome that `pack` packed."""
        return self.space.unpack(packed)


class _Streak:
    """Draws in a row that all exceed the limits."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._restart()

    def _restart(self) -> None:
        self._length = 0
        self._exceeded = np.zeros(len(self._limits.names), dtype=np.int64)
        self._least = np.full(len(self._limits.names), np.iinfo(np.int64).max)

    def add(self, values: NDArray[np.int64], exceeded: BoolArray) -> None:
        """Take in the limited costs of some draws and which of them are too high, both of shape (N, costs).

        Raises:
            SettingsError: the streak is as long as it may be.
        """
        if not exceeded.any(1).all():
            self._restart()
            return
        self._length += len(values)
        self._exceeded += exceeded.sum(0)
        self._least = np.minimum(self._least, values.min(0))
        if self._length >= TRIES:
            raise SettingsError(f"budget: of {self._length:,} genomes drawn for one candidate, {self._binding()}")

    def _binding(self) -> str:
        """Return which limits were exceeded, by what share of the draws and by how much at least, the worst first."""
        parts = []
        for index in np.argsort(-self._exceeded, kind="stable").tolist():
            share = 100 * self._exceeded[index] / self._length
            if share:
                entry = self._limits.entry(self._limits.names[index])
                parts.append(f"{share:.3g} % exceeded {entry}, the smallest with {self._least[index]:,}")
        return "; ".join(parts)
