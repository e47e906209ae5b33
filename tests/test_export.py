"""Networks as files."""

import importlib.util
from pathlib import Path

import pytest
import torch

import evo
from evo.errors import EvoError, NetworkError, SettingsError
from evo.export import check_files, export, same_task, training_file
from evo.network.checkpoint import describe
from evo.network.formats import ONNX_PACKAGES
from evo.training import EpochReport, Recipe

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
    (tmp_path / "file").touch()
    with pytest.raises(NetworkError, match=r"file/new/small\.evo: cannot be written \(.*/file is not a folder\)$"):
        export(run, digits_task, 1, tmp_path / "file" / "new" / "small.evo")


def test_no_permission_is_noticed_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: path != tmp_path)  # root may do anything
    with pytest.raises(NetworkError, match=r"small\.evo: cannot be written \(no permission to write in "):
        check_files(tmp_path / "new" / "small.evo", None, None)


def test_an_interrupted_fine_tuning_goes_on(run: evo.Run, digits_task: evo.Task, tmp_path: Path) -> None:
    recipe = Recipe(epochs=3, batch_size=50)
    whole = export(run, digits_task, 1, tmp_path / "whole.evo", finetuning=recipe)

    def interrupt(report: EpochReport) -> None:
        if report.epoch == 2:
            raise KeyboardInterrupt

    out = tmp_path / "small.evo"
    with pytest.raises(KeyboardInterrupt):
        export(run, digits_task, 1, out, finetuning=recipe, on_epoch=interrupt)
    assert training_file(out).exists()
    assert not out.exists()
    with pytest.raises(
        NetworkError, match=r"^fine-tuning: .*small\.evo\.training: belongs to another training \(epochs"
    ):
        export(run, digits_task, 1, out, finetuning=Recipe(epochs=4, batch_size=50))
    with pytest.raises(NetworkError, match="it has other initial weights"):
        export(run, digits_task, 2, out, finetuning=recipe)
    export(run, digits_task, 2, tmp_path / "other.evo")
    epochs: list[int] = []
    made = export(run, digits_task, 1, out, finetuning=recipe, on_epoch=lambda report: epochs.append(report.epoch))
    assert epochs == [3]
    assert all(torch.equal(tensor, made.model.state_dict()[name]) for name, tensor in whole.model.state_dict().items())
    assert {entry.name for entry in tmp_path.iterdir()} == {"whole.evo", "other.evo", "small.evo"}


@pytest.mark.parametrize(
    ("out", "file"), [("run", "run.training"), ("a/b.evo", "a/b.evo.training"), (".", ".training")]
)
def test_a_training_is_kept_beside_what_it_is_for_or_in_the_present_folder(out: str, file: str) -> None:
    assert training_file(Path(out)) == Path(file)


def test_another_task_is_noticed(run: evo.Run, digits_task: evo.Task, task: evo.Task) -> None:
    same_task(run, digits_task)
    with pytest.raises(EvoError, match=r"the network is not what it was when the search began$"):
        same_task(run, task)
    other = evo.Task(digits_task.network.build(digits_task.network.full), digits_task.train, digits_task.train)
    with pytest.raises(EvoError, match="the data set 'val' is not what it was"):
        same_task(run, other)
