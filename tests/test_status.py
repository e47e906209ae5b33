"""What `evo.status` says of a folder, against what pandas says of all its rows."""

import json
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import evo
from evo.callbacks import Progress
from evo.errors import RunFolderError
from evo.folder import LOCK, claim_on, claimed
from evo.status import RECENT, status
from tests.interruptions import Watch


@evo.fitness(maximize="score", minimize="weights")
def picky(candidate: evo.Candidate) -> dict[str, float]:
    if candidate.costs["params"] % 3 == 0:
        raise ValueError("a multiple of three" if candidate.costs["params"] % 2 else "a multiple of six")
    return {"score": 1 / candidate.costs["params"]}


def interrupt_at(evaluations: int) -> Watch:
    def watch(progress: Progress) -> None:
        if progress.evaluated >= evaluations:
            raise KeyboardInterrupt

    return Watch(watch)


def search(task: evo.Task, folder: Path, *, asynchronous: bool = False, **changed: Any) -> evo.Run:
    return evo.search(
        task,
        encoding=evo.FilterBits(),
        fitness=picky,
        algorithm=evo.ECS(generations=8, population=8, asynchronous=asynchronous),
        evaluator=evo.LocalEvaluator(workers=0, retries=0),
        out=folder,
        reuse=False,
        **changed,
    )


@pytest.fixture
def run(task: evo.Task, folder: Path) -> evo.Run:
    return search(task, folder)


@contextmanager
def opened(folder: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(folder / "history.sqlite", isolation_level=None)) as database:
        yield database


def forget(folder: Path, generations: int) -> None:
    """Leave the folder as if the search had been stopped before its last so many generations were done."""
    with opened(folder) as database:
        database.execute(
            "DELETE FROM generations WHERE generation > (SELECT max(generation) FROM generations) - ?", (generations,)
        )


def test_it_agrees_with_the_table_of_all_rows(run: evo.Run) -> None:
    found, rows = status(run.folder), run.history
    measured = rows[~rows["cached"]]
    assert (found.state, found.claim, found.from_shell) == ("finished", None, False)
    assert (found.generation, found.generations) == (len(run.generations), 8)
    assert (found.individuals, found.expected) == (len(rows), len(rows))
    assert (found.evaluated, found.cached) == (len(measured), rows["cached"].sum())
    assert found.failed == (measured["status"] != "ok").sum() > 0
    assert dict(found.reasons) == measured.loc[measured["status"] != "ok", "reason"].value_counts().to_dict()
    assert [count for _, count in found.reasons] == sorted((count for _, count in found.reasons), reverse=True)
    assert found.best is not None
    assert found.best["id"] == run.best.name
    assert all(found.best[name] == run.best[name] for name in ("score", "weights", "params"))
    assert found.original == {name: int(value) for name, value in run.costs.costs(run.costs.sizes).items()}
    (node,) = found.nodes
    assert (node.name, node.evaluations) == (measured["node"].iloc[0], len(measured))
    assert node.seconds == pytest.approx(measured["seconds"].mean())
    assert node.worker_memory == measured["worker_memory"].max()
    assert node.last == measured["finished"].max()
    assert json.loads(json.dumps(found.to_dict()))["nodes"][0]["evaluations"] == len(measured)


def test_a_search_that_is_not_running_has_stopped(run: evo.Run) -> None:
    forget(run.folder, 2)
    found = status(run.folder)
    assert (found.state, found.generation, found.per_minute, found.seconds_left) == ("stopped", 6, None, None)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_search_that_its_limit_has_stopped(asynchronous: bool, task: evo.Task, folder: Path) -> None:
    search(task, folder, asynchronous=asynchronous, max_evaluations=16)
    found = status(folder)
    assert (found.state, found.stop) == ("stopped", evo.Run(folder).stopped)
    assert found.stop is not None
    assert found.stop.rule == "max_evaluations"
    assert json.loads(json.dumps(found.to_dict()))["stop"] == found.stop.to_dict()
    with claimed(folder):
        assert (status(folder).state, status(folder).stop) == ("running", None)
    search(task, folder, asynchronous=asynchronous)
    assert (status(folder).state, status(folder).stop) == ("finished", None)


def test_a_search_that_was_stopped_before_its_limit(task: evo.Task, folder: Path) -> None:
    search(task, folder, max_evaluations=10)
    assert status(folder).stop is not None
    with pytest.raises(KeyboardInterrupt):  # in the second generation, of twelve individuals
        search(task, folder, max_evaluations=24, callbacks=[interrupt_at(10)])
    found = status(folder)
    assert (found.state, found.generation, found.stop) == ("stopped", 1, None)
    assert 10 <= found.evaluated < 24


