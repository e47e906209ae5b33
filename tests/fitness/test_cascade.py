from collections.abc import Mapping

import pytest

import evo
from evo.candidate import Candidate
from evo.errors import SettingsError
from evo.fitness import FITNESSES, Cascade, Fitness, WithLatency, measure
from evo.task import Task
from evo.testing import FitnessContract, small_task

CHEAP = evo.ZeroShot(proxy="params")
TUNED = evo.SubsetFineTune(images=20, epochs=1, batch_size=10)


@evo.fitness(maximize="score", minimize="macs", version="1")
def judged(candidate: Candidate) -> Mapping[str, float]:
    return {"score": float(candidate.rng().random())}


class TestCascade(FitnessContract):
    """By itself it is its last fidelity."""

    @pytest.fixture
    def fitness(self) -> Fitness:
        return Cascade([CHEAP, TUNED, judged], promote=(0.5, 0.25))


def test_it_is_its_last_fidelity() -> None:
    task = small_task()
    cascade = Cascade([CHEAP, judged], promote=[0.5])
    assert cascade.objectives == judged.objectives
    assert cascade.names == ("zero_shot", judged.name)
    candidate = Candidate(task, task.network.full, 0)
    assert measure(cascade, candidate) == measure(judged, candidate)
    described = cascade.describe()
    assert FITNESSES[described["name"]] is Cascade
    assert described["promote"] == [0.5]
    assert described["fidelities"] == [CHEAP.describe(), judged.describe()]


@pytest.mark.parametrize(
    ("share", "judged", "places"),
    [(0.5, 50, 25), (0.3, 25, 8), (0.7, 10, 7), (0.5, 5, 3), (0.01, 10, 1), (1.0, 7, 7), (0.5, 1, 1), (0.5, 0, 0)],
)
def test_the_share_is_rounded_and_one_at_least(share: float, judged: int, places: int) -> None:
    assert Cascade([CHEAP, TUNED], promote=[share]).places(0, judged) == places


def test_the_most_that_reach_the_last() -> None:
    cascade = Cascade([CHEAP, TUNED, judged], promote=(0.5, 0.3))
    assert [cascade.most(new) for new in (50, 10, 1, 0)] == [8, 2, 1, 0]


@pytest.mark.parametrize(
    ("fidelities", "promote", "message"),
    [
        ([TUNED], [], r"^Cascade\.fidelities: got .*; tuple should have at least 2 items"),
        ([CHEAP, TUNED], [], r"promote takes one share per fidelity but the last: 1 for 2 fidelities, got 0$"),
        ([CHEAP, TUNED], [0.0], r"^Cascade\.promote\.0: got 0\.0; input should be greater than 0$"),
        ([CHEAP, TUNED], [1.5], r"^Cascade\.promote\.0: got 1\.5; input should be less than or equal to 1$"),
        ([CHEAP, "subset_finetune"], [0.5], r"^Cascade\.fidelities\.1: got 'subset_finetune'; input should be an inst"),
        ([CHEAP, Cascade([CHEAP, TUNED], promote=[1])], [0.5], r"a fidelity cannot be a cascade itself"),
    ],
)
def test_what_is_no_cascade_is_refused(fidelities: list[Fitness], promote: list[float], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        Cascade(fidelities, promote=promote)


def test_what_a_fidelity_refuses_is_refused_with_its_place(task: Task) -> None:
    cascade = Cascade([CHEAP, evo.SubsetFineTune(batch_size=500), TUNED], promote=(1, 1))
    with pytest.raises(SettingsError, match=r"^Cascade\.fidelities\.1: SubsetFineTune: batch_size 500 is larger than"):
        cascade.check(task)


def test_latency_belongs_into_a_fidelity() -> None:
    with pytest.raises(SettingsError, match="a Cascade is not measured as a whole; give its last fidelity the latency"):
        WithLatency(Cascade([CHEAP, TUNED], promote=[0.5]))
    timed = Cascade([CHEAP, WithLatency(TUNED)], promote=[0.5])
    assert timed.objectives[-1].name == "latency_ms"
