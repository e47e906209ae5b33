"""Real processes and histories to compare."""

import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from evo.records import MEASUREMENTS
from tests.integration.shell import Shell

SCRIPT = Path(__file__).with_name("search_digits.py")

Rows = list[dict[str, Any]]
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shell]:
    """Run `evo` in this process, in an empty folder; imports leave nothing behind."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield Shell(capsys)
    sys.modules.pop("mine", None)


@pytest.fixture(scope="session")
def rows() -> Callable[[Path], Rows]:
    """Return everything that a run folder's history holds, except what differs between equal searches."""

    def read(folder: Path) -> Rows:
        with closing(sqlite3.connect(folder / "history.sqlite")) as database:
            database.row_factory = sqlite3.Row
            assert database.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
            records = [dict(record) for record in database.execute("SELECT * FROM evaluations ORDER BY id")]
        return [{name: value for name, value in record.items() if name not in MEASUREMENTS} for record in records]

    return read


@pytest.fixture
def start() -> Iterator[Start]:
    """Start `search_digits.py` in a process group of its own; what is left of it dies with the test."""
    processes: list[subprocess.Popen[str]] = []

    def run(*arguments: object, script: Path = SCRIPT, **environment: str) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, str(script), *map(str, arguments)],
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        processes.append(process)
        return process

    yield run
    for process in processes:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


@pytest.fixture
def finish(start: Start) -> Callable[..., str]:
    """Run `search_digits.py` to its end and return what it printed."""

    def run(*arguments: object, **environment: str) -> str:
        process = start(*arguments, **environment)
        output, _ = process.communicate(timeout=200)
        assert process.returncode == 0, output
        return output

    return run
