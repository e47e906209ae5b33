"""The compiled arithmetic against the terms it was compiled from."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from evo.errors import SettingsError
from evo.network.cost_plan import Affine, CostPlan, IntArray, Maximum, Sums, Terms


def affine(rows: IntArray, divisor: int = 1) -> Affine:
    return Affine(rows, np.full(len(rows), divisor))


def made(terms: Terms, alive: Affine, largest: int = 100) -> CostPlan:
    groups = terms.left.numerators.shape[1] - 1
    return CostPlan(terms, alive, np.full(groups, largest))


def one(rows: int, groups: int) -> Affine:
    """Functions that are 1."""
    return affine(np.eye(groups + 1, dtype=np.int64)[[groups] * rows])


def chain(groups: int) -> Terms:
    """Every layer reads what the one before produces."""
    counts = np.eye(groups, groups + 1, dtype=np.int64)
    coefficients = np.stack([np.arange(1, groups), np.arange(groups, 1, -1) ** 3])
    return Terms(affine(counts[:-1]), affine(counts[1:]), coefficients)


def dense(groups: int) -> Terms:
    """Every layer reads everything before it."""
    inputs = np.tril(np.ones((groups, groups + 1), dtype=np.int64))
    outputs = np.eye(groups, groups + 1, dtype=np.int64)
    return Terms(affine(inputs[:-1]), affine(outputs[1:]), np.stack([np.full(groups - 1, 9), np.arange(1, groups)]))


def residual(stages: int, blocks: int) -> tuple[Terms, Affine]:
    """Blocks that read and produce their stage's channels, with an inner count each; and the bytes alive in each."""
    groups = stages * (blocks + 1)
    unit = np.eye(groups, groups + 1, dtype=np.int64)
    stage, inner, alive = [], [], []
    for index in range(groups):
        if index % (blocks + 1):
            stage.append(unit[index - index % (blocks + 1)])
            inner.append(unit[index])
            # Of the first stage's channels some are fixed; the input is alive beside the inner channels.
            alive += [
                (4 * stage[-1] + 8 * inner[-1]),
                (8 * stage[-1] + 4 * inner[-1] + 16 * (index < blocks) * unit[-1]),
            ]
    terms = Terms(affine(np.array(stage)), affine(np.array(inner)), np.full((1, stages * blocks), 18))
    return terms, affine(np.array(alive))


def applied(plan: CostPlan, counts: NDArray[np.integer[Any]], *, sums: bool = True, peak: bool = True) -> IntArray:
    found = plan(counts, sums=sums, peak=peak)
    assert found is not None
    return found


def population(groups: int, candidates: int = 300) -> IntArray:
    return np.random.default_rng(groups).integers(0, 100, (candidates, groups))


@pytest.mark.parametrize("terms", [chain(14), dense(30), residual(3, 9)[0], chain(2)])
def test_sums_equal_their_terms(terms: Terms) -> None:
    groups = terms.left.numerators.shape[1] - 1
    plan = made(terms, one(1, groups))
    counts = population(groups)
    found = applied(plan, counts)
    assert np.array_equal(found[:-1].T, terms(counts))
    assert (found[-1] == 1).all()


def test_what_is_not_wanted_is_not_computed() -> None:
    terms, alive = residual(3, 9)
    plan, counts = made(terms, alive), population(30)
    sums, peak = applied(plan, counts, peak=False), applied(plan, counts, sums=False)
    assert np.array_equal(sums + peak, applied(plan, counts))
    assert sums[:-1].any()
    assert not sums[-1].any()
    assert not peak[:-1].any()


def test_products_are_as_few_as_the_network_allows() -> None:
    assert len(Sums.of(chain(14)).left) == 13
    assert len(Sums.of(chain(14)).factors) == 0
    # Written out, 30 concatenated counts make 435 products; a layer's input is one sum.
    assert len(Sums.of(dense(30)).left) < 60
    # The inner channels of a stage are summed before they meet the stage's.
    assert len(Sums.of(residual(3, 9)[0]).left) == 3


def test_a_maximum_is_that_of_all_functions() -> None:
    _, alive = residual(3, 9)
    maximum = Maximum.of(alive, np.full(30, 100))
    assert len(maximum.coefficients) < len(alive.numerators) / 4
    counts = population(30)
    known = np.concatenate([counts.T, np.ones((1, len(counts)))])
    assert np.array_equal(maximum(known) / maximum.scale, alive(counts).max(1))


