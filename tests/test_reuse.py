"""What one run has measured, the next takes over."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import evo
from evo import reuse
from evo.callbacks import Progress
from evo.evaluation import local
from evo.reuse import identity
from evo.task import Task
from tests.interruptions import Watch, lasting

QUICK = evo.SubsetFineTune(images=20, batch_size=10)


def search(task: Task, folder: Path, **changes: Any) -> evo.Run:
    arguments: dict[str, Any] = {
        "encoding": evo.FilterBits(),
        "fitness": QUICK,
        "algorithm": evo.ECS(generations=3, population=6),
        "evaluator": evo.LocalEvaluator(workers=0),
        "out": folder,
    }
    return evo.search(task, **{**arguments, **changes})


def test_a_second_search_measures_only_what_is_new(task: Task, tmp_path: Path) -> None:
    first = search(task, tmp_path / "first")
    assert (first.history["reused"] == "").all()
    longer = evo.ECS(generations=4, population=6)
    second = search(task, tmp_path / "second", algorithm=longer)
    history = second.history
    assert lasting(second)[: len(first.history)].equals(lasting(first))
    known = set(first.history["key"])
    reused = history[history["reused"] != ""]
    assert set(reused["reused"]) == {"first"}
    assert set(reused["key"]) == known & set(history["key"])
    assert not reused["cached"].any()
    measured = history[(history["reused"] == "") & ~history["cached"]]
    assert not known & set(measured["key"])
    again = search(task, tmp_path / "without", algorithm=longer, reuse=False)
    assert (again.history["reused"] == "").all()
    pd.testing.assert_frame_equal(lasting(second), lasting(again), check_exact=True)
    pd.testing.assert_frame_equal(second.generations, again.generations, check_exact=True)
    third = search(task, tmp_path / "third", algorithm=longer)
    assert third.history["reused"].isin(["first", "second", "without", ""]).all()
    assert ((third.history["reused"] != "") | third.history["cached"]).all(), "nothing is measured a third time"


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"fitness": evo.SubsetFineTune(images=21, batch_size=10)}, {"reuse": False}], ids=str
)
def test_another_judgement_is_not_taken_over(task: Task, tmp_path: Path, change: dict[str, Any]) -> None:
    search(task, tmp_path / "first", max_evaluations=6)
    other = search(task, tmp_path / "second", max_evaluations=6, **change)
    assert (other.history["reused"] == "").all()


def test_a_run_whose_code_has_changed_in_between_is_not_trusted(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search(task, tmp_path / "first", max_evaluations=6)
    with monkeypatch.context() as patch:
        patch.setattr(reuse, "digest_of_evo", lambda: "another version of evo")
        search(task, tmp_path / "first", max_evaluations=12)
    other = search(task, tmp_path / "second", max_evaluations=6)
    assert (other.history["reused"] == "").all()


def test_failures_are_tried_again_and_damaged_runs_passed_over(task: Task, tmp_path: Path) -> None:
    marker = tmp_path / "broken"

    def judge(candidate: evo.Candidate) -> Mapping[str, float]:
        if marker.exists() and candidate.costs["params"] % 2:
            raise OSError("no such data")
        return {"score": 1.0 / candidate.costs["params"]}

    fitness = evo.fitness(maximize="score", version="1")(judge)
    marker.touch()
    evaluator = evo.LocalEvaluator(workers=0, retries=0)
    first = search(task, tmp_path / "first", fitness=fitness, evaluator=evaluator, max_evaluations=6)
    failed = set(first.history.loc[first.history["status"] != "ok", "key"])
    assert 0 < len(failed) < 6
    marker.unlink()
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "run.toml").write_text((tmp_path / "first" / "run.toml").read_text())
    (damaged / "history.sqlite").write_bytes(b"nothing" * 1000)
    second = search(task, tmp_path / "second", fitness=fitness, evaluator=evaluator, max_evaluations=6).history
    assert (second["status"] == "ok").all()
    assert set(second.loc[second["reused"] == "", "key"]) == failed


def test_what_an_evaluation_depends_on_is_in_its_identity(task: Task) -> None:
    settings = {"task": task.describe(), "fitness": QUICK.describe(), "seed": 0, "threads": 1}
    plain = identity(settings, task, QUICK)
    assert len(plain) == 32
    assert identity(settings, task, QUICK) == plain
    assert identity({**settings, "threads": 2}, task, QUICK) != plain
    assert identity(settings, task, evo.WithLatency(QUICK)) == "", "a latency is of a machine at a moment"


def test_what_a_network_does_is_part_of_its_identity() -> None:
    class Noisy(nn.Module):
        def __init__(self, size: float) -> None:
            super().__init__()
            self.size = size

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.size * torch.randn_like(x) if self.training else x

    middles = [nn.ReLU(), nn.GELU(), nn.LeakyReLU(0.1), nn.LeakyReLU(0.2), nn.Dropout(0.1), nn.Dropout(0.9)]
    middles += [nn.Identity(), Noisy(0.1), Noisy(0.2)]
    found = set()
    for middle in [*middles, nn.ReLU()]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(1, 4, 3), middle, nn.Flatten(), nn.Linear(144, 10))
        x = np.zeros((10, 1, 8, 8), dtype=np.float32)
        task = Task(model, (x, np.arange(10)), (x, np.arange(10)))
        found.add(identity({"task": task.describe(), "fitness": {}, "seed": 0, "threads": 1}, task, QUICK))
    assert len(found) == len(middles)
    model[0].weight.requires_grad_(False)
    frozen = Task(model, (x, np.arange(10)), (x, np.arange(10)))
    assert frozen.network.program != task.network.program


def half(candidate: evo.Candidate) -> Mapping[str, float]:
    return {"score": 0.5}


def test_ones_own_fitness_takes_part_if_it_has_a_version(task: Task, tmp_path: Path) -> None:
    def reused(name: str, version: str | None) -> bool:
        fitness = evo.fitness(maximize="score", version=version)(half)
        run = search(task, tmp_path / name, fitness=fitness, max_evaluations=6)
        return bool((run.history["reused"] != "").any())

    assert not reused("a", None)
    assert not reused("b", None)
    assert not reused("c", "1")
    assert reused("d", "1")
    assert not reused("e", "2")

    class Quicker(evo.SubsetFineTune):
        """Code of one's own under the settings of evo's."""

    settings = {"task": task.describe(), "fitness": {}, "seed": 0, "threads": 1}
    assert identity(settings, task, Quicker()) == ""
    assert identity(settings, task, QUICK) != ""


@pytest.mark.parametrize("change", ["continued by other code", "made anew by another fitness"])
def test_a_peer_that_changes_while_it_is_known_is_dropped(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    first = search(task, tmp_path / "first", max_evaluations=6)
    peers = reuse.Peers(tmp_path / "second", identity(first.settings, task, QUICK))
    keys = first.history["key"].tolist()
    assert set(peers.find(keys)) == set(keys)
    first.close()
    if change == "continued by other code":
        with monkeypatch.context() as patch:
            patch.setattr(reuse, "digest_of_evo", lambda: "another version of evo")
            search(task, tmp_path / "first", max_evaluations=12)
    else:
        shutil.rmtree(tmp_path / "first")
        search(task, tmp_path / "first", fitness=evo.SubsetFineTune(images=21, batch_size=10), max_evaluations=6)
    assert peers.find(keys) == {}
    peers.close()


def test_a_finished_search_that_is_called_again_stays_a_peer(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search(task, tmp_path / "first")
    with monkeypatch.context() as patch:
        patch.setattr(reuse, "digest_of_evo", lambda: "another version of evo")
        search(task, tmp_path / "first")
    assert (search(task, tmp_path / "second").history["reused"] == "first").any()


@pytest.mark.parametrize("kind", [evo.ECS, evo.FGA, evo.NSGA2])
def test_asynchronous_and_interrupted_it_comes_to_the_same(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[evo.ECS]
) -> None:
    monkeypatch.setattr(local, "BATCH_SECONDS", 0.0)
    algorithm = kind(generations=3, population=6, asynchronous=True)
    expected = search(task, tmp_path / "without" / "run", algorithm=algorithm, reuse=False)
    search(task, tmp_path / "first", max_evaluations=6)

    def interrupt(progress: Progress) -> None:
        if progress.evaluated > 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search(task, tmp_path / "second", algorithm=algorithm, callbacks=[Watch(interrupt)])
    again = search(task, tmp_path / "second", algorithm=algorithm)
    assert (again.history["reused"] != "").any()
    pd.testing.assert_frame_equal(lasting(again), lasting(expected), check_exact=True)
