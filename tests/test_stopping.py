"""What stops a search early: where, why, and that it makes no difference to what follows."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import evo
from evo.errors import SettingsError
from evo.front import Criteria, Values, hypervolume
from evo.stopping import Convergence, ConvergenceWatch
from evo.testing import small_task
from tests.interruptions import Stopped, assert_same, stopping_after

ROUNDS = 12
RULE = Convergence(generations=2, tolerance=0.03)
GENERATIONS = evo.NSGA2(generations=ROUNDS, population=8)
STEADY = evo.NSGA2(generations=ROUNDS, population=8, asynchronous=True)
BOTH = pytest.mark.parametrize("algorithm", [GENERATIONS, STEADY], ids=["generations", "asynchronous"])


pytestmark = pytest.mark.usefixtures("one_by_one")


@evo.fitness(maximize="score", minimize="params")
def judge(candidate: evo.Candidate) -> Mapping[str, float]:
    counts = candidate.blueprint.counts
    if counts["0"] == 4:
        raise ValueError("four is refused")
    return {"score": float(np.sqrt(counts["4"]) + counts["9"] / 100)}


TASK = small_task()
ORIGINAL = TASK.network.cost_of(TASK.network.full)


def search(folder: Path, algorithm: evo.NSGA2, **changes: Any) -> evo.Run:
    evaluator = evo.LocalEvaluator(workers=0, retries=0)
    parts: dict[str, Any] = {"encoding": evo.FilterBits(), "fitness": judge, "evaluator": evaluator, "reuse": False}
    return evo.search(TASK, algorithm=algorithm, out=folder, seed=3, **{**parts, **changes})


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, evo.Run]:
    """Runs that nothing stops, by whether they are asynchronous."""
    folder = tmp_path_factory.mktemp("whole")
    return {one.asynchronous: search(folder / str(one.asynchronous), one) for one in (GENERATIONS, STEADY)}


def growth(run: evo.Run, generations: int) -> list[float]:
    """By how much the hypervolume has grown up to each generation: slow, from all of the history."""
    rows = run.history[lambda frame: frame["status"] == "ok"]
    order = rows["turn"] // 8 if rows["turn"].notna().all() else rows["generation"]
    grown = [np.inf] * generations
    for last in range(generations, len(run.generations)):
        known = rows[order <= last]
        worst, best = known["score"].min(), known["score"].max()

        def share(frame: pd.DataFrame, worst: float = worst, best: float = best) -> float:
            scaled = np.stack([(best - frame["score"]) / (best - worst), frame["params"] / ORIGINAL["params"]], 1)
            return hypervolume(scaled, np.ones(2))

        grown.append(share(known) - share(rows[order <= last - generations]))
    return grown


@BOTH
def test_it_stops_with_the_first_generation_after_which_the_front_has_not_grown(
    algorithm: evo.NSGA2, folder: Path, whole: dict[bool, evo.Run]
) -> None:
    run = search(folder, algorithm, convergence=RULE)
    grown = growth(whole[algorithm.asynchronous], RULE.generations)
    expected = next(index for index, value in enumerate(grown) if value < RULE.tolerance)
    assert 2 < expected < ROUNDS - 2, "this test needs a search that converges in between"
    assert len(run.generations) == expected + 1
    assert run.stopped is not None
    assert (run.stopped.rule, run.stopped.option) == ("convergence", "convergence.tolerance=…")
    assert run.stopped.reason.startswith("over 2 generations, the hypervolume of score, params has grown by ")
    assert run.stopped.reason.endswith(", less than convergence.tolerance = 0.03")
    assert run.settings["convergence"] == {"generations": 2, "tolerance": 0.03}
    assert whole[algorithm.asynchronous].stopped is None


@BOTH
@pytest.mark.parametrize("after", [0, 9, 20, 27])
def test_interrupted_it_stops_at_the_same_place(algorithm: evo.NSGA2, after: int, tmp_path: Path) -> None:
    uninterrupted = search(tmp_path / "whole", algorithm, convergence=RULE)
    with pytest.raises(Stopped):
        search(tmp_path / "run", algorithm, convergence=RULE, callbacks=[stopping_after(after)])
    assert evo.Run(tmp_path / "run").stopped is None
    again = search(tmp_path / "run", algorithm, convergence=RULE)
    assert_same(again, uninterrupted)
    again._history.set_meta("stop", None)  # as if killed just before it was written
    assert_same(search(tmp_path / "run", algorithm, convergence=RULE), uninterrupted)


@BOTH
def test_a_search_that_was_stopped_goes_on_with_other_rules(
    algorithm: evo.NSGA2, folder: Path, whole: dict[bool, evo.Run]
) -> None:
    stopped = search(folder, algorithm, convergence=RULE)
    count = len(stopped.generations)
    later = search(folder, algorithm, convergence=Convergence(generations=2, tolerance=1e-9), max_evaluations=80)
    assert len(later.generations) > count
    assert_same(search(folder, algorithm), whole[algorithm.asynchronous])


@BOTH
def test_time_is_that_of_a_process_and_something_is_always_done(
    algorithm: evo.NSGA2, folder: Path, whole: dict[bool, evo.Run]
) -> None:
    before = processes = 0
    while (run := search(folder, algorithm, max_seconds=1e-9)).stopped is not None:
        assert (run.stopped.rule, run.stopped.option) == ("max_seconds", "")
        assert run.stopped.reason == "the time is up, max_seconds = 1e-09"
        assert len(run.history) > before
        before, processes = len(run.history), processes + 1
    assert processes >= ROUNDS - 1
    assert_same(run, whole[algorithm.asynchronous])


def test_time_enough_stops_nothing(folder: Path, whole: dict[bool, evo.Run]) -> None:
    assert_same(search(folder, GENERATIONS, max_seconds=1000), whole[False])


def test_a_limit_on_evaluations_says_so(tmp_path: Path) -> None:
    run = search(tmp_path / "generations", GENERATIONS, max_evaluations=20)
    assert run.stopped is not None
    assert run.stopped.to_dict() == {
        "rule": "max_evaluations",
        "reason": "another generation would exceed max_evaluations = 20",
    }
    run = search(tmp_path / "steady", STEADY, max_evaluations=20)
    assert run.stopped is not None
    assert run.stopped.reason == "all of max_evaluations = 20 are done"


OBJECTIVES = judge.objectives


def watched(rule: Convergence, generations: list[list[tuple[float, float]]]) -> list[bool]:
    """Whether the search stops after each of these generations of scores and parameters."""
    watch = ConvergenceWatch(rule, OBJECTIVES, ORIGINAL)
    stops = []
    for generation in generations:
        watch.end_generation({"score": score, "params": params} for score, params in generation)
        stops.append(watch.stop is not None)
    return stops


def test_before_anything_counts_nothing_has_converged() -> None:
    rule = Convergence(generations=1)
    assert watched(rule, [[], [], [], [(0.5, 500)], []]) == [False] * 4 + [True]
    rule = Convergence(generations=1, reference={"score": 0.7})
    assert watched(rule, [[(0.5, 500)], [(0.6, 400)], [(0.8, 300)], [(0.8, 300)]]) == [False] * 3 + [True]


def test_the_objectives_that_are_watched_can_be_chosen() -> None:
    generations = [[(0.5, 500.0)], [(0.5, 400.0)], [(0.5, 300.0)]]
    assert watched(Convergence(generations=1), generations) == [False, False, False]
    assert watched(Convergence(generations=1, objectives=("score",)), generations) == [False, True, True]


def test_the_order_of_results_makes_no_difference() -> None:
    rng = np.random.default_rng(0)
    values: Values = rng.random((200, 2)) * [1, ORIGINAL["params"]]
    rule = Convergence(generations=1, tolerance=1.0)
    reasons = set()
    for _ in range(10):
        watch = ConvergenceWatch(rule, OBJECTIVES, ORIGINAL)
        for half in (values[:100], values[100:]):
            shuffled = rng.permutation(half)
            watch.end_generation({"score": score, "params": params} for score, params in shuffled)
        box = Criteria.choose(OBJECTIVES).box(watch._extremes, ORIGINAL)
        reasons.add((box.hypervolume(watch._fronts[0]), box.hypervolume(watch._fronts[1])))
    assert len(reasons) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_seconds": 0}, r"^max_seconds: expected a number of seconds > 0, got 0$"),
        ({"max_seconds": "5"}, r"^max_seconds: expected a number of seconds > 0, got '5'$"),
        ({"max_seconds": True}, r"^max_seconds: expected a number of seconds > 0, got True$"),
        ({"max_seconds": float("nan")}, r"^max_seconds: expected a number of seconds > 0, got nan$"),
        ({"convergence": 5}, r"^convergence: expected a Convergence, got int$"),
        (
            {"convergence": Convergence(objectives=("scor",))},
            r"^convergence: unknown objective 'scor'; did you mean 'score'\?$",
        ),
        (
            {"convergence": Convergence(reference={"macs": 1})},
            r"^convergence: reference: unknown objective 'macs'; known are: params, score$",
        ),
    ],
)
def test_what_cannot_be_a_rule(folder: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        search(folder, GENERATIONS, **change)
    assert not folder.exists()
