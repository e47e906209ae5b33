"""Searches without generations: told in the order in which results come, and replayed in that order."""

import itertools
import json
import shutil
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import evo
from evo.algorithms import SteadyState
from evo.callbacks import Progress
from evo.errors import EvaluatorError, RunFolderError
from evo.evaluation import local
from evo.task import Task
from evo.testing import small_task
from tests.interruptions import Stopped, Watch, assert_same, lasting, stopping_after

ALGORITHMS: dict[str, SteadyState] = {
    "ecs": evo.ECS(generations=5, population=8, asynchronous=True),
    "fga": evo.FGA(generations=4, population=8, parents=4, asynchronous=True),
    "nsga2": evo.NSGA2(generations=5, population=8, asynchronous=True),
    "nsga3": evo.NSGA3(generations=5, population=8, asynchronous=True),
}
HERE = evo.LocalEvaluator(workers=0, retries=0)


pytestmark = pytest.mark.usefixtures("one_by_one")


@evo.fitness(maximize="score", minimize=("params",))
def judge(candidate: evo.Candidate) -> Mapping[str, float]:
    counts = candidate.blueprint.counts
    if counts["0"] == 4:
        raise ValueError("four is refused")
    return {"score": 0.01 + abs(counts["4"] - 3) + counts["9"] / 100}


def search(task: Task, folder: Path, algorithm: SteadyState, **changes: Any) -> evo.Run:
    arguments: dict[str, Any] = {"encoding": evo.FilterBits(), "fitness": judge, "evaluator": HERE, "reuse": False}
    return evo.search(task, algorithm=algorithm, out=folder, seed=3, **{**arguments, **changes})


@pytest.fixture(params=ALGORITHMS)
def algorithm(request: pytest.FixtureRequest) -> SteadyState:
    return ALGORITHMS[request.param]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[SteadyState], evo.Run]:
    """Return the run of an algorithm that nothing interrupts."""
    runs: dict[str, evo.Run] = {}

    def run(algorithm: SteadyState) -> evo.Run:
        name = type(algorithm).__name__
        if name not in runs:
            runs[name] = search(small_task(), tmp_path_factory.mktemp("whole") / "run", algorithm)
        return runs[name]

    return run


