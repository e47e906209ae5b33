"""Run folders that are damaged, foreign or in use: refused in one sentence, and left as they are."""

import os
import re
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import evo
from evo.errors import RunFolderError, SettingsError

Start = Callable[..., "subprocess.Popen[str]"]


@evo.fitness(maximize="score")
def small(candidate: evo.Candidate) -> dict[str, float]:
    return {"score": 1 / candidate.costs["params"]}


@evo.fitness(maximize="score")
def smaller(candidate: evo.Candidate) -> dict[str, float]:
    return {"score": 2 / candidate.costs["params"]}


def search(task: evo.Task, folder: Path, **changed: Any) -> evo.Run:
    parts: dict[str, Any] = {
        "encoding": evo.FilterBits(),
        "fitness": small,
        "algorithm": evo.RandomSearch(evaluations=40, batch=10),
        "evaluator": evo.LocalEvaluator(workers=0),
        "reuse": False,
    }
    return evo.search(task, out=folder, **(parts | changed))


@pytest.fixture(scope="module")
def finished(digits_task: evo.Task, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; read only."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    search(digits_task, folder).close()
    return folder


@pytest.fixture
def run(finished: Path, folder: Path) -> Path:
    """A copy of it to spoil."""
    return Path(shutil.copytree(finished, folder))


def content(folder: Path) -> dict[str, bytes]:
    """Return every file but the lock."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


def truncate(path: Path, size: int) -> None:
    os.truncate(path, size)


def overwrite(path: Path, start: int, count: int) -> None:
    with path.open("r+b") as file:
        file.seek(start)
        file.write(os.urandom(count))


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "half a history": (
        lambda run: truncate(run / "history.sqlite", (run / "history.sqlite").stat().st_size // 2),
        "history.sqlite: damaged",
    ),
    "no bytes in the history": (lambda run: truncate(run / "history.sqlite", 0), "history.sqlite: damaged"),
    "a header and nothing else": (lambda run: truncate(run / "history.sqlite", 100), "history.sqlite: damaged"),
    "random history": (lambda run: (run / "history.sqlite").write_bytes(os.urandom(50_000)), "history.sqlite: damaged"),
    "random pages": (lambda run: overwrite(run / "history.sqlite", 8192, 8192), "history.sqlite: damaged"),
    "no history": (lambda run: (run / "history.sqlite").unlink(), "there is no history here"),
    "no TOML": (lambda run: (run / "run.toml").write_text("seed = = 1"), "run.toml: damaged"),
    "no text": (lambda run: (run / "run.toml").write_bytes(b"\xff\xfe\x00"), "run.toml: damaged"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage(damage: str, run: Path, digits_task: evo.Task) -> None:
    spoil, message = DAMAGE[damage]
    spoil(run)
    before = content(run)
    openings: list[Callable[[], evo.Run]] = [lambda: search(digits_task, run), lambda: evo.Run(run)]
    for opening in openings:
        with pytest.raises(RunFolderError, match=message) as refusal:
            opening()
        assert str(run) in str(refusal.value)
        assert "\n" not in str(refusal.value)
    assert content(run) == before


def test_no_settings(run: Path, digits_task: evo.Task) -> None:
    (run / "run.toml").unlink()
    before = content(run)
    with pytest.raises(RunFolderError, match=r"holds a history without run\.toml; choose another folder"):
        search(digits_task, run)
    with pytest.raises(RunFolderError, match=r"not a run folder, it has no run\.toml"):
        evo.Run(run)
    assert content(run) == before


def test_somebody_elses_database(folder: Path, digits_task: evo.Task) -> None:
    folder.mkdir()
    with closing(sqlite3.connect(folder / "history.sqlite")) as database:
        database.execute("CREATE TABLE browsing (page TEXT)")
    before = content(folder)
    with pytest.raises(RunFolderError, match="not a history of evo"):
        search(digits_task, folder)
    assert content(folder) == before


@pytest.mark.parametrize(
    ("name", "message"),
    [("history.sqlite", "cannot be opened"), ("history.sqlite-wal", r"cannot be (opened|replaced|written)")],
)
def test_a_folder_in_the_place_of_a_file(name: str, message: str, folder: Path, digits_task: evo.Task) -> None:
    (folder / name / "kept").mkdir(parents=True)
    with pytest.raises(RunFolderError, match=message) as refusal:
        search(digits_task, folder)
    assert "\n" not in str(refusal.value)
    assert (folder / name / "kept").is_dir()


@pytest.mark.parametrize(
    ("changed", "difference"),
    [
        ({"seed": 3}, "seed was 0, is now 3"),
        ({"encoding": evo.FilterBits(min_filters=2)}, "encoding.min_filters was 1, is now 2"),
        ({"algorithm": evo.RandomSearch(evaluations=50, batch=10)}, "algorithm.evaluations was 40, is now 50"),
        ({"algorithm": evo.ECS()}, r"algorithm\.\w+ was .*, is now"),
        ({"fitness": smaller}, "fitness.name was '.*small', is now '.*smaller'"),
        ({"evaluator": evo.LocalEvaluator(workers=0, threads=2)}, "threads was 1, is now 2"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_other_settings(changed: dict[str, Any], difference: str, run: Path, digits_task: evo.Task) -> None:
    before = content(run)
    with pytest.raises(RunFolderError, match=rf"belongs to another search \({difference}"):
        search(digits_task, run, **changed)
    assert content(run) == before


def test_other_task(run: Path, task: evo.Task) -> None:
    before = content(run)
    with pytest.raises(RunFolderError, match=r"belongs to another search \(task\.network was '"):
        search(task, run)
    assert content(run) == before


def test_finished_run_is_returned(run: Path, digits_task: evo.Task) -> None:
    before = evo.Run(run).history
    found = search(digits_task, run)
    assert found.history.equals(before)
    assert found.generations["evaluated"].sum() == (~before["cached"]).sum()


def test_killed_while_setting_up(folder: Path, digits_task: evo.Task, finished: Path) -> None:
    """A search that dies before run.toml is there leaves nothing that is in the way of the next, whichever that is."""
    with pytest.raises(SettingsError):  # which leaves an empty history
        search(digits_task, folder, fitness=evo.SubsetFineTune(images=50, epochs=0), max_evaluations=1)
    (folder / "run.toml").unlink()
    found = search(digits_task, folder)
    with_settings = evo.Run(finished)
    columns = ["key", "score", "status"]
    assert found.history[columns].equals(with_settings.history[columns])


def test_nothing_is_executed(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names in a run folder stay names."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "payload.py").write_text("open('ran', 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    settings = (run / "run.toml").read_text().replace('"FilterBits"', '"payload:attack"')
    settings = settings.replace('"filter_bits"', '"payload:attack"')
    source = 'source = {task = "os:system", model = "payload:attack", argument = "touch ran"}\n'
    (run / "run.toml").write_text(source + settings)
    assert "payload:attack" in settings
    opened = evo.Run(run)
    assert opened.settings["source"]["task"] == "os:system"
    assert len(opened.history) == 40
    assert len(opened.pareto()) > 0
    assert not (tmp_path / "ran").exists()


def test_two_searches_at_once(folder: Path, tmp_path: Path, start: Start, digits_task: evo.Task) -> None:
    first = start(folder, "local:0", "stuck", MARKS=str(tmp_path))
    while not (folder / "run.toml").exists():
        assert first.poll() is None, first.communicate()[0]
        time.sleep(0.05)
    said, _ = start(folder, "local:0", "stuck", MARKS=str(tmp_path)).communicate()
    assert re.search(rf"another search is writing here \(process {first.pid} on .+\); wait for it", said)
    first.kill()
    first.communicate()
    with pytest.raises(RunFolderError, match="belongs to another search"):
        search(digits_task, folder)


def test_folder_that_cannot_be(tmp_path: Path, digits_task: evo.Task) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        RunFolderError, match=r"cannot be written \(Not a directory\)|cannot be written \(File exists\)"
    ):
        search(digits_task, tmp_path / "file" / "run")
