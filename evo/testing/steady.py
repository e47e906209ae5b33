"""What every algorithm that can work asynchronously has to do."""

import copy
import json
from collections.abc import Callable

import numpy as np
import pytest

from evo.algorithms.base import Algorithm
from evo.algorithms.steady import SteadyState
from evo.encodings.base import GenomeSpace
from evo.encodings.individual import Individual
from evo.fitness.base import Objective
from evo.testing.algorithm import AlgorithmContract, Proposal

Fails = Callable[[int], bool]
"""Whether the evaluation of a row fails."""


class Workers:
    """Evaluations that overtake each other, as they do on a cluster: a search in miniature.

    Attributes:
        algorithm: what proposes.
        proposals: what was proposed so far, family by family.
        told: rows in the order told.
    """

    def __init__(self, contract: AlgorithmContract, algorithm: SteadyState, slots: int, seed: int) -> None:
        self.algorithm = algorithm
        self.proposals: list[Proposal] = []
        self.told: list[int] = []
        self._contract = contract
        self._slots = slots
        self._rng = np.random.default_rng(seed)
        self._rows = 0

    def work(self, results: int, fails: Fails = lambda row: False) -> None:
        """Keep the slots busy until so many results more are told, or the search is over."""
        algorithm = self.algorithm
        until = len(self.told) + results
        while len(self.told) < until:
            while len(algorithm.outstanding) < self._slots and (family := algorithm.ask()) is not None:
                for individual in family:
                    individual.row = self._rows
                    self._rows += 1
                self.proposals.append([(one.tobytes(), one.operator, one.parents) for one in family])
            outstanding = algorithm.outstanding
            if not outstanding:
                return
            finished = outstanding[int(self._rng.integers(len(outstanding)))]
            row = finished.row
            assert row is not None
            if not fails(row):
                self._contract.evaluate([finished], row)
            algorithm.tell([finished])
            self.told.append(row)

    def go_on_with(self, algorithm: SteadyState) -> "Workers":
        """Return the same workers at the same moment, for an algorithm that was restored, with nothing proposed."""
        twin = copy.copy(self)
        twin.algorithm, twin.proposals, twin.told = algorithm, [], []
        twin._rng = copy.deepcopy(self._rng)
        return twin