def test_every_individual_has_a_row_and_a_turn(algorithm: SteadyState, whole: Callable[[SteadyState], evo.Run]) -> None:
    run = whole(algorithm)
    frame = run.history
    assert frame.index.tolist() == list(range(40))
    assert sorted(frame["turn"]) == list(range(40))
    assert frame["generation"].tolist() == [row // 8 for row in range(40)]
    for _, row in frame.iterrows():
        parents = json.loads(row["parents"])
        assert all(frame.loc[parent, "turn"] < row["turn"] for parent in parents)
        assert row["asked"] > row.name
    for _, rows in frame.groupby("key"):
        assert rows["cached"].tolist() == [False] + [True] * (len(rows) - 1)
    assert run.generations["asked"].tolist() == [8] * 5
    assert run.generations["evaluated"].sum() == (~frame["cached"]).sum()
    assert (frame["status"] == "failed").any()


@pytest.mark.parametrize("after", [0, 1, 5, 9, 13, 22])
def test_interrupted_with_one_worker_it_continues_bit_for_bit(
    algorithm: SteadyState, after: int, task: Task, folder: Path, whole: Callable[[SteadyState], evo.Run]
) -> None:
    with pytest.raises(Stopped):
        search(task, folder, algorithm, callbacks=[stopping_after(after)])
    assert_same(search(task, folder, algorithm), whole(algorithm))


def test_interruptions_without_end_change_nothing(
    algorithm: SteadyState, task: Task, folder: Path, whole: Callable[[SteadyState], evo.Run]
) -> None:
    interruptions = 0
    while True:
        try:
            run = search(task, folder, algorithm, callbacks=[stopping_after(2, KeyboardInterrupt)])
            break
        except KeyboardInterrupt:
            interruptions += 1
    assert interruptions > 10
    assert_same(run, whole(algorithm))


class Shuffled(evo.LocalEvaluator):
    """Results in an order that chance decides, several at a time: what many workers would do."""

    def open(self, job: Any) -> Any:
        return ShuffledSession(job)


class ShuffledSession(local.InProcessSession):
    seed = 0

    def __init__(self, job: Any) -> None:
        super().__init__(job, 0)
        self._held: list[Any] = []
        self._rng = np.random.default_rng(self.seed)

    def room(self, population: int) -> int:
        return 5 - len(self._held) - self._under_way()

    def _under_way(self) -> int:
        return len(self._pending)

    def receive(self) -> list[Any]:
        while self._under_way():
            self._held += super().receive()
        self._rng.shuffle(self._held)
        count = int(self._rng.integers(1, len(self._held) + 1)) if self._held else 0
        out, self._held = self._held[:count], self._held[count:]
        return out


@pytest.mark.parametrize("after", [2, 4, 7, 12])
def test_what_was_recorded_stays_and_decides_what_follows(
    algorithm: SteadyState, after: int, task: Task, folder: Path
) -> None:
    evaluator = Shuffled(retries=0)
    with pytest.raises(Stopped):
        search(task, folder, algorithm, evaluator=evaluator, callbacks=[stopping_after(after)])
    before = lasting(evo.Run(folder))
    assert 0 < len(before) < 40
    copy = Path(shutil.copytree(folder, folder.with_name("copy")))
    run = search(task, folder, algorithm, evaluator=evaluator)
    frame = lasting(run)
    pd.testing.assert_frame_equal(frame.loc[before.index], before, check_exact=True)
    assert sorted(frame["turn"]) == list(range(40))
    assert_same(search(task, copy, algorithm, evaluator=evaluator), run)


def test_a_finished_search_replays_from_its_record_alone(algorithm: SteadyState, task: Task, folder: Path) -> None:
    """Without any saved state, the order of completions gives the same individuals again."""
    run = search(task, folder, algorithm, evaluator=Shuffled(retries=0))
    expected, generations, state = lasting(run), run.generations, run._history.meta("state")
    run.close()
    with closing(sqlite3.connect(folder / "history.sqlite")) as database, database:
        database.execute("DELETE FROM meta WHERE name = 'state'")
        database.execute("DELETE FROM generations")

    class Forbidden(evo.LocalEvaluator):
        def open(self, job: Any) -> Any:
            raise AssertionError("there is nothing to evaluate")

    again = search(task, folder, algorithm, evaluator=Forbidden(retries=0))
    pd.testing.assert_frame_equal(lasting(again), expected, check_exact=True)
    pd.testing.assert_frame_equal(again.generations, generations, check_exact=True)
    assert again._history.meta("state") == state


def test_a_record_that_does_not_replay_is_refused(task: Task, folder: Path) -> None:
    algorithm = ALGORITHMS["ecs"]
    with pytest.raises(Stopped):
        search(task, folder, algorithm, callbacks=[stopping_after(12)])
    with closing(sqlite3.connect(folder / "history.sqlite")) as database, database:
        database.execute("UPDATE evaluations SET key = 'other' WHERE turn = (SELECT max(turn) FROM evaluations)")
    with pytest.raises(RunFolderError, match=r"row \d+ is not what this search proposes; it is damaged"):
        search(task, folder, algorithm)


def test_two_workers(task: Task, folder: Path) -> None:
    run = search(task, folder, ALGORITHMS["ecs"], evaluator=evo.LocalEvaluator(workers=2, retries=0))
    frame = run.history
    assert sorted(frame["turn"]) == list(range(40))
    for number, row in frame[frame["status"] == "ok"].iterrows():
        candidate = evo.Candidate(task, run.blueprint(int(str(number))), 3)
        assert judge(candidate)["score"] == row["score"]


def test_the_limit_is_never_exceeded_and_can_be_raised(algorithm: SteadyState, task: Task, folder: Path) -> None:
    for limit in (5, 5, 8, 9, 14):
        run = search(task, folder, algorithm, max_evaluations=limit)
        assert (~run.history["cached"]).sum() == limit
    assert len(search(task, folder, algorithm).history) == 40


def test_when_everything_fails_it_stops(algorithm: SteadyState, task: Task, folder: Path) -> None:
    @evo.fitness(maximize="score")
    def broken(candidate: evo.Candidate) -> Mapping[str, float]:
        raise OSError("no such data")

    with pytest.raises(EvaluatorError, match=r"^every one of the first 20 evaluations failed; the first: OSError: no"):
        search(task, folder, algorithm, fitness=broken)
    assert len(evo.Run(folder).history) < 40


def test_progress_adds_up(algorithm: SteadyState, task: Task, folder: Path) -> None:
    seen: list[Progress] = []
    run = search(task, folder, algorithm, callbacks=[Watch(seen.append)])
    frame = run.history
    last = seen[-1]
    assert (last.generation, last.generations, last.pending) == (5, 5, 0)
    assert (last.evaluated, last.cached) == ((~frame["cached"]).sum(), frame["cached"].sum())
    assert last.best is not None
    assert last.best["score"] == run.best["score"]
    for before, after in itertools.pairwise(seen):
        assert after.evaluated - before.evaluated in (0, 1)