def test_a_search_that_has_finished_is_nobodys_any_more(run: evo.Run) -> None:
    with claimed(run.folder):
        found = status(run.folder)
    assert (found.state, found.claim, found.per_minute, found.seconds_left) == ("finished", None, None, None)


def test_the_speed_is_that_of_the_last_minutes(run: evo.Run) -> None:
    forget(run.folder, 3)
    now = datetime.now(UTC)
    with opened(run.folder) as database:
        for row in run.history.index:  # the last 50 one per second, the others long ago
            age = timedelta(seconds=row) if row < 50 else timedelta(minutes=10 + row)
            database.execute("UPDATE evaluations SET finished = ? WHERE id = ?", (f"{now - age:%FT%T.000Z}", row))
    with claimed(run.folder):
        claim = json.loads((run.folder / LOCK).read_text())
        began = (now - timedelta(hours=1)).timestamp()
        (run.folder / LOCK).write_text(json.dumps(claim | {"since": began}))
        found = status(run.folder)
        assert (found.state, found.claim) == ("running", claim_on(run.folder))
        assert found.per_minute is not None
        assert found.expected is not None
        fresh = (~run.history["cached"].iloc[:50]).sum()
        assert found.per_minute == pytest.approx(60 * fresh / RECENT.total_seconds())
        left = (found.expected - found.individuals) * RECENT.total_seconds() / 50
        assert found.seconds_left == pytest.approx(left)

        (run.folder / LOCK).write_text(json.dumps(claim | {"since": now.timestamp() - 20}))
        found = status(run.folder)
        assert found.per_minute == pytest.approx(60 * (~run.history["cached"].iloc[:20]).sum() / 20, rel=0.2)


def test_how_many_individuals_there_will_be(run: evo.Run) -> None:
    forget(run.folder, 3)
    asked = run.generations["asked"]
    expected = asked.sum() + 3 * asked.iloc[1:].mean()
    assert status(run.folder).expected == pytest.approx(max(expected, len(run.history)), abs=1)
    forget(run.folder, 99)
    assert status(run.folder).expected is None


def test_looking_writes_nothing(run: evo.Run) -> None:
    run.close()
    before = {path.name: path.read_bytes() for path in run.folder.iterdir()}
    assert set(before) == {"run.toml", "history.sqlite", "base.safetensors", LOCK}
    status(run.folder)
    assert {path.name: path.read_bytes() for path in run.folder.iterdir()} == before


def test_what_it_cannot_tell_is_one_sentence(run: evo.Run, tmp_path: Path) -> None:
    def refusal(folder: Path) -> str:
        with pytest.raises(RunFolderError) as error:
            status(folder)
        assert "\n" not in str(error.value)
        return str(error.value)

    assert refusal(tmp_path / "none") == f"{tmp_path / 'none'}: not a run folder, it has no run.toml"
    with claimed(tmp_path / "new"):
        assert refusal(tmp_path / "new").startswith(f"{tmp_path / 'new'}: the search begins at this moment (process ")
    (tmp_path / "none.training").write_text("")
    assert "the search has not begun; the network is, or was, being trained" in refusal(tmp_path / "none")
    settings = (run.folder / "run.toml").read_text()
    (run.folder / "run.toml").write_text(settings.replace("rounds", "turns"))
    assert "damaged, it lacks what a search writes down first (KeyError('rounds'))" in refusal(run.folder)
    (run.folder / "run.toml").write_text(settings)
    with opened(run.folder) as database:
        database.execute("UPDATE meta SET value = '1' WHERE name = 'format'")
    assert "history format 1, this version of evo reads" in refusal(run.folder)
    (run.folder / "history.sqlite").write_bytes(b"no" * 5000)
    assert "history.sqlite: damaged, or not a history of evo" in refusal(run.folder)
    (run.folder / "history.sqlite").unlink()
    assert "there is no history here" in refusal(run.folder)


def test_looking_never_keeps_a_search_from_its_folder(folder: Path) -> None:
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            claim_on(folder)

    watchers = [threading.Thread(target=look) for _ in range(4)]
    for watcher in watchers:
        watcher.start()
    try:
        for _ in range(200):
            with claimed(folder):
                found = claim_on(folder)
            assert found is not None
    finally:
        done.set()
        for watcher in watchers:
            watcher.join()
    assert claim_on(folder) is None


def test_a_second_search_is_told_who_has_the_folder(folder: Path) -> None:
    second = claimed(folder)
    with claimed(folder), pytest.raises(RunFolderError, match=r"another search is writing here \(process \d+ on "):
        second.__enter__()
    with claimed(folder):
        pass
