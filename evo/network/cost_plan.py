"""Costs of a population, fast: sums of products of widths compiled into a few matrix products in float64.

Every cost besides peak memory is Σ coefficient · a · b over terms, where a and b are affine functions of the counts. Written
out, that is a polynomial: products of two counts, the counts themselves, and a constant. All costs of a block of candidates
are then one matrix product. Products with equal coefficients that share a count are one product of it and of a sum, where
that is less work: networks that concatenate have quadratically many products otherwise.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from evo.errors import SettingsError

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

EXACT = 2.0**53
"""Below this, sums and products of integers in float64 are exact, in whichever order they are made."""

_BLOCK = 2048
"""Candidates at a time: what is computed in between stays in the processor's cache."""

_TILE = 256
"""Candidates whose counts are transposed at a time: a cache line of each stays in the first level until it is used up."""

_FAMILY = 5
"""Functions of a maximum from which it pays to take the maximum of their counts first."""

_PRODUCT = 9.0
"""Time of multiplying two counts, in multiply-adds of a matrix product (measured: 0.45 against 0.05 ns)."""


@dataclass(frozen=True)
class Affine:
    """Functions (numerators · (counts, 1)) / divisors of the counts.

    Attributes:
        numerators: shape (R, G + 1); the last column is the constant.
        divisors: shape (R,).
    """

    numerators: IntArray
    divisors: IntArray

    def __call__(self, counts: IntArray) -> IntArray:
        """Return the values, shape (…, R), for counts of shape (…, G)."""
        return np.asarray((counts @ self.numerators[:, :-1].T + self.numerators[:, -1]) // self.divisors)

    def real(self, counts: IntArray) -> FloatArray:
        """Return the values in float64, which has the faster matrix product."""
        left, right = self._real
        return np.asarray(counts.astype(np.float64) @ left + right)

    @cached_property
    def _real(self) -> tuple[FloatArray, FloatArray]:
        real = self.numerators / self.divisors[:, None].astype(np.float64)
        return np.ascontiguousarray(real[:, :-1].T), real[:, -1]

    @cached_property
    def varies(self) -> NDArray[np.bool_]:
        """Which of them depend on the counts: shape (R,)."""
        return np.asarray(self.numerators[:, :-1].any(1))

    @cached_property
    def reduced(self) -> "Affine":
        """The same functions, every fraction in lowest terms."""
        common = np.gcd(np.gcd.reduce(self.numerators, axis=1, initial=0), self.divisors)
        return Affine(self.numerators // common[:, None], self.divisors // common)


@dataclass(frozen=True)
class Terms:
    """K costs as sums over T terms: coefficients (K, T), all at least 0, of left · right."""

    left: Affine
    right: Affine
    coefficients: IntArray

    def __call__(self, counts: IntArray) -> IntArray:
        """Return the costs term by term in int64, shape (…, K), for counts of shape (…, G)."""
        return np.asarray((self.left(counts) * self.right(counts)) @ self.coefficients.T)


@dataclass(frozen=True)
class Sums:
    """Terms made ready for populations; everything is float64 and times `scale`, so that divisors leave no fraction.

    Attributes:
        factors: shape (U, G + 1), sums of several counts that are multiplied as one, over (counts, 1).
        left, right: shape (B,), what each product multiplies: indices into (factors, counts).
        coefficients: shape (K, G + 1 + B), over (counts, 1, products).
        scale: what the results still have to be divided by.
    """

    factors: FloatArray
    left: NDArray[np.intp]
    right: NDArray[np.intp]
    coefficients: FloatArray
    scale: int

    @classmethod
    def of(cls, terms: Terms) -> "Sums":
        """Write the terms as polynomials of (counts, 1), a matrix of coefficients for each cost, and collect those."""
        left, right = terms.left.reduced, terms.right.reduced
        divisors = left.divisors * right.divisors
        scale = math.lcm(*divisors.tolist())
        weights = terms.coefficients.astype(float) * (scale // divisors)
        squares = np.stack([(left.numerators.T * weight) @ right.numerators for weight in weights])
        squares = np.triu(squares) + np.tril(squares, -1).swapaxes(1, 2)
        products, columns = _products(squares[:, :-1, :-1])
        sums = sorted({partners for _, partners in products if len(partners) > 1})
        factors = np.zeros((len(sums), squares.shape[1]))
        for row, partners in zip(factors, sums, strict=True):
            row[list(partners)] = 1
        place = {partners: index for index, partners in enumerate(sums)}
        place |= {(group,): len(sums) + group for group in range(squares.shape[1] - 1)}
        return cls(
            factors,
            np.array([place[(hub,)] for hub, _ in products], dtype=np.intp),
            np.array([place[partners] for _, partners in products], dtype=np.intp),
            np.concatenate([squares[:, :, -1], columns], axis=1),
            scale,
        )

    @property
    def height(self) -> int:
        """Numbers per candidate that `__call__` works on: (factors, counts, 1, products)."""
        return len(self.factors) + int(self.coefficients.shape[1])

    def __call__(self, scratch: FloatArray, known: FloatArray) -> FloatArray:
        """Return the costs times `scale`, shape (K, n).

        Args:
            scratch: shape (height, n), filled here.
            known: its part (counts, 1) of shape (G + 1, n), filled already.
        """
        factors = len(self.factors)
        if factors:
            np.matmul(self.factors, known, out=scratch[:factors])
        products = scratch[factors + len(known) :]
        np.multiply(scratch.take(self.left, axis=0), scratch.take(self.right, axis=0), out=products)
        return np.asarray(self.coefficients @ scratch[factors:])


def _products(squares: FloatArray) -> tuple[list[tuple[int, tuple[int, ...]]], FloatArray]:
    """Return what to multiply, (count, counts whose sum it is multiplied by), and the coefficients (K, B) of each.

    Args:
        squares: coefficients of the products of two counts, shape (K, G, G), upper triangles.
    """
    pairs = np.argwhere(squares.any(0)).tolist()
    shared: dict[tuple[int, bytes], dict[int, int]] = {}
    for index, (i, j) in enumerate(pairs):
        column = squares[:, i, j].tobytes()
        shared.setdefault((i, column), {})[j] = index
        shared.setdefault((j, column), {})[i] = index
    # A sum costs a row of a matrix product, and saves all its products but one.
    costs, groups = squares.shape[:2]
    families, alone = _families(shared, len(pairs), 1 + (groups + 1) / (_PRODUCT + costs))
    products = [(hub, members) for (hub, _), members in families]
    columns = [np.frombuffer(column) for (_, column), _ in families]
    for i, j in (pairs[index] for index in alone):
        products.append((i, (j,)))
        columns.append(squares[:, i, j])
    return products, np.stack(columns, axis=1) if columns else np.zeros((costs, 0))


Key = TypeVar("Key")


def _families(
    found: Mapping[Key, Mapping[int, int]], items: int, least: float
) -> tuple[list[tuple[Key, tuple[int, ...]]], list[int]]:
    """Cover `items` items by families, largest first, each of at least `least` items that are in no other.

    Args:
        found: for every possible family its members, and the item that each member stands for.
        items: how many there are.
        least: smallest size of a family.

    Returns:
        The families with their members, and the items that are in none.
    """
    families, alone = [], set(range(items))
    for key, members in sorted(found.items(), key=lambda entry: -len(entry[1])):
        mine = {member: item for member, item in members.items() if item in alone}
        if len(mine) >= least:
            families.append((key, tuple(sorted(mine))))
            alone -= set(mine.values())
    return families, sorted(alone)


@dataclass(frozen=True)
class Maximum:
    """The largest of several affine functions, times `scale`.

    Functions that differ in one count alone, like those of a stage's residual blocks, are one function of the largest of
    these counts.

    Attributes:
        used: which of (counts, 1) the functions depend on other than through a largest one: U indices.
        sets: V sets of counts, as a range where they follow each other, which is read without a copy.
        coefficients: shape (P, U + V), over those and the largest of each set.
        scale: what the result still has to be divided by.
    """

    used: NDArray[np.intp]
    sets: tuple[NDArray[np.intp] | slice, ...]
    coefficients: FloatArray
    scale: int

    @classmethod
    def of(cls, functions: Affine, sizes: IntArray) -> "Maximum":
        """Drop every function that another one reaches for all counts from 0 to `sizes`, and compile the rest."""
        reduced = functions.reduced
        scale = math.lcm(*reduced.divisors.tolist())
        rows = np.unique(reduced.numerators * (scale // reduced.divisors)[:, None], axis=0)
        rows = _highest(rows, sizes)
        similar: dict[tuple[bytes, int], dict[int, int]] = {}
        for index, row in enumerate(rows):
            for group in np.flatnonzero(row[:-1]).tolist():
                base = row.copy()
                base[group] = 0
                similar.setdefault((base.tobytes(), int(row[group])), {})[group] = index
        families, alone = _families(similar, len(rows), _FAMILY)
        sets = sorted({members for _, members in families})
        known = np.stack([*(np.frombuffer(base, rows.dtype) for (base, _), _ in families), *rows[alone]])
        used = np.flatnonzero(known.any(0))
        largest = np.zeros((len(known), len(sets)))
        for row, ((_, entries), members) in zip(largest, families, strict=False):
            row[sets.index(members)] = entries
        return cls(used, tuple(map(_range_or_array, sets)), np.concatenate([known[:, used], largest], axis=1), scale)

    def __call__(self, known: FloatArray) -> FloatArray:
        """Return the maximum times `scale`, shape (n,), for (counts, 1) of shape (G + 1, n)."""
        operands = np.empty((self.coefficients.shape[1], known.shape[1]))
        known.take(self.used, axis=0, out=operands[: len(self.used)], mode="clip")  # "raise" would go through a buffer
        for row, members in zip(operands[len(self.used) :], self.sets, strict=True):
            np.maximum.reduce(known[members], axis=0, out=row)
        return np.asarray((self.coefficients @ operands).max(0))


def _highest(rows: IntArray, sizes: IntArray) -> IntArray:
    """Return the rows over (counts, 1) that no other row reaches for all counts from 0 to `sizes`."""
    needed = np.ones(len(rows), dtype=bool)
    for index, row in enumerate(rows):
        ahead = row - rows
        most = np.maximum(ahead[:, :-1], 0) @ sizes + ahead[:, -1]
        needed[index] = False
        needed[index] = not (most[needed] <= 0).any()
    return rows[needed]


def _range_or_array(indices: tuple[int, ...]) -> slice | NDArray[np.intp]:
    first, behind = indices[0], indices[-1] + 1
    return slice(first, behind) if behind - first == len(indices) else np.array(indices, dtype=np.intp)


def check_range(counts: NDArray[Any], sizes: IntArray, first: int = 0) -> None:
    """Refuse counts, shape (G, N), that are negative or larger than their group; `first` is the first candidate's number.

    Raises:
        SettingsError: there is one.
    """
    if counts.size and (counts.min() < 0 or (counts.max(axis=1) > sizes).any()):
        group, candidate = np.argwhere((counts < 0) | (counts > sizes[:, None]))[0]
        raise SettingsError(
            f"counts: candidate {first + candidate} keeps {counts[group, candidate]:.0f} channels of group {group}, "
            f"expected 0 to {sizes[group]}"
        )


class CostPlan:
    """Sums and a maximum, compiled once, applied to populations."""

    def __init__(self, terms: Terms, activations: Affine, sizes: IntArray) -> None:
        self.sums = Sums.of(terms)
        self.peak = Maximum.of(activations, sizes)
        self.sizes = sizes
        scales = [self.sums.scale] * len(terms.coefficients) + [self.peak.scale]
        self._scales = np.array(scales, dtype=float)[:, None]

    def __call__(self, counts: NDArray[np.integer[Any]], *, sums: bool = True, peak: bool = True) -> IntArray | None:
        """Return the K sums and the maximum, shape (K + 1, N), or None if one is too large to be exact in float64.

        Args:
            counts: shape (N, G), of any integer type.
            sums, peak: whether they are wanted; what is not is 0.

        Raises:
            SettingsError: a count is not between 0 and the group's size.
        """
        total, groups = counts.shape
        values = np.zeros((len(self._scales), total))
        scratch = np.empty((self.sums.height, min(total, _BLOCK)))
        first = len(self.sums.factors)
        scratch[first + groups] = 1
        for start in range(0, total, _BLOCK):
            block = slice(start, start + _BLOCK)
            part = scratch[:, : total - start]
            known = part[first : first + groups + 1]
            for tile in range(start, min(start + _BLOCK, total), _TILE):
                known[:-1, tile - start : tile - start + _TILE] = counts[tile : tile + _TILE].T
            check_range(known[:-1], self.sizes, start)
            if sums:
                values[:-1, block] = self.sums(part, known)
            if peak:
                values[-1, block] = self.peak(known)
        # No term is negative: a result below the limit had no larger number on its way.
        if values.max(initial=0) >= EXACT:
            return None
        if (self._scales != 1).any():
            values /= self._scales
        return values.astype(np.int64)
