"""Genes that are numbers of something: evenly spaced levels between a least and a most, and how they vary."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Genes = NDArray[np.int64]
AnyGenes = NDArray[np.int64] | NDArray[np.int32]


@dataclass(frozen=True)
class Levels:
    """What each gene may be: `least`, then upwards in `steps` to `most`, where the last step may be a shorter one.

    Attributes:
        least, most, steps: shape (genes,).
    """

    least: Genes
    most: Genes
    steps: Genes

    @cached_property
    def top(self) -> Genes:
        """The highest level of every gene, counted from 0, shape (genes,)."""
        return np.asarray(-(-(self.most - self.least) // self.steps))

    def values(self, levels: Genes) -> Genes:
        """Return the genes at these levels, both of shape (…, genes)."""
        return np.asarray(np.minimum(self.least + levels * self.steps, self.most))

    def of(self, genes: AnyGenes) -> Genes:
        """Return the levels of genes, both of shape (…, genes); what is between two counts as the higher one."""
        return np.asarray(np.clip(-(-(genes - self.least) // self.steps), 0, self.top))

    def repair(self, genes: AnyGenes) -> None:
        """Raise every gene to the next level in place, or lower it to the highest."""
        genes[:] = self.values(self.of(genes))

    def mutate(self, genes: AnyGenes, rng: np.random.Generator, probability: float, farthest: int | Genes) -> None:
        """Move genes in place, each with `probability`, by 1 to `farthest` levels up or down within their range.

        At least one gene changes, if any can: where chance chose none, or only such as are at the end of their range, one
        that it draws anew.
        """
        before, top = self.of(genes), self.top
        chosen = rng.random(top.size) < probability
        far = rng.integers(1, np.add(farthest, 1), top.size)
        moves = np.where(rng.random(top.size) < 0.5, -far, far)
        after = np.clip(before + np.where(chosen, moves, 0), 0, top)
        movable = np.flatnonzero(top)
        if (after == before).all() and movable.size:
            index = rng.choice(movable)
            move = moves[index]
            # At an end of the range there is only one way to go.
            move = move if 0 <= before[index] + np.sign(move) <= top[index] else -move
            after[index] = np.clip(before[index] + move, 0, top[index])
        genes[:] = self.values(after)
