"""`evo inspect`: what it prints, what its JSON holds, and what it says to mistakes."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

import evo
from evo.cli.app import main
from evo.cli.inspect import inspect, parse_shape
from evo.errors import NetworkError, SettingsError
from evo.network.zoo import lenet, resnet20
from tests.network.zoo.counting import count

Shell = Callable[..., tuple[int, str, str]]


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str]) -> Shell:
    """Run `evo inspect` in this process; returns exit status, standard output and standard error."""

    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as left:
            main(["inspect", *arguments])
        captured = capsys.readouterr()
        return int(left.value.code or 0), captured.out, captured.err

    return run


NETS = '''
import torch
from torch import nn

print("a module that talks")

class Two(nn.Module):
    """Reads images and numbers; gates, a layer that is never used, another that is grouped."""

    def __init__(self, width=8):
        super().__init__()
        self.images = nn.Conv2d(3, width, 3)
        self.numbers = nn.Linear(5, width)
        self.grouped = nn.Conv2d(width, 6, 3, groups=2)
        self.spare = nn.Linear(2, 2)
        self.head = nn.Linear(6, 2)

    def forward(self, images, numbers):
        gate = torch.sigmoid(self.numbers(numbers))[:, :, None, None]
        return self.head(self.grouped(self.images(images) * gate).mean((2, 3)))

def frozen():
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 3))

def bare():
    return nn.Flatten()

def talks():
    print("building")
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 3))

def lines():
    raise ValueError("first line\\nsecond line")

class Picky(nn.Module):
    def forward(self, x):
        raise ValueError("first line\\nsecond line")

net = talks()
number = 5
nothing = lambda: None
'''


@pytest.fixture
def nets(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module of the user's own in the current directory."""
    (place / "inspected.py").write_text(NETS)
    monkeypatch.delitem(sys.modules, "inspected", raising=False)


def names(layers: Any) -> list[str]:
    return [entry["name"] for entry in layers]


def test_a_users_network_from_the_shell(nets: None, shell: Shell, place: Path) -> None:
    two = ["inspected:Two", "--input", "3,8,8", "--input", "5"]
    command = [sys.executable, "-m", "evo.cli", "inspect", *two, "--args", "width=10"]
    plain = subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=120)
    assert plain.returncode == 0, plain.stderr
    assert plain.stdout.splitlines()[0].startswith(
        "inspected:Two (Two) on inputs of 3×8×8 and 5: 16 searchable channels in 2 groups; "
    )
    for text in ("2 equal parts", "images, numbers", "grouped", "spare", "the network's output", "peak bytes"):
        assert text in plain.stdout
    assert "\x1b" not in plain.stdout
    status, document, talk = shell(*two, "--json")
    assert status == 0
    assert names(json.loads(document)["groups"]) == ["images", "grouped"]
    assert "a module that talks" in talk


def test_json_of_a_network_of_the_zoo(shell: Shell) -> None:
    status, out, err = shell("resnet20", "--json")
    assert (status, err) == (0, "")
    found = json.loads(out)
    assert (found["network"], found["class"], found["inputs"]) == ("resnet20", "CifarResNet", [[3, 32, 32]])
    stem = found["groups"][0]
    assert (stem["name"], stem["channels"], stem["fewest"]) == ("conv1", 16, 1)
    assert stem["producers"] == ["conv1", "layer1.0.conv2", "layer1.1.conv2", "layer1.2.conv2"]
    assert stem["consumers"][-1] == "layer2.0.shortcut.0"
    assert found["searchable_channels"] == sum(group["channels"] for group in found["groups"]) == 448
    assert found["frozen"] == [{"name": "fc", "reason": "its channels are the network's output"}]


