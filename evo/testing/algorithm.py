"""What every algorithm has to do."""

import copy
import json
import random
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from evo.algorithms.base import Algorithm
from evo.algorithms.steady import SteadyState
from evo.encodings.base import GenomeSpace
from evo.encodings.filter_bits import FilterBits
from evo.encodings.individual import Individual
from evo.errors import SettingsError
from evo.fitness.base import Objective
from evo.testing.tasks import small_task

Proposal = list[tuple[bytes, str, tuple[int, ...]]]


class AlgorithmContract:
    """Conformance tests of an algorithm.

    A subclass provides the fixture `algorithm`: at least three rounds, a few individuals each. It may also override
    `objectives`, by default one to maximise and one to minimise, and `space`, by default filter bits. For an algorithm that can
    work asynchronously, subclass `SteadyStateContract`, which asks for more.
    """

    covers_asynchronous = False

    @pytest.fixture
    def algorithm(self) -> Algorithm:
        """Return the algorithm to test, not started: to be overridden."""
        raise NotImplementedError("AlgorithmContract: override the fixture `algorithm` with one that returns yours")

    @pytest.fixture
    def objectives(self) -> tuple[Objective, ...]:
        """Return the objectives to search by."""
        return Objective("score", True), Objective("cost", False)

    @pytest.fixture
    def space(self, objectives: tuple[Objective, ...]) -> GenomeSpace:
        """Return the genomes to search."""
        return FilterBits().bind(small_task(), tuple(objective.weight for objective in objectives))

    def evaluate(self, asked: Sequence[Individual], first_row: int, every_nth_fails: int = 0) -> None:
        """Number the individuals from `first_row` and give them positive objectives that depend on the genome alone."""
        for row, individual in enumerate(asked, first_row):
            individual.row = row
            if every_nth_fails and row % every_nth_fails == 0:
                continue
            score = 0.1 + float(np.dot(np.arange(len(individual)) % 7, individual)) / len(individual)
            weights = individual.fitness.weights
            individual.fitness.values = tuple(score if weight > 0 else sum(individual) + 1.0 for weight in weights)

    def play(self, algorithm: Algorithm, first_row: int = 0, rounds: int = 1000, fails: int = 0) -> list[Proposal]:
        """Go on for `rounds` rounds, or to the end, and return what was proposed in each."""
        proposals: list[Proposal] = []
        while len(proposals) < rounds and (asked := algorithm.ask()) is not None:
            proposals.append([(one.tobytes(), one.operator, one.parents) for one in asked])
            self.evaluate(asked, first_row, fails)
            first_row += len(asked)
            algorithm.tell(asked)
        return proposals

    @pytest.fixture
    def started(self, algorithm: Algorithm, space: GenomeSpace, objectives: tuple[Objective, ...]) -> Algorithm:
        """Return the algorithm, started."""
        algorithm.start(space, objectives, 0)
        return algorithm

    def test_the_contract_covers_all_that_the_algorithm_can(self, algorithm: Algorithm) -> None:
        """One that can work asynchronously is tested by `SteadyStateContract`."""
        if isinstance(algorithm, SteadyState):
            assert self.covers_asynchronous, "subclass SteadyStateContract instead of AlgorithmContract"

    def test_has_to_be_started(self, algorithm: Algorithm) -> None:
        """Without a space there is nothing to ask for."""
        with pytest.raises(RuntimeError, match="start"):
            algorithm.ask()

    def test_ask_and_tell_alternate(self, started: Algorithm) -> None:
        """Asking twice, telling what was not asked, and saving in between raise."""
        with pytest.raises(RuntimeError, match="without ask"):
            started.tell([])
        asked = started.ask()
        assert asked is not None
        with pytest.raises(RuntimeError, match="before tell"):
            started.ask()
        with pytest.raises(RuntimeError, match="after tell"):
            started.state()
        self.evaluate(asked, 0)
        started.tell(asked)
        with pytest.raises(RuntimeError, match="without ask"):
            started.tell(asked)

    def test_tell_takes_the_individuals_that_were_asked(self, started: Algorithm) -> None:
        """Fewer, others, or another order are refused, and the right ones are still welcome."""
        asked = started.ask()
        assert asked is not None
        assert len(asked) > 1, "AlgorithmContract needs an algorithm that proposes several individuals at once"
        self.evaluate(asked, 0)
        for wrong in (asked[:-1], asked[::-1], copy.deepcopy(asked), [*asked, asked[0]]):
            with pytest.raises(ValueError, match="individuals"):
                started.tell(wrong)
        started.tell(asked)
        assert started.generation == 1

    def test_proposes_legal_unevaluated_individuals(self, started: Algorithm, space: GenomeSpace) -> None:
        """Every proposal needs no repair, says what made it, and descends from earlier rows."""
        rows = 0
        while (asked := started.ask()) is not None:
            for individual in asked:
                assert not individual.fitness.valid
                assert individual.operator
                assert all(0 <= parent < rows for parent in individual.parents)
                genes = list(individual)
                assert list(space.repair(individual)) == genes
            self.evaluate(asked, rows)
            rows += len(asked)
            started.tell(asked)

    def test_ends_after_its_rounds(self, started: Algorithm) -> None:
        """`ask` returns individuals `rounds` times, then None for ever."""
        assert started.rounds >= 3, "AlgorithmContract needs an algorithm with at least three rounds"
        assert len(self.play(started)) == started.rounds == started.generation
        assert started.ask() is None
        assert started.ask() is None

    def test_same_seed_proposes_the_same(
        self, algorithm: Algorithm, space: GenomeSpace, objectives: tuple[Objective, ...]
    ) -> None:
        """Also when the same object is started again, and whatever Python's global generators say."""
        twin = algorithm.model_copy()
        before = random.getstate(), torch.get_rng_state().tolist()
        algorithm.start(space, objectives, 1)
        proposals = self.play(algorithm)
        assert (random.getstate(), torch.get_rng_state().tolist()) == before, "it changed a global generator"
        random.seed(99)
        try:
            twin.start(space, objectives, 1)
            assert self.play(twin) == proposals
            algorithm.start(space, objectives, 1)
            assert self.play(algorithm) == proposals
        finally:
            random.setstate(before[0])

    @pytest.mark.parametrize("rounds", [0, 1, 2])
    @pytest.mark.parametrize("fails", [0, 3])
    def test_a_saved_state_goes_on_bit_for_bit(
        self, algorithm: Algorithm, space: GenomeSpace, objectives: tuple[Objective, ...], rounds: int, fails: int
    ) -> None:
        """State, through JSON and back, leaves no trace in what follows."""
        twin = algorithm.model_copy()
        algorithm.start(space, objectives, 2)
        told = self.play(algorithm, rounds=rounds, fails=fails)
        saved = json.dumps(algorithm.state())
        rows = sum(len(proposal) for proposal in told)
        twin.start(space, objectives, 77)
        self.play(twin, rounds=2)
        twin.restore(json.loads(saved))
        assert twin.generation == rounds
        assert json.dumps(twin.state()) == saved
        assert self.play(twin, rows, fails=fails) == self.play(algorithm, rows, fails=fails)
        assert twin.state() == algorithm.state()

    def test_a_search_begins_with_its_seeds(
        self, algorithm: Algorithm, space: GenomeSpace, objectives: tuple[Objective, ...]
    ) -> None:
        """Each is proposed once, before all that the encoding draws, and more than there is room for are refused."""
        drawn = space.initial(50, np.random.default_rng(5))
        different = {one.tobytes(): one for one in drawn}
        seeds = list(different.values())[: min(3, algorithm.places)]
        genomes = [one.tobytes() for one in seeds]
        algorithm.start(space, objectives, 3, seeds)
        asked = algorithm.ask()
        assert asked is not None
        assert [one.tobytes() for one in asked if one.operator == "seed"] == genomes
        assert all(one.operator == "seed" for one in asked[: len(genomes)])
        self.evaluate(asked, 0)
        algorithm.tell(asked)
        assert not any(
            operator == "seed" for proposal in self.play(algorithm, len(asked)) for _, operator, _ in proposal
        )
        with pytest.raises(SettingsError, match=f"begins with {algorithm.places}"):
            algorithm.start(space, objectives, 3, copy.deepcopy(seeds[:1]) * (algorithm.places + 1))

    @pytest.mark.parametrize("fails", [2, 3])
    def test_failed_individuals_are_tolerated(self, started: Algorithm, fails: int) -> None:
        """A search with failures goes on to its end."""
        assert len(self.play(started, fails=fails)) == started.rounds

    def test_statistics_leave_failures_out(self, started: Algorithm) -> None:
        """Mean and extremes are those of the evaluated individuals' first objective."""
        asked = started.ask()
        assert asked is not None
        assert not {"mean", "std", "min", "max"} & set(started.statistics(asked))
        self.evaluate(asked, 0, 2)
        values = [one.fitness.values[0] for one in asked if one.fitness.valid]
        statistics = started.statistics(asked)
        assert statistics["mean"] == pytest.approx(np.mean(values))
        assert (statistics["min"], statistics["max"]) == (min(values), max(values))