class SteadyStateContract(AlgorithmContract):
    """Conformance tests of an algorithm that can work asynchronously, besides those of how it works by generations.

    A subclass provides the fixture `algorithm`, as for `AlgorithmContract`: not asynchronous.
    """

    covers_asynchronous = True

    @pytest.fixture
    def steady(self, algorithm: Algorithm) -> SteadyState:
        """Return the algorithm, asynchronous, not started."""
        assert isinstance(algorithm, SteadyState)
        return type(algorithm)(**{**algorithm.to_dict(), "asynchronous": True})

    @pytest.fixture
    def running(self, steady: SteadyState, space: GenomeSpace, objectives: tuple[Objective, ...]) -> SteadyState:
        """Return the algorithm, asynchronous, started."""
        steady.start(space, objectives, 0)
        return steady

    def test_asynchronous_has_to_be_started(self, steady: SteadyState) -> None:
        """Without a space there is nothing to ask for."""
        with pytest.raises(RuntimeError, match="start"):
            steady.ask()

    @pytest.mark.parametrize("slots", [1, 7, 10_000])
    def test_asynchronous_proposes_exactly_its_number(self, running: SteadyState, slots: int) -> None:
        """rounds × population, whatever the number of workers; then None for ever."""
        total = running.rounds * running.population
        workers = Workers(self, running, slots, 0)
        workers.work(total)
        assert sorted(workers.told) == list(range(total))
        assert sum(map(len, workers.proposals)) == running.proposed == running.told == total
        assert running.generation == running.rounds
        assert running.outstanding == []
        assert running.ask() is None
        assert running.ask() is None

    def test_asynchronous_never_waits(self, running: SteadyState) -> None:
        """All of it can be asked for before anything is told."""
        asked: list[Individual] = []
        while (family := running.ask()) is not None:
            assert 1 <= len(family) <= running.population
            asked += family
            assert [id(one) for one in running.outstanding] == [id(one) for one in asked]
        assert len(asked) == running.rounds * running.population
        assert {one.parents for one in asked} == {()}, "there is nothing to descend from"

    def test_asynchronous_counts(self, running: SteadyState) -> None:
        """A generation is over with every `population` results."""
        while (family := running.ask()) is not None:
            self.evaluate(family, running.proposed - len(family))
            for individual in family:
                before = running.told
                running.tell([individual])
                assert running.told == before + 1
                assert running.generation == running.told // running.population
            assert running.proposed == running.told

    def test_asynchronous_tell_takes_each_outstanding_individual_once(self, running: SteadyState) -> None:
        """Strangers, copies and repeats are refused, nothing is learned of them, and the right ones are still welcome."""
        families = [family for _ in range(3) if (family := running.ask()) is not None]
        asked = [individual for family in families for individual in family]
        self.evaluate(asked, 0)
        before = running.state()
        for wrong in ([copy.deepcopy(asked[0])], [asked[0], asked[0]], [*asked, copy.deepcopy(asked[0])]):
            with pytest.raises(ValueError, match="outstanding"):
                running.tell(wrong)
        assert running.state() == before
        running.tell(asked[1:])
        assert running.outstanding == asked[:1]
        with pytest.raises(ValueError, match="outstanding"):
            running.tell(asked)
        running.tell(asked[:1])
        with pytest.raises(ValueError, match="outstanding"):
            running.tell(asked[:1])
        running.tell([])
        assert running.told == len(asked)

    @pytest.mark.parametrize("slots", [1, 5, 30])
    def test_asynchronous_proposes_legal_unevaluated_individuals(
        self, running: SteadyState, space: GenomeSpace, slots: int
    ) -> None:
        """Every proposal needs no repair, says what made it, and descends from what was told and did not fail."""
        told: set[int] = set()
        rng = np.random.default_rng(0)
        while True:
            while len(running.outstanding) < slots and (family := running.ask()) is not None:
                for row, individual in enumerate(family, running.proposed - len(family)):
                    individual.row = row
                    assert not individual.fitness.valid
                    assert individual.operator
                    assert set(individual.parents) <= told
                    genes = list(individual)
                    assert list(space.repair(individual)) == genes
            if not running.outstanding:
                break
            one = running.outstanding[int(rng.integers(len(running.outstanding)))]
            assert one.row is not None
            if one.row % 3:
                self.evaluate([one], one.row)
                told.add(one.row)
            running.tell([one])

    @pytest.mark.parametrize("slots", [1, 6])
    def test_asynchronous_descends_from_what_it_was_told(self, running: SteadyState, slots: int) -> None:
        """The later half of a search consists of children."""
        workers = Workers(self, running, slots, 0)
        workers.work(running.rounds * running.population)
        later = workers.proposals[len(workers.proposals) // 2 :]
        assert all(parents for family in later for _, _, parents in family)

    @pytest.mark.parametrize("slots", [1, 6])
    def test_asynchronous_same_seed_and_order_propose_the_same(
        self, steady: SteadyState, space: GenomeSpace, objectives: tuple[Objective, ...], slots: int
    ) -> None:
        """Also when the same object is started again; another seed or order of results proposes something else."""
        twin = steady.model_copy()

        def proposals(algorithm: SteadyState, seed: int, order: int) -> list[Proposal]:
            algorithm.start(space, objectives, seed)
            workers = Workers(self, algorithm, slots, order)
            workers.work(algorithm.rounds * algorithm.population)
            return workers.proposals

        expected = proposals(steady, 1, 1)
        assert proposals(twin, 1, 1) == expected
        assert proposals(steady, 1, 1) == expected
        assert proposals(steady, 2, 1) != expected
        if slots > 1:
            assert proposals(steady, 1, 2) != expected

    @pytest.mark.parametrize("results", [0, 1, 6, 13, 21])
    @pytest.mark.parametrize("fails", [0, 3])
    def test_asynchronous_a_saved_state_goes_on_bit_for_bit(
        self, steady: SteadyState, space: GenomeSpace, objectives: tuple[Objective, ...], results: int, fails: int
    ) -> None:
        """State, through JSON and back, at any moment and with what is outstanding, leaves no trace in what follows."""
        twin = steady.model_copy()

        def failing(row: int) -> bool:
            return bool(fails) and row % fails == 0

        steady.start(space, objectives, 2)
        workers = Workers(self, steady, 5, 0)
        workers.work(results, failing)
        saved = json.dumps(steady.state())
        twin.start(space, objectives, 77)
        Workers(self, twin, 3, 1).work(4)
        twin.restore(json.loads(saved))
        assert json.dumps(twin.state()) == saved
        assert (twin.generation, twin.proposed, twin.told) == (steady.generation, steady.proposed, steady.told)
        described = [
            [(list(one), one.row, one.operator, one.parents) for one in each.outstanding] for each in (twin, steady)
        ]
        assert described[0] == described[1]
        assert not any(one.fitness.valid for one in twin.outstanding)
        other = workers.go_on_with(twin)
        other.work(1000, failing)
        before = len(workers.proposals)
        workers.work(1000, failing)
        assert other.proposals == workers.proposals[before:]
        assert twin.state() == steady.state()

    @pytest.mark.parametrize("slots", [1, 6])
    def test_asynchronous_when_all_fail_at_first_it_begins_anew(self, running: SteadyState, slots: int) -> None:
        """Until one evaluation has succeeded, individuals of the first population are drawn; then it goes on from that."""
        workers = Workers(self, running, slots, 0)
        workers.work(running.population + 3, lambda row: True)
        assert {parents for family in workers.proposals for _, _, parents in family} == {()}
        workers.work(running.rounds * running.population)
        assert any(parents for family in workers.proposals for _, _, parents in family)

    @pytest.mark.parametrize("nth", [2, 3])
    def test_asynchronous_tolerates_failures(self, running: SteadyState, nth: int) -> None:
        """A search with failures goes on to its end; if all fail for good, so does it, if nobody stops it."""
        total = running.rounds * running.population
        workers = Workers(self, running, 4, 0)
        workers.work(total // 2, lambda row: row % nth == 0)
        workers.work(total, lambda row: True)
        assert len(workers.told) == total