def test_costs_are_those_of_the_networks() -> None:
    found = inspect("resnet20").structure
    counted = count(resnet20(), (3, 32, 32))
    assert (found.costs["params"], found.costs["macs"]) == (counted.params, counted.macs)
    narrow = count(resnet20(width=[1, 1, 1], inner=[1] * 9), (3, 32, 32))
    assert (found.smallest["params"], found.smallest["macs"]) == (narrow.params, narrow.macs)
    assert (found.smallest["weights"], found.smallest["feature_maps"]) == (narrow.weights, narrow.outputs)


def test_the_share_that_a_search_can_influence() -> None:
    # Of LeNet only the classifier's biases belong to no searchable channel.
    found = inspect("lenet").structure
    assert found.costs["params"] - found.searchable_params == 10
    assert found.searchable_share == pytest.approx(1 - 10 / 432_220)
    # With conv1 whole, its own weights and biases (500 + 20 + 40) stay as well.
    found = inspect("lenet", protect=["conv1"]).structure
    assert found.costs["params"] - found.searchable_params == 10 + 500 + sum(
        parameter.numel() for name, parameter in lenet().named_parameters() if name.startswith(("bn1", "conv1.bias"))
    )


def test_groups_that_are_not_free(nets: None) -> None:
    found = inspect("inspected:Two", ["3,8,8", "5"], multiple=4).structure
    images, grouped = found.groups
    assert (images.name, images.size, images.parts, images.multiple) == ("images", 8, 2, 4)
    assert (grouped.size, grouped.parts) == (6, 2)
    assert (found.smallest["params"], found.costs["params"]) == (
        4 * 27 + 4 + 4 * 5 + 4 + 4 * 2 * 9 + 4 + 2 * 4 + 2 + 6,
        8 * 27 + 8 + 8 * 5 + 8 + 6 * 4 * 9 + 6 + 2 * 6 + 2 + 6,
    )


def test_protected_layers_are_left_whole(shell: Shell) -> None:
    found = json.loads(shell("resnet20", "--protect", "layer1.*", "--protect", "layer2.0.conv1", "--json")[1])
    reasons = {entry["name"]: entry["reason"] for entry in found["frozen"]}
    assert reasons["layer2.0.conv1"] == reasons["layer1.2.conv2"] == reasons["conv1"] == "it is protected"
    assert "layer2.1.conv1" in names(found["groups"])


def test_nothing_to_prune_is_a_table_of_reasons(nets: None, shell: Shell) -> None:
    status, out, _ = shell("inspected:frozen", "--input", "3,2,2")
    assert status == 0
    assert "inspected:frozen (Sequential) on inputs of 3×2×2: nothing can be pruned" in out
    assert "its channels are the network's output" in out
    assert "Coupling groups" not in out
    assert "nothing can be pruned" in shell("inspected:bare", "--input", "3,2,2")[1]


def test_equal_reasons_are_told_once(shell: Shell) -> None:
    _, out, _ = shell("resnet20", "--protect", "layer1.*", "--protect", "layer2.*")
    assert out.count("it is protected") == 1
    for layer in ("layer1.0.conv1", "layer2.2.conv2", "layer2.0.shortcut.0"):
        assert layer in out


def test_json_is_all_of_standard_output(nets: None, shell: Shell) -> None:
    status, out, err = shell("inspected:talks", "--input", "3,8,8", "--json")
    assert status == 0
    assert names(json.loads(out)["groups"]) == ["0"]
    assert "building" in err


def test_weights_from_a_file(tmp_path: Path, shell: Shell) -> None:
    network = evo.Network.analyse(lenet(), torch.zeros(1, 1, 28, 28))
    half = {group.name: np.arange(group.size) % 2 == 0 for group in network.groups}
    evo.save(network.build(evo.blueprint.Blueprint.from_masks(half)), tmp_path / "small.evo")
    found = json.loads(shell("lenet", "--weights", str(tmp_path / "small.evo"), "--json")[1])
    assert [group["channels"] for group in found["groups"]] == [10, 25, 250]
    safetensors.torch.save_file(resnet20().state_dict(), tmp_path / "other.safetensors")
    status, _, err = shell("lenet", "--weights", str(tmp_path / "other.safetensors"))
    assert (status, "is of another network than LeNet" in err) == (2, True)


