"""Networks as `.pt2` and ONNX files, run by the programs that these are for."""

import importlib.util
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import evo
from evo.blueprint import Blueprint
from evo.errors import NetworkError, SettingsError
from evo.network.formats import ONNX_PACKAGES, Inputs, save_onnx, save_pt2
from evo.network.zoo import INPUTS, ZOO, resnet20

MISSING = [name for name in ONNX_PACKAGES if importlib.util.find_spec(name) is None]
needs_onnx = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {MISSING}")
Save = Callable[[nn.Module, Tensor | Inputs, Path], str]


def run_pt2(path: Path, *inputs: Tensor) -> list[Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what torch says of its own
        network = torch.export.load(path).module()
    with torch.no_grad():
        outputs = network(*inputs)
    return list(outputs) if isinstance(outputs, tuple) else [outputs]


def run_onnx(path: Path, *inputs: Tensor) -> list[Tensor]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]
    arrays = session.run(None, {name: x.numpy() for name, x in zip(names, inputs, strict=True)})
    return [torch.as_tensor(array) for array in arrays]


FORMATS = [
    pytest.param(save_pt2, run_pt2, "net.pt2", id="pt2"),
    pytest.param(save_onnx, run_onnx, "net.onnx", id="onnx", marks=needs_onnx),
]
Run = Callable[..., list[Tensor]]


@pytest.fixture(scope="module")
def resnet_network() -> evo.Network:
    torch.manual_seed(0)
    return evo.Network.analyse(resnet20(width=8), torch.randn(2, 3, 32, 32))


def randomly_cut(network: evo.Network, seed: int) -> nn.Module:
    rng = np.random.default_rng(seed)
    masks = {group.name: rng.random(group.size) < rng.random() for group in network.groups}
    for mask in masks.values():
        mask[rng.integers(mask.size)] = True
    return network.build(Blueprint.from_masks(masks))


def assert_equal(run: Run, path: Path, model: nn.Module, *inputs: Tensor) -> None:
    with torch.no_grad():
        expected = model(*inputs)
    found = run(path, *inputs)
    for mine, theirs in zip(expected if isinstance(expected, tuple) else [expected], found, strict=True):
        largest = float(mine.abs().max())
        torch.testing.assert_close(theirs, mine, rtol=1e-5, atol=1e-5 * largest)


