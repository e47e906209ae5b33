"""Searches that are killed, interrupted and continued in real processes."""

import os
import random
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.integration import search_digits
from tests.integration.driver import Driver

Start = Callable[..., "subprocess.Popen[str]"]
Rows = Callable[[Path], list[dict[str, Any]]]


def wait_until(
    true: Callable[[], object], process: "subprocess.Popen[str] | None" = None, seconds: float = 120
) -> None:
    end = time.monotonic() + seconds
    while not true():
        if process is not None and process.poll() is not None:
            pytest.fail(f"the process ended too early: {process.communicate()[0]}")
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def count(folder: Path) -> int:
    """Return how many rows the history holds by now."""
    if not (folder / "run.toml").exists():
        return 0
    with closing(sqlite3.connect(folder / "history.sqlite", timeout=30)) as database:
        return int(database.execute("SELECT count(*) FROM evaluations").fetchone()[0])


def workers(parent: int) -> list[int]:
    """Return the worker processes that were started by `parent`."""
    table = subprocess.run(["ps", "-eo", "pid=,args="], capture_output=True, text=True, check=True).stdout
    return [int(line.split()[0]) for line in table.splitlines() if f"evo.evaluation.process {parent} " in line]


def kill(process: "subprocess.Popen[str]") -> None:
    """Kill a search without warning, and see its workers go."""
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait(timeout=30) == -signal.SIGKILL
    wait_until(lambda: not workers(process.pid), seconds=30)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the searches here fill when nothing happens to them; made by the first that needs it."""
    return tmp_path_factory.mktemp("undisturbed") / "run"


@pytest.fixture
def expected(undisturbed: Path, rows: Rows) -> list[dict[str, Any]]:
    if not undisturbed.exists():
        search_digits.main(str(undisturbed), "local:0")
    return rows(undisturbed)


def test_other_hash_seed_and_more_workers(
    folder: Path, finish: Callable[..., str], rows: Rows, expected: list[dict[str, Any]]
) -> None:
    other = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    assert finish(folder, "local:2", PYTHONHASHSEED=other) == ""
    assert rows(folder) == expected
    assert {row["generation"] for row in expected} == {0, 1, 2}
    assert {row["status"] for row in expected} == {"ok"}


@pytest.mark.slow
def test_killed_again_and_again(
    folder: Path, start: Start, finish: Callable[..., str], rows: Rows, expected: list[dict[str, Any]]
) -> None:
    moments: list[Callable[[], object]] = [
        (folder / "history.sqlite").exists,
        lambda: count(folder) >= 3,
        lambda: count(folder) >= 12,
    ]
    for moment in moments:
        process = start(folder, "local:2")
        wait_until(moment, process)
        kill(process)
    assert 12 <= count(folder) < len(expected)
    finish(folder, "local:1")
    assert rows(folder) == expected


def test_interrupt(folder: Path, start: Start, rows: Rows, expected: list[dict[str, Any]]) -> None:
    process = start(folder, "local:2")
    wait_until(lambda: count(folder) >= 5, process)
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=10)
    assert process.returncode == -signal.SIGINT
    assert output.strip().endswith("KeyboardInterrupt")
    assert not workers(process.pid)
    assert 5 <= count(folder) < len(expected)
    search_digits.main(str(folder), "local:0")
    assert rows(folder) == expected


def test_stuck_workers_die_with_the_search(folder: Path, tmp_path: Path, start: Start) -> None:
    marks = tmp_path / "marks"
    marks.mkdir()
    process = start(folder, "local:2", "stuck", MARKS=str(marks))
    wait_until(lambda: len(list(marks.iterdir())) == 2, process)
    time.sleep(0.5)  # most likely they have left Python for good by now
    assert {int(mark.name) for mark in marks.iterdir()} == set(workers(process.pid))
    kill(process)


KILLS = 20


def all_columns(folder: Path) -> dict[int, tuple[Any, ...]]:
    """Return every row that is on disk, measurements included."""
    if not (folder / "run.toml").exists():
        return {}
    with closing(sqlite3.connect(folder / "history.sqlite", timeout=30)) as database:
        assert database.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
        return {row[0]: row for row in database.execute("SELECT * FROM evaluations")}


def wait_for_a_moment(folder: Path, count_before: int, more: int, chance: random.Random, driver: Driver) -> None:
    """Wait for `more` rows, then for a random time or for the next write to the log, to be in the middle of that."""
    while driver.runs() and count(folder) < count_before + more:
        time.sleep(0.001)
    log = folder / "history.sqlite-wal"
    if chance.random() < 0.5 or not log.exists():
        time.sleep(chance.uniform(0, 0.05))
        return
    before = log.stat()
    while driver.runs() and (log.stat().st_size, log.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns):
        pass


@pytest.mark.parametrize("algorithm", ["long", "long asynchronous"])
def test_killed_at_twenty_random_moments(algorithm: str, tmp_path: Path, rows: Rows) -> None:
    whole, killed = tmp_path / "a" / "whole", tmp_path / "b" / "killed"
    Driver(whole, algorithm).finish()
    expected = rows(whole)
    chance = random.Random(algorithm)
    known: dict[int, tuple[Any, ...]] = {}
    for _ in range(KILLS):
        driver = Driver(killed, algorithm)
        wait_for_a_moment(killed, len(known), chance.randrange(1, len(expected) // (2 * KILLS)), chance, driver)
        assert driver.runs(), "it was faster than the kills"
        driver.kill()
        found = all_columns(killed)
        assert found | known == found, "what was written stays as it was"
        known = found
    assert len(known) < len(expected)
    Driver(killed, algorithm).finish()
    assert rows(killed) == expected
    found = all_columns(killed)
    assert found | known == found


def test_an_asynchronous_search_on_workers_goes_on_in_the_order_recorded(folder: Path, rows: Rows) -> None:
    driver = Driver(folder, "medium asynchronous", "local:2")
    wait_until(lambda: count(folder) >= 100 or not driver.runs())
    driver.kill()
    wait_until(lambda: not workers(driver.pid), seconds=30)
    before = all_columns(folder)
    Driver(folder, "medium asynchronous").finish()  # which does not evaluate two at once
    after = all_columns(folder)
    assert after | before == after

    recorded = sorted(rows(folder), key=lambda row: int(row["turn"]))
    assert [row["turn"] for row in recorded] == list(range(len(after)))
    assert [row["id"] for row in recorded] != sorted(after), "two workers never overtook each other"
    asked = [row["asked"] for row in recorded]
    assert asked == sorted(asked)
    with closing(sqlite3.connect(folder / "history.sqlite")) as database, database:
        database.execute("DELETE FROM generations")
        database.execute("DELETE FROM meta WHERE name = 'state'")
    Driver(
        folder, "medium asynchronous"
    ).finish()  # proposes all of them again, in that order; another one would be refused
    assert all_columns(folder) == after


@pytest.mark.slow
def test_interrupt_on_ray(
    folder: Path, start: Start, finish: Callable[..., str], rows: Rows, expected: list[dict[str, Any]]
) -> None:
    process = start(folder, "ray")
    wait_until(lambda: count(folder) >= 5, process)
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=30)
    assert output.strip().endswith("KeyboardInterrupt")
    finish(folder, "ray")
    assert rows(folder) == expected
