from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import evo
from evo.encodings.base import Encoding
from evo.encodings.filter_bits import FilterBits, FilterBitsSpace
from evo.encodings.individual import Individual
from evo.importance import magnitude
from evo.testing import EncodingContract, small_task

TASK = small_task()
NETWORK = TASK.network
SPACE = FilterBits().bind(TASK, (1.0,))


class TestSparse(EncodingContract):
    @pytest.fixture
    def encoding(self) -> Encoding:
        return FilterBits()


class TestRandom(EncodingContract):
    @pytest.fixture
    def encoding(self) -> Encoding:
        return FilterBits(initial="random", min_filters=3, max_fragment=0.3)


def bits_of(individual: Individual) -> list[int]:
    return list(individual)


def individual(space: FilterBitsSpace, bits: list[int]) -> Individual:
    return space.individual(np.array(bits, dtype=np.uint8))


def changed_range(before: list[int], after: list[int]) -> tuple[int, int] | None:
    """First and last place where two genomes differ."""
    places = [index for index, (a, b) in enumerate(zip(before, after, strict=True)) if a != b]
    return (places[0], places[-1]) if places else None


genomes = st.lists(st.integers(0, 1), min_size=SPACE.size, max_size=SPACE.size)


def test_one_bit_per_filter_in_module_order() -> None:
    assert SPACE.size == NETWORK.channels == 6 + 8 + 12
    bits = [1] * SPACE.size
    bits[2] = bits[6] = bits[25] = 0
    masks = SPACE.decode(individual(SPACE, bits)).masks
    assert [group.name for group in NETWORK.groups] == ["0", "4", "9"]
    assert [np.flatnonzero(~masks[name]).tolist() for name in ("0", "4", "9")] == [[2], [0], [11]]


@given(genomes, genomes, st.integers(0, 2**32 - 1))
def test_children_are_parents_with_one_fragment_swapped(first: list[int], second: list[int], seed: int) -> None:
    mother, father = (SPACE.repair(individual(SPACE, bits)) for bits in (first, second))
    before = bits_of(mother), bits_of(father)
    son, daughter = SPACE.mate(mother, father, np.random.default_rng(seed))
    # Some [start, stop) explains both children, apart from bits that repair restored in emptied layers.
    explained = False
    for start in range(SPACE.size):
        for stop in range(start + 1, SPACE.size + 1):
            children = []
            for own, other in (before, before[::-1]):
                swapped = individual(SPACE, own[:start] + other[start:stop] + own[stop:])
                children.append(bits_of(SPACE.repair(swapped)))
            explained |= children == [bits_of(son), bits_of(daughter)]
        if explained:
            break
    assert explained


def test_crossover_swaps_fragments_of_all_lengths_anywhere() -> None:
    rng = np.random.default_rng(0)
    sparse = SPACE.repair(individual(SPACE, [0] * SPACE.size))
    spans = set()
    for _ in range(500):
        child, _other = SPACE.mate(individual(SPACE, [1] * SPACE.size), SPACE.unpack(SPACE.pack(sparse)), rng)
        spans.add(changed_range([1] * SPACE.size, bits_of(child)))
    assert len(spans) > 100
    found = [span for span in spans if span is not None]
    assert min(found)[0] == 0
    assert max(stop for _, stop in found) == SPACE.size - 1


@given(genomes, st.integers(0, 2**32 - 1))
def test_mutation_inverts_one_fragment(bits: list[int], seed: int) -> None:
    parent = SPACE.repair(individual(SPACE, bits))
    before = bits_of(parent)
    (child,) = SPACE.mutate(parent, np.random.default_rng(seed))
    assert any(
        bits_of(child)
        == bits_of(
            SPACE.repair(individual(SPACE, before[:start] + [1 - bit for bit in before[start:stop]] + before[stop:]))
        )
        for start in range(SPACE.size)
        for stop in range(start + 1, SPACE.size + 1)
    )


