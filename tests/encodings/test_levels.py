"""Genes that take evenly spaced values."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evo.encodings.levels import Genes, Levels

# 2, 5, 8, 10; only 7; 1, 2, 3.
LEVELS = Levels(np.array([2, 7, 1]), np.array([10, 7, 3]), np.array([3, 4, 1]))
VALUES = [[2, 5, 8, 10], [7], [1, 2, 3]]


def test_values_and_levels_are_each_others_inverse() -> None:
    assert LEVELS.top.tolist() == [3, 0, 2]
    for gene, values in enumerate(VALUES):
        for level, value in enumerate(values):
            levels = np.zeros(3, dtype=np.int64)
            levels[gene] = level
            assert LEVELS.values(levels)[gene] == value
            assert LEVELS.of(LEVELS.values(levels)).tolist() == levels.tolist()


@given(st.lists(st.integers(-5, 20), min_size=3, max_size=3))
def test_repair_takes_the_next_value(genes: list[int]) -> None:
    found = np.array(genes)
    LEVELS.repair(found)
    for before, after, values in zip(genes, found.tolist(), VALUES, strict=True):
        assert after == next((value for value in values if value >= before), values[-1])


@pytest.mark.parametrize("farthest", [1, np.array([2, 1, 1])])
def test_genes_move_at_most_as_far_as_each_may(farthest: int | Genes) -> None:
    most = np.zeros(3, dtype=np.int64)
    for seed in range(300):
        genes = np.array([5, 7, 2])
        LEVELS.mutate(genes, np.random.default_rng(seed), 0.5, farthest)
        moved = np.abs(LEVELS.of(genes) - LEVELS.of(np.array([5, 7, 2])))
        assert moved.any()
        most = np.maximum(most, moved)
    assert most.tolist() == [2 if isinstance(farthest, np.ndarray) else 1, 0, 1]
