"""`evo` killed, interrupted and terminated: what is said, what is left behind, and that going on makes it whole.

What is to be stopped is a process of its own; what it is compared with, and what goes on, runs in this one.
"""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import chdir, suppress
from pathlib import Path
from typing import Any

import pytest

import evo
from tests.integration.shell import Shell

Start = Callable[..., "subprocess.Popen[str]"]
Rows = Callable[[Path], list[dict[str, Any]]]

DIGITS = Path(__file__).parents[2] / "examples" / "digits.toml"
OVERRIDES = [
    "task.model_args={conv1 = 4, conv2 = 6, fc1 = 12}",
    "task.train.epochs=1",
    "fitness.images=64",
    "fitness.epochs=1",
    "algorithm.generations=3",
    "algorithm.population=4",
]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start `evo` in the folder `place`, in a process group of its own; what is left of it dies with the test."""
    processes: list[subprocess.Popen[str]] = []

    def run(place: Path, *arguments: str) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, "-m", "evo.cli", *arguments],
            cwd=place,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )
        processes.append(process)
        return process

    yield run
    for process in processes:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def tiny(out: str, *overrides: str) -> list[str]:
    """Return the command for a tiny search of digits.toml."""
    changes = [part for override in [*OVERRIDES, *overrides] for part in ("--set", override)]
    return ["search", str(DIGITS), *changes, "--out", out]


def count(folder: Path) -> int:
    """Return how many individuals a folder holds already."""
    try:
        with sqlite3.connect(f"file:{folder / 'history.sqlite'}?mode=ro", uri=True) as database:
            return int(database.execute("SELECT count(*) FROM evaluations").fetchone()[0])
    except sqlite3.OperationalError:
        return 0


def wait_for(folder: Path, individuals: int, process: "subprocess.Popen[str]") -> None:
    """Wait until `process` has written that many."""
    deadline = time.monotonic() + 120
    while count(folder) < individuals:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_killed_search_resumes_bit_for_bit(tmp_path: Path, start: Start, shell: Shell, rows: Rows) -> None:
    longer = "algorithm.generations=8"
    killed = start(tmp_path, *tiny("killed", longer, "evaluator.workers=1"))
    wait_for(tmp_path / "killed", 6, killed)  # within the second generation
    killed.kill()
    killed.communicate()
    whole = shell(*tiny("whole", longer, "evaluator.workers=0"))
    assert (whole.status, whole.err) == (0, "")
    expected = rows(tmp_path / "whole")
    assert 6 <= count(tmp_path / "killed") < len(expected)
    resumed = shell("resume", "killed", "--set", "evaluator.workers=0")
    assert (resumed.status, resumed.err) == (0, "")
    assert "training the network" not in resumed.out
    assert rows(tmp_path / "killed") == expected


def descendants(process: int) -> set[int]:
    """Return all processes that were started by `process`, and by those."""
    table = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    parents = {int(pid): int(parent) for pid, parent in map(str.split, table.splitlines())}
    found = {process}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {process}


def alive(processes: set[int]) -> set[int]:
    """Return those that still run; not so what has ended and waits for its parent to notice."""
    table = subprocess.run(["ps", "-eo", "pid=,stat="], capture_output=True, text=True, check=True).stdout
    states = {int(pid): state for pid, state in map(str.split, table.splitlines())}
    return {process for process in processes if not states.get(process, "Z").startswith("Z")}


def stop(process: "subprocess.Popen[str]", number: signal.Signals, times: int) -> tuple[str, float]:
    """Send a signal to a process and all that it started, as a terminal does; return standard error, and seconds."""
    begun = time.monotonic()
    for _ in range(times):
        os.killpg(process.pid, number)
        time.sleep(0.2)
    _, err = process.communicate(timeout=60)
    return err, time.monotonic() - begun


@pytest.mark.parametrize(
    ("number", "times", "evaluator"),
    [
        pytest.param(signal.SIGINT, 3, "evaluator.workers=2", id="workers"),
        pytest.param(signal.SIGTERM, 3, "evaluator.workers=0", id="no workers"),
        pytest.param(signal.SIGINT, 3, "evaluator.name=ray", id="ray", marks=pytest.mark.slow),
        # Once: while Ray shuts down, SIGTERM is not ours to ignore.
        pytest.param(signal.SIGTERM, 1, "evaluator.name=ray", id="ray on a spot instance", marks=pytest.mark.slow),
    ],
)
def test_ctrl_c_and_sigterm_say_how_to_go_on_and_leave_nothing(
    number: signal.Signals, times: int, evaluator: str, tmp_path: Path, start: Start
) -> None:
    process = start(tmp_path, *tiny("run", "algorithm.generations=1000", evaluator))
    wait_for(tmp_path / "run", 2, process)
    started = descendants(process.pid)
    assert bool(started) == (evaluator != "evaluator.workers=0")
    err, seconds = stop(process, number, times)
    assert process.returncode == 128 + number
    assert err == "interrupted: finished evaluations are in run; to continue: evo resume run\n"
    assert seconds < 20, "a thousand generations are not waited for"
    deadline = time.monotonic() + 10
    while left := alive(started):
        assert time.monotonic() < deadline, left
        time.sleep(0.1)
    history = evo.Run(tmp_path / "run").history
    assert set(history["status"]) == {"ok"}  # the evaluation under way does not count as failed


SLOW = """
import time, evo
from evo.evaluation import Session

