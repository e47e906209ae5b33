"""Networks as files."""

from pathlib import Path

import numpy as np
import pytest
import torch

import evo
from evo.errors import EvoError, NetworkError, SettingsError
from evo.export import export, same_task, save_onnx
from evo.training import Recipe


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


def test_what_cannot_be_written_or_tuned(run: evo.Run, digits_task: evo.Task, tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match=r"is a folder, expected a file name$"):
        export(run, digits_task, 1, tmp_path)
    with pytest.raises(SettingsError, match=r"^fine-tuning: FloatingPointError: the training loss became"):
        export(run, digits_task, 1, tmp_path / "small.evo", finetuning=Recipe(lr=1e30, epochs=1, batch_size=50))
    assert not list(tmp_path.iterdir())


def test_another_task_is_noticed(run: evo.Run, digits_task: evo.Task, task: evo.Task) -> None:
    same_task(run, digits_task)
    with pytest.raises(EvoError, match=r"the network is not what it was when the search began$"):
        same_task(run, task)
    other = evo.Task(digits_task.network.build(digits_task.network.full), digits_task.train, digits_task.train)
    with pytest.raises(EvoError, match="the data set 'val' is not what it was"):
        same_task(run, other)


def test_an_onnx_file_takes_batches_of_any_size(digits_task: evo.Task, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    model = digits_task.network.build(digits_task.network.full)
    said = save_onnx(model, digits_task.val.x[:5], tmp_path / "net.onnx")
    assert "onnxruntime agrees with the network on 5 images" in said
    session = onnxruntime.InferenceSession(str(tmp_path / "net.onnx"))
    for count in (1, 7):
        x = digits_task.val.x[:count]
        (scores,) = session.run(None, {"input": x.numpy()})
        np.testing.assert_allclose(scores, model(x).detach().numpy(), atol=1e-4)
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]


def test_a_network_that_onnx_cannot_express(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")

    class Moody(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if float(x.sum()) > 0 else -x

    with pytest.raises(NetworkError, match="ONNX cannot express this network"):
        save_onnx(Moody(), torch.ones(2, 1, 4, 4), tmp_path / "net.onnx")