def test_fragments_are_as_long_as_the_settings_allow() -> None:
    space = FilterBits(max_fragment=0.2).bind(TASK, (1.0,))
    rng = np.random.default_rng(0)
    lengths, ends = set(), set()
    for _ in range(500):
        child = individual(space, [1] * space.size)
        before = bits_of(child)
        span = changed_range(before, bits_of(space.mutate(child, rng)[0]))
        assert span is not None
        lengths.add(span[1] - span[0] + 1)
        ends |= set(span)
    assert lengths == set(range(1, round(0.2 * space.size) + 1))
    assert {0, space.size - 1} <= ends


def test_paper_fragments_reach_from_end_to_end() -> None:
    rng = np.random.default_rng(0)
    fragments = [SPACE._fragment(SPACE.size, rng) for _ in range(3000)]
    assert {part.start for part in fragments} == set(range(SPACE.size))
    assert {part.stop for part in fragments} == set(range(1, SPACE.size + 1))
    assert all(part.start < part.stop for part in fragments)


@given(genomes)
def test_repair_restores_the_most_important_filters_and_nothing_else(bits: list[int]) -> None:
    space = FilterBits(min_filters=3).bind(TASK, (1.0,))
    importance = magnitude(NETWORK)
    repaired = bits_of(space.repair(individual(space, bits)))
    sizes = [group.size for group in NETWORK.groups]
    bounds = [0, *np.cumsum(sizes).tolist()]
    for group, (start, stop) in zip(NETWORK.groups, pairwise(bounds), strict=True):
        expected = bits[start:stop]
        # Slow and obvious: switch on the most important of the removed until there are enough.
        while sum(expected) < 3:
            removed = [index for index, bit in enumerate(expected) if not bit]
            expected[max(removed, key=lambda index: importance[group.name][index])] = 1
        assert repaired[start:stop] == expected


def test_min_filters_larger_than_a_layer_keeps_the_layer() -> None:
    space = FilterBits(min_filters=7).bind(TASK, (1.0,))
    assert space.decode(space.repair(individual(space, [0] * space.size))).counts == {"0": 6, "4": 7, "9": 7}


def test_random_bits_are_fair() -> None:
    space = FilterBits(initial="random").bind(TASK, (1.0,))
    population = space.initial(2000, np.random.default_rng(0))
    mean = np.array([bits_of(one) for one in population]).mean(0)
    assert np.abs(mean - 0.5).max() < 4.5 * 0.5 / 2000**0.5


def test_sparse_spans_its_keep_ratios_and_prefers_important_filters() -> None:
    space = FilterBits(keep=(0.2, 0.8)).bind(TASK, (1.0,))
    population = space.initial(2000, np.random.default_rng(0))
    counts = np.array([list(space.decode(one).counts.values()) for one in population])
    sizes = np.array([group.size for group in NETWORK.groups])
    assert (counts.min(0) == np.round(0.2 * sizes)).all()
    assert (counts.max(0) == np.round(0.8 * sizes)).all()
    kept = np.array([bits_of(one) for one in population]).mean(0)
    importance = magnitude(NETWORK)["9"]
    assert kept[14:][importance.argmax()] > kept[14:][importance.argmin()] + 0.1


@settings(max_examples=30)
@given(genomes)
def test_packing_takes_one_bit_per_filter(bits: list[int]) -> None:
    packed = SPACE.pack(individual(SPACE, bits))
    assert len(packed) == -(-SPACE.size // 8)
    assert bits_of(SPACE.unpack(packed)) == bits


@pytest.mark.parametrize("keep", [(0.0, 0.5), (0.6, 0.5), (0.5, 1.1)])
def test_a_wrong_keep_range_is_refused(keep: tuple[float, float]) -> None:
    with pytest.raises(evo.EvoError, match=r"FilterBits: got .*keep is a range"):
        FilterBits(keep=keep)
