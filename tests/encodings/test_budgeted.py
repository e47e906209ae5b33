"""Encodings within a budget: what exceeds it is drawn again."""

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

import evo
from evo.encodings.base import Encoding, GenomeSpace
from evo.encodings.budgeted import TRIES, Budgeted, bind_within
from evo.encodings.filter_bits import FilterBits, FilterBitsSpace
from evo.encodings.individual import Individual
from evo.errors import SettingsError
from evo.testing import EncodingContract, small_task

TASK = small_task()
NETWORK = TASK.network
BUDGET = evo.Budget(params=0.4, macs=0.5)
LIMITS = BUDGET.bind(NETWORK.costs, NETWORK.fewest)


class TestBudgetedFilterBits(EncodingContract):
    @pytest.fixture
    def encoding(self) -> Encoding:
        return FilterBits()

    @pytest.fixture
    def space(self, encoding: Encoding, task: evo.Task) -> GenomeSpace:
        return bind_within(encoding, task, (1.0, -1.0), BUDGET)


def plain() -> FilterBitsSpace:
    return FilterBits().bind(TASK, (1.0,))


def within(individuals: Sequence[Individual]) -> bool:
    """Slow and obvious: build every one."""
    costs = [NETWORK.cost_of(plain().decode(one)) for one in individuals]
    most = dict(zip(LIMITS.names, LIMITS.maxima, strict=True))
    return all(cost[name] <= most[name] for cost in costs for name in most)


def test_without_a_budget_there_is_no_wrapper() -> None:
    assert isinstance(bind_within(FilterBits(), TASK, (1.0,), None), FilterBitsSpace)


def test_first_genomes_are_those_of_the_encoding_that_fit_in_their_order() -> None:
    space = Budgeted(plain(), LIMITS)
    found = space.initial(30, np.random.default_rng(0))
    rng, drawn = np.random.default_rng(0), 0
    expected: list[Individual] = []
    while len(expected) < 30:
        batch = plain().initial(30 - len(expected), rng)
        drawn += len(batch)
        expected += [one for one in batch if within([one])]
    assert found == expected
    assert space.tally() == {"drawn": drawn, "rejected": drawn - 30}
    assert drawn > 30
    assert space.tally() == {"drawn": 0, "rejected": 0}


@pytest.mark.parametrize("seed", range(20))
def test_children_are_what_the_operators_make_of_the_same_parents_until_each_fits(seed: int) -> None:
    space = Budgeted(plain(), LIMITS)
    first, second = space.initial(2, np.random.default_rng(seed))
    parents = [list(first), list(second)]
    space.tally()
    rng, twin = np.random.default_rng(seed), np.random.default_rng(seed)
    space.mate(first, second, rng)
    children: list[Individual | None] = [None, None]
    drawn = 0
    while None in children:
        family = [Individual("b", genes, (1.0,)) for genes in parents]
        plain().mate(family[0], family[1], twin)
        drawn += children.count(None)
        children = [child or (made if within([made]) else None) for child, made in zip(children, family, strict=True)]
    assert [first, second] == children
    assert space.tally() == {"drawn": drawn, "rejected": drawn - 2}
    genes = list(first)
    space.mutate(first, rng)
    while True:
        again = Individual("b", genes, (1.0,))
        plain().mutate(again, twin)
        if within([again]):
            break
    assert first == again
    assert rng.bit_generator.state == twin.bit_generator.state