class Slow(evo.LocalEvaluator):
    def open(self, job):
        session = super().open(job)
        session.close = lambda: time.sleep(1000)
        return session
"""


@pytest.mark.slow
def test_a_release_of_workers_that_hangs_does_not_keep_the_program(tmp_path: Path, start: Start) -> None:
    (tmp_path / "slow.py").write_text(SLOW)
    process = start(
        tmp_path, *tiny("run", "algorithm.generations=1000", "evaluator.name=slow:Slow", "evaluator.workers=1")
    )
    wait_for(tmp_path / "run", 2, process)
    started = descendants(process.pid)
    err, seconds = stop(process, signal.SIGTERM, times=2)
    assert process.returncode == 128 + signal.SIGTERM
    assert err == "interrupted: finished evaluations are in run; to continue: evo resume run\n"
    assert seconds < 20, "a thousand seconds are not waited for"
    time.sleep(0.5)
    assert not alive(started)


def stop_in_epoch(epoch: int, process: "subprocess.Popen[str]", number: signal.Signals) -> str:
    """Send the signal when `process` has said what this epoch came to; return its standard error."""
    assert process.stdout is not None
    for line in process.stdout:
        if f"epoch {epoch} of " in line:
            process.send_signal(number)
            return process.communicate(timeout=60)[1]
    raise AssertionError(process.communicate())


def test_training_and_fine_tuning_go_on_where_they_were_stopped(tmp_path: Path, start: Start, shell: Shell) -> None:
    search = tiny("run", "task.train.epochs=4", "evaluator.workers=0", "algorithm.generations=1")
    err = stop_in_epoch(2, start(tmp_path, *search), signal.SIGINT)
    assert err == "interrupted: finished epochs are in run.training; the same command continues\n"
    found = shell(*search)
    assert (found.status, found.err) == (0, "")
    assert "training the network: epoch 1 of 4" not in found.out
    assert "training the network: epoch 4 of 4" in found.out
    assert [entry.name for entry in tmp_path.iterdir()] == ["run"]

    export = ("export", "run", "--out", "small.evo", "--finetune", "4")
    stop_in_epoch(2, start(tmp_path, *export), signal.SIGKILL)
    assert (tmp_path / "small.evo.training").exists()
    made = shell(*export)
    assert (made.status, made.err) == (0, "")
    assert "fine-tuning: epoch 2 of 4" not in made.out
    assert "fine-tuning: epoch 4 of 4" in made.out
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["run", "small.evo"]


def test_a_compression_killed_while_searching_and_while_fine_tuning_ends_the_same(
    tmp_path: Path, start: Start, shell: Shell
) -> None:
    settings = ["task.model=lenet", "task.data=digits", "algorithm.generations=8", "algorithm.population=4"]
    settings += [*OVERRIDES[:2], "evaluator.workers=0", "finetuning.epochs=6"]
    overrides = [part for setting in settings for part in ("--set", setting)]
    compress = ["compress", "--method", "fnp", "--gamma", "0.3", *overrides, "--out", "run"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for place in (whole, killed):
        place.mkdir()

    process = start(killed, *compress)
    wait_for(killed / "run", 6, process)
    process.kill()
    process.communicate()
    assert 6 <= count(killed / "run") < 9 * 4
    stop_in_epoch(2, start(killed, *compress), signal.SIGKILL)
    assert len(list((killed / "run").glob("tuned-*.evo.training"))) == 1
    for place in (whole, killed):
        with chdir(place):
            made = shell(*compress)
        assert (made.status, made.err) == (0, "")
    assert "fine-tuning: epoch 2 of 6" not in made.out
    files = [place / "run" / "small.evo" for place in (whole, killed)]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert not list((killed / "run").glob("*.training"))
