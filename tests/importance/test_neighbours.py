from decimal import Decimal
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from evo.importance.filters import FloatArray
from evo.importance.neighbours import reciprocal_order


def literal(vectors: FloatArray, count: int) -> list[int]:
    """FNP's selection as it is told: grow k until enough filters are among the k nearest of every filter."""
    number = len(vectors)
    distances = [[float(((a - b) ** 2).sum()) for b in vectors] for a in vectors]
    # As floats, similarities of wide filters would all be zero; decimals have exponents enough.
    similar = [[Decimal(-distance).exp() for distance in row] for row in distances]
    norms = [sum((value * value for value in row), Decimal(0)).sqrt() for row in similar]
    scaled = [[value / norm for value in row] for row, norm in zip(similar, norms, strict=True)]
    nearest = [
        sorted(range(number), key=lambda other: (other != mine, -row[other], other)) for mine, row in enumerate(scaled)
    ]
    common: set[int] = set()
    for k in range(count, number + 1):
        previous = common
        common = set.intersection(*(set(row[:k]) for row in nearest))
        if len(common) >= count:
            break
    if len(common) == count:
        return sorted(common)

    unit = max(1.0, *(float((vector**2).sum()) for vector in vectors - vectors.mean(0)))

    def mean(mine: int) -> float:
        logarithm = sum((scaled[other][mine] for other in range(number) if other != mine), Decimal(0)).ln()
        return round(float(logarithm) / unit, 9)

    new = sorted(common - previous, key=lambda mine: (-mean(mine), mine))
    return sorted([*previous, *new[: count - len(previous)]])


def drawn(seed: int, number: int, length: int, scale: float) -> FloatArray:
    return np.random.default_rng(seed).normal(0, scale, (number, length))


@example(24615, 9, 3, 30.0)  # two filters that are each other's only neighbours: equal but for 17 digits
@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 14), st.integers(1, 6), st.sampled_from([0.01, 0.3, 1.0, 3.0, 30.0]))
def test_prefixes_are_what_growing_k_finds(seed: int, number: int, length: int, scale: float) -> None:
    vectors = drawn(seed, number, length, scale)
    order = reciprocal_order(vectors)
    assert sorted(order) == list(range(number))
    for count in range(1, number + 1):
        assert sorted(order[:count]) == literal(vectors, count)


def test_more_rows_than_a_block() -> None:
    vectors = drawn(0, 700, 3, 1.0)
    order = reciprocal_order(vectors)
    distances = ((vectors[:, None] - vectors) ** 2).sum(2)
    ranks = distances.argsort(1, kind="stable").argsort(1, kind="stable")
    worst = ranks.max(0)
    assert (np.diff(worst[order]) >= 0).all()
    similar = np.exp(-distances)
    scaled = similar / np.sqrt((similar**2).sum(1, keepdims=True))
    np.fill_diagonal(scaled, 0)
    mean = scaled.mean(0)
    for first, second in pairwise(order):
        assert worst[first] < worst[second] or mean[first] >= mean[second] * (1 - 1e-9)


def test_a_central_filter_comes_before_outliers() -> None:
    vectors = np.array([[0.0, 10.0], [0.0, 0.1], [10.0, 0.0], [0.0, -10.0], [-10.0, 0.0]])
    assert reciprocal_order(vectors)[0] == 1


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e3])
def test_equal_filters_come_in_order(scale: float) -> None:
    """Rounding in products of matrices must not tell twins apart."""
    one = drawn(0, 6, 400, scale)
    vectors = np.concatenate([one, one])
    order = reciprocal_order(vectors).tolist()
    assert all(order.index(first) < order.index(first + 6) for first in range(6))
    # Each filter is nearest to itself, although its twin comes before it.
    assert sorted(reciprocal_order(np.ones((4, 3)))) == [0, 1, 2, 3]
    assert reciprocal_order(np.zeros((5, 3))).tolist() == [0, 1, 2, 3, 4]


def test_wide_filters_whose_similarities_underflow_are_told_apart() -> None:
    """At squared distances of thousands exp(−d) is zero; the order must not become that of the index."""
    near = drawn(1, 12, 5, 1.0)
    far = near * 60
    assert (np.exp(-((far[:, None] - far) ** 2).sum(2)) > 0).sum() < 40
    order = reciprocal_order(far)
    assert order.tolist() != sorted(order)
    for count in range(1, 13):
        assert sorted(order[:count]) == literal(far, count)


def test_what_filters_have_in_common_makes_no_difference() -> None:
    vectors = drawn(2, 20, 8, 1.0)
    assert reciprocal_order(vectors + 1e5).tolist() == reciprocal_order(vectors).tolist()
