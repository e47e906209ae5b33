"""The README's Python runs, at a smaller budget."""

import re
from pathlib import Path
from typing import Any

import deap.algorithms
import numpy as np
import pytest
import torch

import evo
from evo.training import Recipe, balanced_subset, train

ROOT = Path(__file__).resolve().parent.parent
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


@pytest.fixture
def names(digits_task: evo.Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.chdir(tmp_path)
    return {
        "evo": evo,
        "deap": deap,
        "net": digits_task.network.build(digits_task.network.full),
        "train_set": digits_task.train,
        "val_set": digits_task.val,
        "task": digits_task,
        "Recipe": Recipe,
        "balanced_subset": balanced_subset,
        "train": train,
    }


def smaller(block: str, *changes: tuple[str, str]) -> str:
    for large, small in changes:
        assert large in block
        block = block.replace(large, small)
    return block


def test_the_interface_in_fifteen_lines(names: dict[str, Any]) -> None:
    changes = (("generations=20, population=50", "generations=2, population=6"), ("epochs=50", "epochs=1"))
    exec(smaller(BLOCKS[0], *changes), names)
    assert isinstance(names["small"], type(names["net"]))
    assert Path("small.evo").is_file()
    assert len(names["run"].history) >= 6


def test_a_fitness_of_ones_own(names: dict[str, Any], tmp_path: Path) -> None:
    exec(BLOCKS[1], names)
    run = evo.search(
        names["task"],
        encoding=evo.FilterBits(),
        fitness=names["quick_and_right"],
        algorithm=evo.ECS(generations=1, population=3),
        evaluator=evo.LocalEvaluator(workers=0),
        out=tmp_path / "run",
    )
    assert set(run.history["status"]) == {"ok"}


def test_deap_runs_on_the_toolbox(names: dict[str, Any]) -> None:
    changes = (
        ("evo.RayEvaluator()", "evo.LocalEvaluator(workers=0)"),
        ("evo.SubsetFineTune()", "evo.SubsetFineTune(images=100, batch_size=50)"),
        ("n=50", "n=4"),
        ("ngen=10", "ngen=1"),
    )
    exec(smaller(BLOCKS[2], *changes), names)
    assert all(individual.fitness.valid for individual in names["population"])


def test_surgery_alone(names: dict[str, Any]) -> None:
    names["images"] = names["val_set"].x
    network = evo.Network.analyse(names["net"], names["images"][:1], protect=["9"], multiple=2)
    blueprint = network.repaired({group.name: np.arange(group.size) < 3 for group in network.groups})
    names |= {"blueprint": blueprint, "counts": network.counts([blueprint, network.full])}
    exec(smaller(BLOCKS[3], ('"head.*"', '"9"'), ("multiple=8", "multiple=2")), names)
    assert [entry.reason for entry in names["network"].frozen if entry.name == "9"] == ["it is protected"]
    assert names["small"][0].out_channels == 4


def test_shipping(names: dict[str, Any]) -> None:
    names |= {"images": names["val_set"].x[:8], "small": names["net"]}
    exec(BLOCKS[4], names)
    assert {path.suffix for path in Path().iterdir()} == {".evo", ".pt2", ".onnx"}


def test_without_training_a_single_candidate(names: dict[str, Any]) -> None:
    changes = (("generations=20, population=50", "generations=1, population=4"), ("batch_size=32", "batch_size=8"))
    exec(smaller(BLOCKS[5], *changes), names)
    run = names["run"]
    whole = run.costs.costs(run.costs.sizes)
    assert (run.history["params"] <= 0.3 * whole["params"]).all()
    assert (run.history["macs"] <= 0.5 * whole["macs"]).all()


def test_filters_by_their_feature_maps(names: dict[str, Any]) -> None:
    exec(smaller(BLOCKS[6], ("epochs=8", "epochs=1")), names)
    assert names["found"].sensitivity["k"].tolist() == [20, 40, 60]
    assert Path("sensitivity.png").is_file()
    fitness = ("evo.SubsetFineTune()", "evo.SubsetFineTune(epochs=0)")
    exec(smaller(BLOCKS[7], fitness, ("evo.ECS()", "evo.ECS(generations=1, population=4)")), names)
    assert evo.Run("runs/seeded").history["operator"].tolist() == ["seed", "seed", "seed", "initial"]


def test_filters_and_bits_per_layer(names: dict[str, Any]) -> None:
    changes = (("generations=12, population=24", "generations=1, population=4"), ("epochs=8", "epochs=1"))
    exec(smaller(BLOCKS[8], *changes), names)
    original = names["task"].network.cost_of(names["task"].network.full)
    assert (evo.Run("runs/policy").history["bytes"] <= 0.165 * original["bytes"]).all()
    assert Path("ribbon.png").is_file()
    exec(BLOCKS[9], names)
    images = names["task"].val.x
    agree = names["fast"](images).argmax(1) == names["found"].model(images).argmax(1)
    assert float(agree.float().mean()) > 0.9


def test_connections_while_the_network_learns(names: dict[str, Any]) -> None:
    exec(BLOCKS[10], names)
    assert evo.training.sparsity(names["model"]) > 0.1
    model, images = names["net"], names["task"].train
    loader = list(zip(images.x.split(50), images.y.split(50), strict=True))
    names |= {"model": model.train(), "loader": loader, "epochs": 6, "criterion": torch.nn.CrossEntropyLoss()}
    names["optimizer"] = torch.optim.SGD(model.parameters(), lr=0.01)
    exec(BLOCKS[11], names)
    assert not names["hook"].history.empty
