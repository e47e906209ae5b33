"""Networks as files."""

import importlib.util
from pathlib import Path

import pytest
import torch

import evo
from evo.errors import EvoError, NetworkError, SettingsError
from evo.export import export, same_task
from evo.network.checkpoint import describe
from evo.network.formats import ONNX_PACKAGES
from evo.training import Recipe

MISSING = [name for name in ONNX_PACKAGES if importlib.util.find_spec(name) is None]


@pytest.fixture(scope="module")
def run(digits_task: evo.Task, tmp_path_factory: pytest.TempPathFactory) -> evo.Run:
    return evo.search(
        digits_task,
        encoding=evo.FilterBits(),
        fitness=evo.SubsetFineTune(epochs=0),
        algorithm=evo.RandomSearch(evaluations=3),
        evaluator=evo.LocalEvaluator(workers=0),
        out=tmp_path_factory.mktemp("run"),
    )


def test_costs_and_errors_are_those_of_the_network(run: evo.Run, digits_task: evo.Task, tmp_path: Path) -> None:
    made = export(run, digits_task, 1, tmp_path / "small.evo", finetuning=Recipe(epochs=1, batch_size=50))
    assert digits_task.test is not None
    assert made.costs["params"][1] == sum(parameter.numel() for parameter in made.model.parameters())
    assert made.costs["params"][0] > made.costs["params"][1]
    original = digits_task.network.build(digits_task.network.full)
    assert made.errors["test"] == (
        evo.error_rate(original, digits_task.test),
        evo.error_rate(made.model, digits_task.test),
    )
    assert made.errors["val"][1] == evo.error_rate(made.model, digits_task.val)
    loaded = evo.load(made.path, model=original)
    assert torch.equal(loaded(digits_task.val.x), made.model(digits_task.val.x))
    assert made.others == ()


def test_the_file_says_where_its_network_comes_from(run: evo.Run, digits_task: evo.Task, tmp_path: Path) -> None:
    made = export(run, digits_task, 2, tmp_path / "small.evo", finetuning=Recipe(epochs=0.5, batch_size=50))
    told = describe(made.path)
    provenance = told["provenance"]
    assert {name: len(entry["kept"]) for name, entry in told["kept"].items()} == run.blueprint(2).counts
    assert (provenance["run"], provenance["id"], provenance["seed"]) == (run.folder.name, 2, 0)
    assert provenance["original"] == digits_task.network.digest()
    assert provenance["objectives"] == {
        objective.name: run.history.loc[2, objective.name] for objective in run.objectives
    }
    assert provenance["finetuning"]["epochs"] == 0.5
    plain = describe(export(run, digits_task, 2, tmp_path / "plain.evo").path)
    assert "finetuning" not in plain["provenance"]


@pytest.mark.skipif(bool(MISSING), reason=f"not installed: {MISSING}")
def test_further_files(run: evo.Run, digits_task: evo.Task, tmp_path: Path) -> None:
    made = export(run, digits_task, 1, tmp_path / "small.evo", pt2=tmp_path / "small.pt2", onnx=tmp_path / "small.onnx")
    assert [sentence.split(": ")[0] for sentence in made.others] == [
        str(tmp_path / "small.pt2"),
        str(tmp_path / "small.onnx"),
    ]
    assert all("agrees with the network on batches of any size, 64 and others tried" in said for said in made.others)
    assert {entry.name for entry in tmp_path.iterdir()} == {"small.evo", "small.pt2", "small.onnx"}


def test_what_cannot_be_written_or_tuned(run: evo.Run, digits_task: evo.Task, tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match=r"is a folder, expected a file name$"):
        export(run, digits_task, 1, tmp_path)
    with pytest.raises(SettingsError, match=r"^fine-tuning: FloatingPointError: the training loss became"):
        export(run, digits_task, 1, tmp_path / "small.evo", finetuning=Recipe(lr=1e30, epochs=1, batch_size=50))
    with pytest.raises(SettingsError, match=r"files ending in \.pt2 only"):
        export(run, digits_task, 1, tmp_path / "small.evo", pt2=tmp_path / "small.pt")
    with pytest.raises(NetworkError, match=r"small\.pt2: is to be two files at once, give each its own name$"):
        export(run, digits_task, 1, tmp_path / "small.pt2", pt2=tmp_path / "small.pt2")
    assert not list(tmp_path.iterdir())


def test_another_task_is_noticed(run: evo.Run, digits_task: evo.Task, task: evo.Task) -> None:
    same_task(run, digits_task)
    with pytest.raises(EvoError, match=r"the network is not what it was when the search began$"):
        same_task(run, task)
    other = evo.Task(digits_task.network.build(digits_task.network.full), digits_task.train, digits_task.train)
    with pytest.raises(EvoError, match="the data set 'val' is not what it was"):
        same_task(run, other)
