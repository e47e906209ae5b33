"""What every encoding has to do."""

import copy
import pickle

import numpy as np
import pytest

from evo.blueprint import Blueprint
from evo.budget import Budget
from evo.encodings.base import Encoding, GenomeSpace
from evo.encodings.budgeted import bind_within
from evo.encodings.individual import Individual
from evo.network import Network
from evo.task import Task
from evo.testing.tasks import small_task

SEEDS = range(10)


class EncodingContract:
    """Conformance tests of an encoding and the space it binds.

    A subclass provides the fixture `encoding`. It may also override `task`, by default `small_task`.
    """

    @pytest.fixture
    def encoding(self) -> Encoding:
        """Return the encoding to test: to be overridden."""
        raise NotImplementedError("EncodingContract: override the fixture `encoding` with one that returns yours")

    @pytest.fixture
    def task(self) -> Task:
        """Return the task whose network's genomes are made."""
        return small_task()

    @pytest.fixture
    def network(self, task: Task) -> Network:
        """Return that network."""
        return task.network

    @pytest.fixture
    def space(self, encoding: Encoding, task: Task) -> GenomeSpace:
        """Return the bound encoding, for one maximised and one minimised objective."""
        return encoding.bind(task, (1.0, -1.0))

    def assert_legal(self, space: GenomeSpace, network: Network, individual: Individual) -> None:
        """Check that a genome has the right size, needs no repair, and stands for a network that can be built."""
        assert isinstance(individual, Individual)
        assert len(individual) == space.size
        genes = list(individual)
        assert space.repair(individual) is individual, "repair works in place and returns its argument"
        assert list(individual) == genes, "repair changed a legal genome"
        network.build(space.decode(individual))

    def whole(self, space: GenomeSpace, network: Network) -> Blueprint:
        """Return the structure that keeps everything, in bits that the encoding can express."""
        return network.full.with_bits(space.decode(space.initial(1, np.random.default_rng(0))[0]).bits)

    def test_seeds_are_legal_and_new_every_time(self, space: GenomeSpace, network: Network) -> None:
        """What a search begins with may be changed without any effect on another search."""
        for individual, again in zip(space.seeds, space.seeds, strict=True):
            self.assert_legal(space, network, individual)
            assert not individual.fitness.valid
            assert individual is not again
            assert list(individual) == list(again)

    def test_initial_individuals_are_legal_and_unevaluated(self, space: GenomeSpace, network: Network) -> None:
        """`initial` returns as many as asked, each ready to be evaluated."""
        population = space.initial(12, np.random.default_rng(0))
        assert len(population) == 12
        for individual in population:
            self.assert_legal(space, network, individual)
            assert not individual.fitness.valid
            assert individual.fitness.weights == (1.0, -1.0)
        assert len({space.pack(individual) for individual in population}) > 1
        assert space.initial(0, np.random.default_rng(0)) == []

    def test_decode_inverts_encode(self, space: GenomeSpace, network: Network) -> None:
        """A structure survives the way through a genome."""
        structures = [space.decode(individual) for individual in space.initial(10, np.random.default_rng(0))]
        for blueprint in [*structures, self.whole(space, network)]:
            individual = space.encode(blueprint)
            self.assert_legal(space, network, individual)
            assert space.decode(individual) == blueprint

    def test_counts_are_those_of_the_structure(self, space: GenomeSpace, network: Network) -> None:
        """`counts` agrees with `decode`, in the order of the network's groups."""
        population = space.initial(10, np.random.default_rng(0))
        for individual in [*population, space.encode(self.whole(space, network))]:
            counts = space.counts(individual)
            assert counts.dtype == np.int64
            assert counts.tolist() == network.counts(space.decode(individual)).tolist()

    def test_bits_are_those_of_the_structure(self, space: GenomeSpace, network: Network) -> None:
        """`bits` agrees with `decode`, in the order of the layers that cost something; an encoding without any says None."""
        for individual in [*space.initial(10, np.random.default_rng(0)), *space.seeds]:
            bits, blueprint = space.bits(individual), space.decode(individual)
            if bits is None:
                assert not blueprint.bits
            else:
                assert bits.dtype == np.int64
                assert bits.tolist() == network.costs.bits_of(blueprint.bits).tolist()

    def test_nearest_takes_any_structure_of_the_network(self, space: GenomeSpace, network: Network) -> None:
        """What the encoding can express stays as it is; anything else becomes legal, and no smaller with more channels."""
        for individual in space.initial(5, np.random.default_rng(0)):
            assert space.pack(space.nearest(space.decode(individual))) == space.pack(individual)
        rng = np.random.default_rng(1)
        least = network.repaired({group.name: rng.random(group.size) < 0.2 for group in network.groups})
        more = network.repaired({name: mask | (rng.random(mask.size) < 0.5) for name, mask in least.masks.items()})
        layer = network.quantisable[0]
        for blueprint in (network.full, more, least, more.with_bits({layer: 1}), more.with_bits({layer: 31})):
            self.assert_legal(space, network, space.nearest(blueprint))
        assert (space.counts(space.nearest(least)) <= space.counts(space.nearest(more))).all()

    @pytest.mark.parametrize("cost", ["params", "bytes"])
    def test_everything_drawn_obeys_a_budget(
        self, encoding: Encoding, space: GenomeSpace, task: Task, network: Network, cost: str
    ) -> None:
        """First genomes and children are within a budget that half of the usual first ones exceed."""
        usual = [space.decode(one) for one in space.initial(21, np.random.default_rng(0))]
        costs = sorted(network.cost_of(blueprint)[cost] for blueprint in usual)
        budget = Budget(**{cost: costs[10]})
        within = bind_within(encoding, task, (1.0, -1.0), budget)
        rng = np.random.default_rng(1)
        population = within.initial(10, rng)
        for first, second in zip(population[::2], population[1::2], strict=True):
            within.mate(first, second, rng)
            within.mutate(first, rng)
        for individual in [*within.seeds, *population, *within.initial(10, rng)]:
            self.assert_legal(within, network, individual)
            assert network.cost_of(within.decode(individual))[cost] <= costs[10]

    @pytest.mark.parametrize("seed", SEEDS)
    def test_mate_works_in_place_and_stays_legal(self, space: GenomeSpace, network: Network, seed: int) -> None:
        """`mate` returns its two arguments as a tuple (DEAP's convention)."""
        rng = np.random.default_rng(seed)
        first, second = space.initial(2, rng)
        children = space.mate(first, second, rng)
        assert isinstance(children, tuple)
        assert len(children) == 2
        assert children[0] is first
        assert children[1] is second
        for child in children:
            self.assert_legal(space, network, child)

    @pytest.mark.parametrize("seed", SEEDS)
    def test_mutate_works_in_place_and_stays_legal(self, space: GenomeSpace, network: Network, seed: int) -> None:
        """`mutate` returns its argument as a tuple of one (DEAP's convention)."""
        rng = np.random.default_rng(seed)
        individual = space.initial(1, rng)[0]
        mutated = space.mutate(individual, rng)
        assert isinstance(mutated, tuple)
        assert len(mutated) == 1
        assert mutated[0] is individual
        self.assert_legal(space, network, individual)

    def test_operators_change_structures(self, space: GenomeSpace) -> None:
        """Neither operator is the identity."""
        mated, mutated = 0, 0
        for seed in SEEDS:
            rng = np.random.default_rng(seed)
            first, second = space.initial(2, rng)
            before = space.decode(first).key
            mated += space.decode(space.mate(copy.deepcopy(first), copy.deepcopy(second), rng)[0]).key != before
            mutated += space.decode(space.mutate(first, rng)[0]).key != before
        assert mated > 0
        assert mutated > 0

    def test_same_seed_gives_the_same_children(self, space: GenomeSpace) -> None:
        """All randomness comes from the generator that is passed in."""

        def make(seed: int) -> list[bytes]:
            rng = np.random.default_rng(seed)
            first, second, third = space.initial(3, rng)
            family = [*space.mate(first, second, rng), *space.mutate(third, rng)]
            return [space.pack(individual) for individual in family]

        for seed in SEEDS:
            assert make(seed) == make(seed)

    def test_repair_is_idempotent(self, space: GenomeSpace, network: Network) -> None:
        """Even a genome of zeros is made legal, once and for all."""
        individual = space.initial(1, np.random.default_rng(0))[0]
        for index in range(len(individual)):
            individual[index] = 0
        self.assert_legal(space, network, space.repair(individual))

    def test_pack_and_unpack(self, space: GenomeSpace) -> None:
        """A packed genome comes back gene by gene, as an individual of its own."""
        for individual in space.initial(5, np.random.default_rng(0)):
            packed = space.pack(individual)
            assert isinstance(packed, bytes)
            unpacked = space.unpack(packed)
            assert list(unpacked) == list(individual)
            assert unpacked.fitness.weights == individual.fitness.weights
            assert not unpacked.fitness.valid

    @pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
    def test_copies_keep_fitness_and_row(self, space: GenomeSpace, duplicate: object) -> None:
        """Deep copies and pickles keep what belongs to an individual, and share nothing with it."""
        assert callable(duplicate)
        individual = space.initial(1, np.random.default_rng(0))[0]
        individual.fitness.values = (0.5, 7.0)
        individual.row, individual.parents, individual.operator = 3, (1, 2), "crossover"
        copied = duplicate(individual)
        assert type(copied) is type(individual)
        assert list(copied) == list(individual)
        assert copied.fitness.values == (0.5, 7.0)
        assert (copied.row, copied.parents, copied.operator) == (3, (1, 2), "crossover")
        genes = list(individual)
        del copied.fitness.values
        copied[0] = 0 if copied[0] else 1
        assert individual.fitness.values == (0.5, 7.0)
        assert list(individual) == genes

    def test_pickles(self, space: GenomeSpace) -> None:
        """A space that went through pickle decodes alike."""
        individual = space.initial(1, np.random.default_rng(0))[0]
        assert pickle.loads(pickle.dumps(space)).decode(individual) == space.decode(individual)