def test_parents_at_the_limit_can_be_crossed() -> None:
    """What one child gains the other loses: both at once hardly ever fit, yet neither is given up."""
    full, least = NETWORK.costs.sizes, NETWORK.fewest
    left, right = least.copy(), least.copy()
    left[0], right[2] = full[0], full[2]
    cost = [int(NETWORK.costs.costs(counts, ["params"])["params"]) for counts in (left, right)]
    limits = evo.Budget(params=max(cost)).bind(NETWORK.costs)
    space = Budgeted(plain(), limits)

    def bits(counts: NDArray[np.int64]) -> Individual:
        masks = {group.name: np.arange(group.size) < kept for group, kept in zip(NETWORK.groups, counts, strict=True)}
        return space.encode(evo.Blueprint.from_masks(masks))

    rng = np.random.default_rng(0)
    changed = 0
    for _ in range(50):
        first, second = bits(left), bits(right)
        before = list(first), list(second)
        space.mate(first, second, rng)
        assert limits.fits(np.stack([space.counts(first), space.counts(second)])).all()
        changed += (list(first), list(second)) not in (before, before[::-1])
    assert changed > 25


def test_a_genome_beyond_the_limits_comes_back_within() -> None:
    space = Budgeted(plain(), LIMITS)
    whole = space.encode(NETWORK.full)
    assert not within([whole])
    assert within(space.mutate(whole, np.random.default_rng(0)))


class Unmoved(FilterBitsSpace):
    """Its mutation does nothing, its initial genomes keep everything."""

    def initial(self, count: int, rng: np.random.Generator) -> list[Individual]:
        return [self.encode(NETWORK.full) for _ in range(count)]

    def mutate(self, individual: Individual, rng: np.random.Generator) -> tuple[Individual]:
        return (individual,)


def test_what_never_fits_is_given_up_in_one_sentence() -> None:
    space = Budgeted(Unmoved(FilterBits(), NETWORK, (1.0,)), evo.Budget(params=0.4, macs=1.0).bind(NETWORK.costs))
    refused = (
        "budget: of 10,000 genomes drawn for one candidate, 100 % exceeded params ≤ 382 (40 % of 955), "
        "the smallest with 955"
    )
    with pytest.raises(SettingsError) as caught:
        space.initial(100, np.random.default_rng(0))
    assert str(caught.value) == refused
    assert space.tally() == {"drawn": TRIES, "rejected": TRIES}
    with pytest.raises(SettingsError) as caught:
        space.mutate(space.encode(NETWORK.full), np.random.default_rng(0))
    assert str(caught.value) == refused


def test_the_worst_limit_is_named_first() -> None:
    class Two(FilterBitsSpace):
        def initial(self, count: int, rng: np.random.Generator) -> list[Individual]:
            drawn = [self.encode(NETWORK.full) for _ in range(count)]
            for one in drawn[::4]:  # three quarters exceed both limits, the others only that on macs
                one[6:] = self.repair(Individual("b", [0] * self.size, (1.0,)))[6:]
            return drawn

    least = NETWORK.costs.sizes.copy()
    least[1:] = 1
    costs = {name: int(value) for name, value in NETWORK.costs.costs(least, ["params", "macs"]).items()}
    limits = evo.Budget(params=costs["params"], macs=costs["macs"] - 1).bind(NETWORK.costs)
    with pytest.raises(SettingsError) as caught:
        Budgeted(Two(FilterBits(), NETWORK, (1.0,)), limits).initial(1000, np.random.default_rng(0))
    assert str(caught.value) == (
        f"budget: of 10,000 genomes drawn for one candidate, 100 % exceeded {limits.entry('macs')}, the smallest with "
        f"{costs['macs']:,}; 75 % exceeded {limits.entry('params')}, the smallest with {costs['params']:,}"
    )


def test_now_and_then_is_enough() -> None:
    """The bound is on draws in a row."""

    class Rarely(Unmoved):
        calls = 0

        def initial(self, count: int, rng: np.random.Generator) -> list[Individual]:
            self.calls += 1
            drawn = super().initial(count, rng)
            if self.calls % 3 == 0:
                drawn[0] = self.repair(Individual("b", [0] * self.size, (1.0,)))
            return drawn

    space = Budgeted(Rarely(FilterBits(), NETWORK, (1.0,)), LIMITS)
    found = space.initial(120, np.random.default_rng(0))
    assert len(found) == 120
    assert within(found)
    assert space.tally()["rejected"] > TRIES