@pytest.mark.parametrize(("save", "run", "name"), FORMATS)
class TestFiles:
    @pytest.mark.parametrize("seed", [0, 1])
    def test_a_randomly_cut_lenet(
        self, save: Save, run: Run, name: str, seed: int, lenet_network: evo.Network, tmp_path: Path
    ) -> None:
        model, generator = randomly_cut(lenet_network, seed), torch.Generator().manual_seed(seed)
        said = save(model, torch.rand(3, 1, 28, 28, generator=generator), tmp_path / name)
        assert said.startswith(f"{tmp_path / name}: ")
        assert "agrees with the network on batches of any size, 3 and others tried" in said
        for size in (1, 2, 11):
            assert_equal(run, tmp_path / name, model, torch.rand(size, 1, 28, 28, generator=generator))
        assert [entry.name for entry in tmp_path.iterdir()] == [name]

    def test_a_randomly_cut_resnet_from_one_example(
        self, save: Save, run: Run, name: str, resnet_network: evo.Network, tmp_path: Path
    ) -> None:
        model = randomly_cut(resnet_network, 0)
        assert "batches of any size, 1 and others" in save(model, torch.randn(1, 3, 32, 32), tmp_path / name)
        assert_equal(run, tmp_path / name, model, torch.randn(4, 3, 32, 32))

    def test_two_inputs_and_two_outputs(self, save: Save, run: Run, name: str, tmp_path: Path) -> None:
        class Both(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.table = nn.Embedding(7, 4)
                self.conv = nn.Conv2d(1, 4, 3)

            def forward(self, image: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
                seen, read = self.conv(image).mean((2, 3)), self.table(words).sum(1)
                return seen * read, (seen - read).argmax(1)

        model = Both()
        words = torch.randint(0, 7, (3, 5), generator=torch.Generator().manual_seed(0))
        assert "batches of any size" in save(model, (torch.rand(3, 1, 6, 6), words), tmp_path / name)
        assert_equal(run, tmp_path / name, model, torch.rand(2, 1, 6, 6), words[:2])

    def test_a_network_that_fixes_the_batch(self, save: Save, run: Run, name: str, tmp_path: Path) -> None:
        class Fixed(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                return x.reshape(3, 2, -1).sum(1)

        said = save(Fixed(), torch.rand(6, 4), tmp_path / name)
        assert "agrees with the network on batches of exactly 6 (" in said
        assert "; for any size: " in said
        assert "\n" not in said
        assert_equal(run, tmp_path / name, Fixed(), torch.rand(6, 4))

    def test_inputs_without_a_common_batch(self, save: Save, run: Run, name: str, tmp_path: Path) -> None:
        class Scaled(nn.Module):
            def forward(self, x: Tensor, factor: Tensor) -> Tensor:
                return x * factor

        inputs = (torch.rand(3, 4), torch.rand(4))
        assert "for any size: the inputs have no common batch dimension" in save(Scaled(), inputs, tmp_path / name)
        assert_equal(run, tmp_path / name, Scaled(), *inputs)

    def test_a_mode_and_a_compiled_network_are_left_as_they_are(
        self, save: Save, run: Run, name: str, tmp_path: Path
    ) -> None:
        model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.BatchNorm1d(4))
        model[2].eval()
        before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
        compiled: Any = torch.compile(model, backend="eager")
        save(compiled, torch.rand(5, 4), tmp_path / name)
        assert [module.training for module in model] == [True, True, False]
        assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
        assert_equal(run, tmp_path / name, model.eval(), torch.rand(2, 4))

    def test_what_cannot_be_traced(self, save: Save, run: Run, name: str, tmp_path: Path) -> None:
        class Moody(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                return x if float(x.sum()) > 0 else -x

        with pytest.raises(NetworkError, match=rf"{name}: \S+ cannot express this network \(.+\)$"):
            save(Moody(), torch.ones(2, 1, 4, 4), tmp_path / "deep" / name)
        assert not list((tmp_path / "deep").iterdir())

    def test_what_computes_something_else(self, save: Save, run: Run, name: str, tmp_path: Path) -> None:
        class Drifting(nn.Module):
            """The tracer sees one call of many that differ."""

            calls = 0

            def forward(self, x: Tensor) -> Tensor:
                self.calls += 1
                return x + self.calls

        (tmp_path / name).write_text("an older file")
        with pytest.raises(NetworkError, match="computes something else, outputs differ by up to"):
            save(Drifting(), torch.rand(2, 3), tmp_path / name)
        assert (tmp_path / name).read_text() == "an older file"
        assert [entry.name for entry in tmp_path.iterdir()] == [name]

    def test_outputs_that_are_no_numbers(self, save: Save, run: Run, name: str, tmp_path: Path) -> None:
        class Root(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                return x.sqrt()

        with pytest.raises(NetworkError, match="outputs differ by up to nan"):
            save(Root(), -torch.ones(2, 3), tmp_path / name)

    def test_a_place_that_cannot_be_written(self, save: Save, run: Run, name: str, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(NetworkError, match="cannot be written"):
            save(nn.Linear(2, 2), torch.rand(2, 2), tmp_path / "file" / name)

    def test_nothing_of_the_inputs_is_in_the_file(self, save: Save, run: Run, name: str, tmp_path: Path) -> None:
        secret = torch.full((2, 3000), 0.123)
        save(nn.Linear(3000, 2), secret, tmp_path / name)
        assert secret[0, :100].numpy().tobytes() not in (tmp_path / name).read_bytes()


@needs_onnx
def test_what_onnxruntime_cannot_run(tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match=r"onnxruntime cannot run the file \(.+\)$"):
        save_onnx(nn.Conv2d(1, 2, 3).double(), torch.rand(2, 1, 5, 5).double(), tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


@needs_onnx
def test_names_in_onnx(tmp_path: Path) -> None:
    import onnx

    save_onnx(nn.Bilinear(2, 3, 4), (torch.rand(5, 2), torch.rand(5, 3)), tmp_path / "two.onnx")
    graph = onnx.load(tmp_path / "two.onnx").graph
    assert [entry.name for entry in graph.input] == ["input_0", "input_1"]
    assert [entry.name for entry in graph.output] == ["output"]


def test_files_by_another_name(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"torch\.export\.load opens files ending in \.pt2 only; call it net\.pt2$"):
        save_pt2(nn.Linear(2, 2), torch.rand(2, 2), tmp_path / "net.pt")


def test_onnx_without_its_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evo.network.formats.ONNX_PACKAGES", ("torch", "not_installed_anywhere"))
    with pytest.raises(
        SettingsError, match=r"ONNX needs not_installed_anywhere; install with: pip install 'evo-arch\[onnx\]'"
    ):
        save_onnx(nn.Linear(2, 2), torch.rand(2, 2), tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_pt2_file_needs_neither_evo_nor_the_network(lenet_network: evo.Network, tmp_path: Path) -> None:
    model = randomly_cut(lenet_network, 2)
    save_pt2(model, torch.rand(2, 1, 28, 28), tmp_path / "net.pt2")
    code = """
import sys, torch
sys.modules["evo"] = None  # importing it fails
print(*torch.export.load("net.pt2").module()(torch.ones(1, 1, 28, 28)).flatten().tolist())
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with torch.no_grad():
        expected = model(torch.ones(1, 1, 28, 28)).flatten().tolist()
    assert [float(text) for text in done.stdout.split()] == pytest.approx(expected, rel=1e-4, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("save", "run", "name"), FORMATS)
@pytest.mark.parametrize("network", sorted({*ZOO} - {"alexnet", "vgg16", "vgg19"}))  # those take gigabytes
def test_networks_of_the_zoo(network: str, save: Save, run: Run, name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, shape = ZOO[network]().eval(), INPUTS[network]
    assert "batches of any size" in save(model, torch.randn(2, *shape), tmp_path / name)
    assert_equal(run, tmp_path / name, model, torch.randn(3, *shape))
