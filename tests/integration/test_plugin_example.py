"""examples/plugin, installed into a folder of its own: listed, searched with, and kept to its contracts."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import evo
from evo.cli.app import main
from evo.run import read_settings

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "plugin"
NAMES = {"hill_climbing": "evo.algorithms", "agreement": "evo.fitness", "geometric_median": "evo.importance"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the installed package and nothing else."""
    folder = tmp_path_factory.mktemp("plugin")
    source = shutil.copytree(EXAMPLE, folder / "source", ignore=shutil.ignore_patterns("*.egg-info", "build"))
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    command += ["--disable-pip-version-check", "--target", str(folder / "site"), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return folder / "site"


@pytest.fixture
def installed(site: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """It can be imported, here and by workers."""
    monkeypatch.syspath_prepend(site)
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "evo_hill"]:
        del sys.modules[name]


def run(*arguments: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert not ended.value.code


@pytest.mark.usefixtures("installed")
def test_it_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    run("plugins", "--json")
    parts = [part for part in json.loads(capsys.readouterr().out) if part["package"] == "evo-hill 1.0.0"]
    assert {part["name"]: part["group"] for part in parts} == NAMES
    assert {part["state"] for part in parts} == {"ok"}
    assert all(part["about"] for part in parts)


@pytest.mark.usefixtures("installed")
def test_its_names_make_a_search_that_workers_do_and_that_can_be_continued(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    small = ["task.train.epochs=0.2", "algorithm.steps=3", "algorithm.children=3", "fitness.images=50"]
    local = ["evaluator.workers=2", "max_evaluations=4"]
    settings = [argument for setting in small + local for argument in ("--set", setting)]
    run("search", str(EXAMPLE / "run.toml"), "--out", str(folder), *settings)
    assert "stopped after generation 1 of 3" in capsys.readouterr().out
    run("resume", str(folder), "--set", "max_evaluations=100", "--set", "evaluator.workers=0")
    found = evo.Run(folder)
    assert list(found.history["generation"]) == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert set(found.history["status"]) == {"ok"}
    by_workers = found.history.query("not cached")["worker"] != os.getpid()
    assert by_workers[:3].all()
    assert not by_workers[3:].any()
    recorded = read_settings(folder)
    assert recorded["algorithm"]["name"] == "evo_hill.algorithm:HillClimbing"
    assert recorded["encoding"]["select"] == "geometric_median"
    best = found.best
    assert best["score"] == pytest.approx(1 - best["disagreement"] + 0.3 * (1 - best["params"] / 431_080), abs=1e-3)


@pytest.mark.slow
def test_its_own_tests_pass(site: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(EXAMPLE)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), str(ROOT)]), "OMP_NUM_THREADS": "1"}
    command += ["-c", os.devnull, "-W", "error", str(EXAMPLE / "tests")]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout
    assert " failed" not in done.stdout
