"""What callbacks hear, in which order, and what becomes of a search in which one raises."""

import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import evo
from evo.callbacks import Callback, Progress
from evo.errors import CallbackError, SettingsError
from evo.evaluation import Evaluator
from evo.network import COSTS
from evo.records import COLUMNS
from tests.callbacks.searching import search


class Heard(Callback):
    """Notes everything, and looks into the file at once: what it hears of has to be there."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.rows: list[dict[str, Any]] = []
        self.generations: list[dict[str, float]] = []
        self.before: pd.DataFrame | None = None
        self.run: evo.Run | None = None
        self.error: BaseException | None = None

    def on_start(self, run: evo.Run) -> None:
        self.events.append("start")
        self.run, self.before = run, run.history

    def on_evaluation(self, row: Mapping[str, Any]) -> None:
        self.events.append("evaluation")
        self.rows.append(dict(row))
        assert self.stored("SELECT status FROM evaluations WHERE id = ?", row["id"]) == row["status"]

    def on_progress(self, progress: Progress) -> None:
        self.events.append("progress")

    def on_generation(self, statistics: Mapping[str, float], progress: Progress) -> None:
        self.events.append("generation")
        self.generations.append(dict(statistics))
        number = int(statistics["generation"])
        assert progress.generation == number + 1
        assert self.stored("SELECT generation FROM generations WHERE generation = ?", number) == number

    def on_end(self, run: evo.Run) -> None:
        self.events.append("end")
        assert run is self.run

    def on_exception(self, error: BaseException) -> None:
        self.events.append("exception")
        self.error = error

    def stored(self, query: str, number: int) -> Any:
        assert self.run is not None
        database = sqlite3.connect(self.run.folder / "history.sqlite")
        (value,) = database.execute(query, (number,)).fetchone()
        database.close()
        return value

    def frame(self) -> pd.DataFrame:
        return pd.DataFrame(self.rows).set_index("id")


ALGORITHMS = {
    "generations": evo.ECS(generations=3, population=6),
    "asynchronous": evo.ECS(generations=3, population=6, asynchronous=True),
}


@pytest.fixture(params=ALGORITHMS)
def algorithm(request: pytest.FixtureRequest) -> evo.ECS:
    return ALGORITHMS[request.param]


def same_rows(heard: pd.DataFrame, history: pd.DataFrame) -> None:
    """All columns, in any order of rows, are what the history has."""
    heard = heard.sort_index()
    assert list(heard.index) == list(history.index)
    assert [
        tuple(map(int, text.strip("[]").split(", "))) if text != "[]" else () for text in history["parents"]
    ] == list(heard["parents"])
    assert list(pd.to_datetime(heard["finished"], utc=True)) == list(history["finished"])
    for name in [*history.columns.drop(["parents", "finished"])]:
        ours, theirs = heard[name].astype(object), history[name].astype(object)
        assert ours.where(ours.notna(), None).tolist() == theirs.where(theirs.notna(), None).tolist(), name


def test_rows_and_generations_are_told_once_they_are_on_disk(task: evo.Task, folder: Path, algorithm: evo.ECS) -> None:
    heard = Heard()
    run = search(task, folder, heard, algorithm=algorithm)
    same_rows(heard.frame(), run.history)
    assert {"ok", "failed"} == set(run.history["status"])
    for row in heard.rows:
        objectives = {"score", "50 % noise"} if row["status"] == "ok" else set()
        assert set(row) == {*COLUMNS, *COSTS} | objectives
    told = pd.DataFrame(heard.generations)[list(run.generations)]
    pd.testing.assert_frame_equal(told.astype(run.generations.dtypes), run.generations)
    assert heard.events[0] == "start"
    assert heard.events[-1] == "end"
    assert heard.events.count("generation") == 3
    assert "exception" not in heard.events
    assert heard.before is not None
    assert heard.before.empty


@pytest.mark.parametrize("after", [0, 3, 8, 13])
def test_who_follows_a_search_that_goes_on_hears_only_what_is_new(
    task: evo.Task, folder: Path, algorithm: evo.ECS, after: int
) -> None:
    class Interrupting(Heard):
        def on_evaluation(self, row: Mapping[str, Any]) -> None:
            super().on_evaluation(row)
            if len(self.rows) > after:
                raise KeyboardInterrupt

    first, second = Interrupting(), Heard()
    with pytest.raises(KeyboardInterrupt):
        search(task, folder, first, algorithm=algorithm)
    assert isinstance(first.error, KeyboardInterrupt)
    assert first.events[-1] == "exception"
    run = search(task, folder, second, algorithm=algorithm)
    assert second.before is not None
    assert len(second.before) + len(second.rows) == len(run.history)
    assert not {*second.before.index} & {row["id"] for row in second.rows}
    assert [int(one["generation"]) for one in first.generations + second.generations] == [0, 1, 2]
    third = Heard()
    search(task, folder, third, algorithm=algorithm)
    assert not third.rows, "it was finished"
    assert (third.events[0], third.events[-1]) == ("start", "end")


def test_followed_or_not_the_result_is_the_same(task: evo.Task, tmp_path: Path) -> None:
    plain, followed = search(task, tmp_path / "plain"), search(task, tmp_path / "followed", Heard(), Callback())
    columns = ["key", "parents", "operator", "status", "score", "50 % noise"]
    pd.testing.assert_frame_equal(plain.history[columns], followed.history[columns], check_exact=True)


@pytest.mark.parametrize("hook", ["on_start", "on_evaluation", "on_progress", "on_generation", "on_end"])
def test_a_callback_that_raises_ends_the_search_which_can_be_continued(
    task: evo.Task, folder: Path, tmp_path: Path, hook: str
) -> None:
    class Broken(Callback):
        pass

    def fail(*_: object) -> None:
        raise ZeroDivisionError("two\nlines")

    setattr(Broken, hook, fail)
    before, after = Heard(), Heard()
    sentence = (
        r"^callback Broken raised ZeroDivisionError: two lines \(test_base\.py, line \d+\); what the search had found"
    )
    with pytest.raises(CallbackError, match=sentence) as raised:
        search(task, folder, before, Broken(), after)
    assert isinstance(raised.value.__cause__, ZeroDivisionError)
    assert before.events[-1] == after.events[-1] == "exception"
    assert before.error is after.error is raised.value.__cause__
    again, whole = search(task, folder), search(task, tmp_path / "whole")
    assert list(again.history["key"]) == list(whole.history["key"])
    pd.testing.assert_frame_equal(again.generations, whole.generations)


def test_one_that_raises_at_the_end_too_keeps_nobody_from_hearing(task: evo.Task, folder: Path) -> None:
    class Worse(Callback):
        def on_start(self, run: evo.Run) -> None:
            raise RuntimeError("first")

        def on_exception(self, error: BaseException) -> None:
            raise RuntimeError("second")

    heard = Heard()
    with pytest.raises(CallbackError, match="first") as raised:
        search(task, folder, Worse(), heard)
    assert heard.events == ["exception"]
    assert raised.value.__notes__[0].startswith("Worse.on_exception raised RuntimeError: second")


def test_what_is_wrong_with_an_evaluator_is_heard_too(task: evo.Task, folder: Path) -> None:
    class Closed(evo.LocalEvaluator):
        def open(self, job: Any) -> Any:
            raise OSError("no workers today")

    evaluator: Evaluator = Closed()
    heard = Heard()
    with pytest.raises(OSError, match="no workers today"):
        search(task, folder, heard, evaluator=evaluator)
    assert isinstance(heard.error, OSError)


@pytest.mark.parametrize(
    ("callbacks", "sentence"),
    [
        ([print], r"^callbacks: expected objects of subclasses of evo\.callbacks\.Callback, got a builtin_function"),
        ([Heard], r"^callbacks: got the class Heard, expected an object of it: Heard\(…\)$"),
        (Heard(), r"^callbacks: expected a list of callbacks, got a Heard$"),
    ],
)
def test_what_is_no_callback_is_refused_before_any_work(
    task: evo.Task, folder: Path, callbacks: Any, sentence: str
) -> None:
    with pytest.raises(SettingsError, match=sentence):
        evo.search(
            task,
            encoding=evo.FilterBits(),
            fitness=evo.SubsetFineTune(),
            algorithm=evo.ECS(),
            out=folder,
            callbacks=callbacks,
        )
    assert not folder.exists()
