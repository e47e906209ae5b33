"""A real disk without room, at every stage of a search."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import evo
from tests.integration import fill_disk

PRIVATE = ["unshare", "--map-root-user", "--mount"]

pytestmark = pytest.mark.skipif(
    shutil.which("unshare") is None or subprocess.run([*PRIVATE, "true"], capture_output=True).returncode != 0,
    reason="needs Linux namespaces, to mount a disk that nobody else sees",
)


def fill(place: Path, sizes: list[int]) -> list[dict[str, list[object]]]:
    """Return what fill_disk.py found."""
    place.mkdir()
    command = [*PRIVATE, sys.executable, fill_disk.__file__, str(place), *map(str, sizes)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_full_disk_is_said_and_loses_nothing(tmp_path: Path, task: evo.Task) -> None:
    expected = fill_disk.search(task, tmp_path / "whole")
    place = tmp_path / "disk"
    for found in fill(place, [4, 20, 60, 84, 88, 92, 120, 160]):  # each cuts another write of the search short
        assert found["rows"] == expected
        for sentence in map(str, found["said"]):
            assert sentence.startswith(f"{place}/run")
            assert "cannot be written (" in sentence
            assert "free some space" in sentence
            assert "\n" not in sentence