def test_networks_are_left_as_they_were(nets: None) -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    inspect("inspected:net", ["3,8,8"])
    assert torch.equal(torch.get_rng_state(), state)
    model = sys.modules["inspected"].net
    assert isinstance(model, nn.Module)
    assert model.training


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["resnet2"],
            "MODEL: unknown network 'resnet2'; did you mean 'resnet20'? (your own is named as module:attribute)",
        ),
        (
            ["lenet", "--input", "1,28,x"],
            "--input: expected positive whole numbers with commas, e.g. 3,224,224, got '1,28,x'",
        ),
        (["lenet", "--input", "1,-28,28"], "e.g. 3,224,224, got '1,-28,28'"),
        (["lenet", "--input", "0"], "e.g. 3,224,224, got '0'"),
        (["lenet", "--input", ""], "e.g. 3,224,224, got ''"),
        (["lenet", "--input", "3,28,28"], "LeNet does not run on an input of shape ("),
        (
            ["lenet", "--input", "1,28,28", "--input", "1"],
            "LeNet does not run on an input of shape (",
        ),
        (["lenet", "--input", "1,9999999,9999999,99"], "values, which do not fit into memory"),
        (["lenet", "--args", "conv1"], "--args conv1: expected key=value, e.g. width=16"),
        (["lenet", "--args", "a.b=1"], "--args a.b=1: expected key=value, e.g. width=16"),
        (["lenet", "--args", "size=3"], "MODEL: lenet raised TypeError: "),
        (["lenet", "--args", "conv1=-3"], "MODEL: lenet raised RuntimeError: "),
        (["lenet", "--protect", "cnv1"], "protect: unknown layer 'cnv1'; did you mean 'conv1'?"),
        (["lenet", "--multiple", "0"], "multiple: expected at least 1, got 0"),
        (["lenet", "--weights", "nowhere.evo"], "--weights: nowhere.evo: no such file"),
        (["gone:net", "--input", "3"], "MODEL: there is no module 'gone'; "),
        (["inspected:gone", "--input", "3"], "MODEL: module 'inspected' has no 'gone'"),
        (["inspected:net"], "--input: say which shape inspected:net reads, without the batch, e.g. --input 3,224,224"),
        (["inspected:net", "--input", "3", "--args", "x=1"], "--args: inspected:net is a network already and takes no"),
        (
            ["inspected:number", "--input", "3"],
            "MODEL: inspected:number is an int; expected a torch.nn.Module",
        ),
        (
            ["inspected:nothing", "--input", "3"],
            "MODEL: inspected:nothing returned a NoneType, expected",
        ),
        (["inspected:lines", "--input", "3"], "MODEL: inspected:lines raised ValueError: first line second line ("),
        (["inspected:Picky", "--input", "3"], "3): first line second line"),
        (["wrong:net", "--input", "3"], "MODEL: importing 'wrong' raised SyntaxError: "),
    ],
)
def test_mistakes_are_one_sentence(nets: None, shell: Shell, arguments: list[str], sentence: str) -> None:
    status, out, err = shell(*arguments)
    (line,) = [line for line in err.splitlines() if not line.startswith(("a module that", "building"))]
    assert (status, out) == (2, "")
    assert line.startswith("error: ")
    assert sentence in line


def test_shapes() -> None:
    assert parse_shape("3,224,224") == (3, 224, 224)
    assert parse_shape(" 7 ") == (7,)
    with pytest.raises(SettingsError, match="expected positive whole numbers"):
        parse_shape("3x4")


def test_in_python_errors_are_exceptions() -> None:
    with pytest.raises(NetworkError, match="does not run"):
        inspect("lenet", ["2,28,28"])


def test_twice_the_same() -> None:
    first, second = (inspect("resnet20").to_json() for _ in range(2))
    assert first == second
