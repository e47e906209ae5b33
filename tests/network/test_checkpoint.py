import json
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
from torch import nn

import evo
from evo.blueprint import Blueprint
from evo.errors import NetworkError
from evo.network.zoo import LeNet, resnet20
from evo.training import Samples


@pytest.fixture
def small(lenet_network: evo.Network) -> nn.Module:
    return lenet_network.build(
        Blueprint.from_masks({group.name: np.arange(group.size) % 3 == 0 for group in lenet_network.groups})
    )


def outputs(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        scores: torch.Tensor = model(images)
    return scores


def test_a_cut_zoo_network_comes_back_by_itself(small: nn.Module, tmp_path: Path, large_digits: Samples) -> None:
    path = evo.save(small, tmp_path / "deep" / "small.evo")
    loaded = evo.load(path)
    assert isinstance(loaded, LeNet)
    assert not loaded.training
    assert (loaded.conv2.in_channels, loaded.fc1.out_features) == (7, 167)
    assert torch.equal(outputs(loaded, large_digits.x[:4]), outputs(small, large_digits.x[:4]))
    assert [entry.name for entry in (tmp_path / "deep").iterdir()] == ["small.evo"]
    again = evo.load(evo.save(loaded, tmp_path / "again.evo"))
    assert torch.equal(outputs(again, large_digits.x[:4]), outputs(small, large_digits.x[:4]))


def test_a_fine_tuned_network_keeps_what_it_learnt(small: nn.Module, tmp_path: Path, large_digits: Samples) -> None:
    with torch.no_grad():
        small.get_parameter("fc2.bias").add_(1.0)
    loaded = evo.load(evo.save(small.train(), tmp_path / "tuned.evo"))
    assert torch.equal(outputs(loaded, large_digits.x[:4]), outputs(small.eval(), large_digits.x[:4]))


def test_an_original_comes_back_with_its_arguments(tmp_path: Path) -> None:
    model = resnet20(7, in_channels=2, width=4)
    loaded = evo.load(evo.save(model, tmp_path / "original.evo"))
    assert {name: tuple(tensor.shape) for name, tensor in loaded.state_dict().items()} == {
        name: tuple(tensor.shape) for name, tensor in model.state_dict().items()
    }


def test_a_network_of_ones_own_needs_the_original(digits_task: evo.Task, tmp_path: Path) -> None:
    network = digits_task.network
    small = network.build(Blueprint.from_masks({group.name: np.arange(group.size) < 3 for group in network.groups}))
    path = evo.save(small, tmp_path / "own.evo")
    with pytest.raises(NetworkError, match=r"a network of your own; pass that network: evo\.load\(path, model="):
        evo.load(path)
    original = network.build(network.full)
    before = {name: tensor.clone() for name, tensor in original.state_dict().items()}
    for model in (original, lambda: network.build(network.full)):
        loaded = evo.load(path, model)
        assert torch.equal(outputs(loaded, digits_task.val.x), outputs(small, digits_task.val.x))
    assert all(torch.equal(tensor, before[name]) for name, tensor in original.state_dict().items())


def test_shared_weights_stay_shared(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    model[2].weight = model[0].weight
    loaded = evo.load(evo.save(model, tmp_path / "tied.evo"), model)
    assert loaded.get_parameter("0.weight") is loaded.get_parameter("2.weight")
    assert torch.equal(outputs(loaded, torch.ones(1, 4)), outputs(model, torch.ones(1, 4)))


def test_other_tools_can_read_the_weights(small: nn.Module, tmp_path: Path) -> None:
    path = evo.save(small, tmp_path / "small.evo")
    tensors = safetensors.torch.load_file(path)
    assert set(tensors) == set(small.state_dict())
    with safetensors.safe_open(path, "pt") as file:
        recipe = json.loads(file.metadata()["evo"])
    assert recipe["class"] == "LeNet"
    assert recipe["kept"]["conv1"] == {"of": 20, "kept": [0, 3, 6, 9, 12, 15, 18]}


def test_another_network_is_refused(small: nn.Module, tmp_path: Path) -> None:
    path = evo.save(small, tmp_path / "small.evo")
    with pytest.raises(NetworkError, match="CifarResNet is not the network it was cut from"):
        evo.load(path, resnet20())
    with pytest.raises(NetworkError, match=r"conv2.weight has shape .* cannot be cut from"):
        evo.load(path, LeNet(conv2=5))
    with pytest.raises(NetworkError, match=r"model: expected a torch.nn.Module, got int"):
        evo.load(path, lambda: 3)  # type: ignore[arg-type, return-value]


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match=r"none.evo: no such file"):
        evo.load(tmp_path / "none.evo")


@pytest.mark.parametrize("damage", ["empty", "cut", "text", "header", "foreign", "format", "factory", "indices"])
def test_a_damaged_file_is_refused_in_one_sentence(small: nn.Module, tmp_path: Path, damage: str) -> None:
    path = evo.save(small, tmp_path / "small.evo")
    whole = path.read_bytes()
    tensors = safetensors.torch.load_file(path)
    with safetensors.safe_open(path, "pt") as file:
        recipe = json.loads(file.metadata()["evo"])
    match damage:
        case "empty":
            path.write_bytes(b"")
        case "cut":
            path.write_bytes(whole[: len(whole) // 2])
        case "text":
            path.write_text("hello")
        case "header":
            path.write_bytes(whole[:20] + b"#" + whole[21:])
        case "foreign":
            safetensors.torch.save_file(tensors, path)
        case "format":
            safetensors.torch.save_file(tensors, path, {"evo": json.dumps({**recipe, "format": "evo-network-9"})})
        case "factory":
            safetensors.torch.save_file(tensors, path, {"evo": json.dumps({**recipe, "factory": "os.system"})})
        case "indices":
            recipe["kept"]["conv1"]["kept"] = [99]
            safetensors.torch.save_file(tensors, path, {"evo": json.dumps(recipe)})
    with pytest.raises(NetworkError) as raised:
        evo.load(path)
    assert str(raised.value).startswith(f"{path}: ")
    assert "\n" not in str(raised.value)


def test_a_place_that_cannot_be_written_is_refused(small: nn.Module, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NetworkError, match="cannot be written"):
        evo.save(small, tmp_path / "file" / "small.evo")