def test_functions_that_another_one_reaches_are_dropped() -> None:
    rows = np.array([[4, 0, 7], [4, 1, 7], [0, 3, 0], [0, 1, 7], [2, 0, 9], [4, 1, 7]])
    assert sorted(Maximum.of(affine(rows), np.array([100, 100])).coefficients.tolist()) == [
        [0, 3, 0],
        [2, 0, 9],
        [4, 1, 7],
    ]
    # (2a + 2b) / 2 reaches a, but (a + b) / 2 does not.
    functions = Affine(np.array([[1, 0, 0], [2, 2, 0]]), np.array([1, 2]))
    assert Maximum.of(functions, np.array([100, 100])).coefficients.tolist() == [[1, 1]]
    functions = Affine(np.array([[1, 0, 0], [1, 1, 0]]), np.array([1, 2]))
    assert len(Maximum.of(functions, np.array([100, 100])).coefficients) == 2


def test_a_function_is_needed_only_within_the_sizes() -> None:
    rows = np.array([[0, 1, 0], [0, 0, 100]])
    assert Maximum.of(affine(rows), np.array([9, 100])).coefficients.tolist() == [[100]]
    assert len(Maximum.of(affine(rows), np.array([9, 101])).coefficients) == 2
    # Of functions that are equal there, one is needed.
    rows = np.array([[0, 1, 0], [5, 1, 0], [7, 1, 0]])
    assert len(Maximum.of(affine(rows), np.array([0, 100])).coefficients) == 1


def test_members_of_a_family_need_not_follow_each_other() -> None:
    rows = np.zeros((7, 14), dtype=np.int64)
    rows[range(7), [0, 2, 3, 5, 7, 8, 11]] = 5
    rows[:, 12] = 3
    alive, counts = affine(rows), population(13)
    maximum = Maximum.of(alive, np.full(13, 100))
    assert len(maximum.coefficients) == 1
    known = np.concatenate([counts.T, np.ones((1, len(counts)))])
    assert np.array_equal(maximum(known), alive(counts).max(1))


@pytest.mark.parametrize("candidates", [2047, 2048, 2049, 5000])
def test_populations_of_any_size(candidates: int) -> None:
    terms, alive = residual(2, 6)
    counts = population(14, candidates)
    for given in (counts, np.asfortranarray(counts), counts[::-1], counts.astype(np.uint8)):
        found = applied(made(terms, alive), given)
        assert np.array_equal(found[:-1].T, terms(given.astype(np.int64)))
        assert np.array_equal(found[-1], alive(given.astype(np.int64)).max(1))


def test_fractions_stay_exact() -> None:
    # A third of the inputs times half of the outputs times 1, for counts that 6 divides.
    numerators = np.array([[1, 0, 6], [0, 5, 0]])
    terms = Terms(
        Affine(numerators, np.array([3, 2])), Affine(numerators[::-1].copy(), np.array([2, 3])), np.eye(2, dtype=int)
    )
    counts = 6 * population(2)
    found = applied(made(terms, Affine(np.array([[1, 1, 0]]), np.array([3])), 600), counts)
    assert np.array_equal(found[:-1].T, terms(counts))
    assert np.array_equal(found[-1], counts.sum(1) // 3)


def test_what_would_be_rounded_is_not_returned() -> None:
    terms = chain(2)
    plan = made(terms, one(1, 2), 2**26)
    assert plan(np.array([[2**26, 2**26 - 1]])) is None  # times 8 is beyond 2^53
    assert plan(np.array([[2**25, 2**24]])) is not None


@pytest.mark.parametrize(("candidate", "group", "count"), [(0, 3, 101), (2999, 13, -1), (17, 0, 10**6)])
def test_counts_that_no_network_has_are_refused(candidate: int, group: int, count: int) -> None:
    counts = population(14, 3000)
    counts[candidate, group] = count
    with pytest.raises(
        SettingsError, match=f"candidate {candidate} keeps {count} channels of group {group}, expected 0 to 100"
    ):
        made(chain(14), one(1, 14))(counts)
