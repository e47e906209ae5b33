"""What one run has measured, the next takes over."""

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
from evo.history import MEASUREMENTS
from evo.reuse import identity
from evo.task import Task

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


def lasting(run: evo.Run) -> pd.DataFrame:
    return run.history.drop(columns=list(MEASUREMENTS))


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

    fitness = evo.fitness(maximize="score")(judge)
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


def test_the_forward_pass_is_part_of_a_networks_identity() -> None:
    programs = set()
    for activation in (nn.ReLU(), nn.GELU(), nn.LeakyReLU(0.1), nn.LeakyReLU(0.2)):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(1, 4, 3), activation, nn.Flatten(), nn.Linear(144, 10))
        x = np.zeros((10, 1, 8, 8), dtype=np.float32)
        task = Task(model, (x, np.arange(10)), (x, np.arange(10)))
        programs.add(identity({"task": task.describe(), "fitness": {}, "seed": 0, "threads": 1}, task, QUICK))
    assert len(programs) == 4
