"""`evo status` beside a search that runs in another process, has ended, or was killed."""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from evo.folder import claimed
from evo.status import status
from tests.integration.driver import Driver
from tests.integration.shell import Shell

Rows = Callable[[Path], list[dict[str, Any]]]

READ_ONLY = ["unshare", "--map-root-user", "--mount", "sh", "-c"]


def wait_for_rows(folder: Path, driver: Driver) -> None:
    while not ((folder / "run.toml").exists() and status(folder).individuals):
        assert driver.runs()
        time.sleep(0.01)


def test_looking_all_the_time_changes_nothing(tmp_path: Path, shell: Shell, rows: Rows) -> None:
    folder, undisturbed = tmp_path / "a" / "run", tmp_path / "b" / "run"
    driver = Driver(folder, "medium")
    wait_for_rows(folder, driver)
    seen = [status(folder)]
    while seen[-1].generation < 10:
        seen.append(status(folder))
    watched = shell("status", folder, "--watch", "1", "--json")
    driver.finish()

    assert {one.state for one in seen} == {"running"}
    assert {one.claim.process for one in seen if one.claim} == {driver.pid}
    for before, after in pairwise(seen):
        assert before.individuals <= after.individuals
        assert before.generation <= after.generation
    assert seen[-1].seconds_left is not None
    lines = [json.loads(line) for line in watched.out.splitlines()]
    assert (lines[0]["state"], lines[-1]["state"], watched.status) == ("running", "finished", 0)
    assert lines[-1]["individuals"] == lines[-1]["expected"] == len(rows(folder))
    assert lines[-1]["reasons"][0]["reason"].startswith("ValueError: bad luck")
    Driver(undisturbed, "medium").finish()
    assert rows(folder) == rows(undisturbed)
    assert status(undisturbed).best == status(folder).best


@pytest.fixture
def killed(folder: Path) -> Path:
    """The folder of a search that was killed in the middle."""
    driver = Driver(folder, "medium")
    wait_for_rows(folder, driver)
    driver.kill()
    assert (folder / "history.sqlite-wal").stat().st_size > 0
    return folder


def test_a_killed_search_has_stopped(killed: Path, shell: Shell) -> None:
    found = shell("status", killed)
    assert (found.status, found.err) == (0, "")
    assert found.out.startswith(f"{killed}: stopped ")
    assert "to continue: run the program again that began it" in found.out
    assert "of 25 generations" in found.out


def test_looks_are_a_second_apart_at_least(killed: Path, shell: Shell) -> None:
    refused = shell("status", killed, "--watch", "0.5")
    assert (refused.status, refused.out) == (2, "")
    assert "--watch': Input should be greater than or equal to 1" in refused.err


def test_a_folder_may_be_read_only(killed: Path) -> None:
    if shutil.which("unshare") is None or subprocess.run([*READ_ONLY, "true"], capture_output=True).returncode:
        pytest.skip("needs Linux namespaces to make a folder read-only for root")
    command = (
        f'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && {sys.executable} -m evo.cli status "$1" --json'
    )
    seen = subprocess.run([*READ_ONLY, command, "-", str(killed)], capture_output=True, text=True, check=True)
    assert json.loads(seen.stdout)["individuals"] == status(killed).individuals


def test_one_leaves_the_display_by_ctrl_c(killed: Path) -> None:
    with claimed(killed):
        command = [sys.executable, "-m", "evo.cli", "status", str(killed), "--watch", "1"]
        watcher = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert watcher.stdout is not None
        assert watcher.stdout.readline().startswith(f"{killed}: running for ")
        watcher.send_signal(signal.SIGINT)
        _, err = watcher.communicate(timeout=20)
    assert (watcher.returncode, err) == (130, "")
