import copy
import dataclasses
import hashlib
import io
import json
import math
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
from torch import nn

import evo
from evo.blueprint import Blueprint
from evo.errors import NetworkError
from evo.network.checkpoint import describe
from evo.network.origin import annotate, origin_of, remember
from evo.network.zoo import ZOO, LeNet, resnet20
from evo.quantization import quantize_
from evo.training import Samples

BITS = {"conv1": 1, "conv2": 5, "fc1": 8, "fc2": 12}


def cut(network: evo.Network, every: int) -> nn.Module:
    return network.build(
        Blueprint.from_masks({group.name: np.arange(group.size) % every == 0 for group in network.groups})
    )


def with_bits(model: nn.Module, bits: dict[str, int]) -> nn.Module:
    """Quantise `model` as a blueprint with these bits would."""
    origin = origin_of(model)
    blueprint = (origin.blueprint or Blueprint(())).with_bits(bits)
    return remember(quantize_(model, bits), dataclasses.replace(origin, blueprint=blueprint))


@pytest.fixture
def small(lenet_network: evo.Network) -> nn.Module:
    return cut(lenet_network, 3)


@pytest.fixture
def own(digits_task: evo.Task) -> nn.Module:
    """A small network cut out of one that is not in the zoo."""
    return cut(digits_task.network, 4)


@pytest.fixture
def original(digits_task: evo.Task) -> nn.Module:
    """What `own` was cut out of."""
    return digits_task.network.build(digits_task.network.full)


def outputs(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        scores: torch.Tensor = model(images)
    return scores


def tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    return dict(model.named_parameters()) | dict(model.named_buffers())


def recipe_in(path: Path) -> dict[str, Any]:
    with safetensors.safe_open(path, "pt") as file:
        recipe: dict[str, Any] = json.loads(file.metadata()["evo"])
    return recipe


def refusal(path: Path, model: nn.Module | None = None) -> str:
    """Return why `load` refuses a file: one sentence that names it."""
    with pytest.raises(NetworkError) as raised:
        evo.load(path, model)
    text = str(raised.value)
    assert text.startswith(f"{path}: ")
    assert "\n" not in text
    return text.removeprefix(f"{path}: ")


class TestRoundTrip:
    def test_a_cut_zoo_network_comes_back_by_itself(
        self, small: nn.Module, tmp_path: Path, large_digits: Samples
    ) -> None:
        path = evo.save(small, tmp_path / "deep" / "small.evo")
        loaded = evo.load(path)
        assert isinstance(loaded, LeNet)
        assert not loaded.training
        assert (loaded.conv2.in_channels, loaded.fc1.out_features) == (7, 167)
        assert torch.equal(outputs(loaded, large_digits.x[:4]), outputs(small, large_digits.x[:4]))
        assert [entry.name for entry in (tmp_path / "deep").iterdir()] == ["small.evo"]
        again = evo.save(loaded, tmp_path / "again.evo")
        assert again.read_bytes() == path.read_bytes()

    def test_a_fine_tuned_network_keeps_what_it_learnt(
        self, small: nn.Module, tmp_path: Path, large_digits: Samples
    ) -> None:
        with torch.no_grad():
            small.get_parameter("fc2.bias").add_(1.0)
        loaded = evo.load(evo.save(small.train(), tmp_path / "tuned.evo"))
        assert torch.equal(outputs(loaded, large_digits.x[:4]), outputs(small.eval(), large_digits.x[:4]))

    def test_an_original_comes_back_with_its_arguments(self, tmp_path: Path) -> None:
        model = resnet20(7, in_channels=2, width=4)
        loaded = evo.load(evo.save(model, tmp_path / "original.evo"))
        assert {name: tuple(tensor.shape) for name, tensor in loaded.state_dict().items()} == {
            name: tuple(tensor.shape) for name, tensor in model.state_dict().items()
        }

    def test_a_network_of_ones_own_needs_the_original(
        self, own: nn.Module, original: nn.Module, digits_task: evo.Task, tmp_path: Path
    ) -> None:
        path = evo.save(own, tmp_path / "own.evo")
        assert refusal(path) == "it was cut from a network of your own; pass that network: evo.load(path, model=…)"
        before = {name: tensor.clone() for name, tensor in original.state_dict().items()}
        for model in (original, lambda: original):
            loaded = evo.load(path, model)
            assert torch.equal(outputs(loaded, digits_task.val.x), outputs(own, digits_task.val.x))
        assert all(torch.equal(tensor, before[name]) for name, tensor in original.state_dict().items())
        annotate(own, model="mynets:vgg")
        assert "a network of your own, mynets:vgg; pass that network" in refusal(evo.save(own, path))

    def test_what_torch_compile_returns_is_saved_as_the_network_inside(self, small: nn.Module, tmp_path: Path) -> None:
        path = evo.save(small, tmp_path / "small.evo")
        compiled: Any = torch.compile(small, backend="eager")
        assert evo.save(compiled, tmp_path / "compiled.evo").read_bytes() == path.read_bytes()


class Odd(nn.Module):
    """Everything that a network may hold besides plain layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3)
        self.conv.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.norm = nn.BatchNorm2d(4)
        self.one = nn.Linear(4, 4)
        self.two = nn.Linear(4, 4)
        self.two.weight = self.one.weight
        self.frozen = nn.Parameter(torch.randn(3), requires_grad=False)
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.register_buffer("grid", torch.randn(4, 6)[:, ::2], persistent=False)
        self.register_buffer("flags", torch.tensor([True, False]))
        self.register_buffer("steps", torch.tensor([3, 2**60]))
        self.register_buffer("nothing", None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.conv(x)).mean((2, 3))
        scaled: torch.Tensor = self.two(self.one(x)) * self.scale
        return scaled + self.get_buffer("grid").sum()


class TestTensorsOfEveryKind:
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
    def test_come_back_bit_for_bit(self, dtype: torch.dtype, tmp_path: Path) -> None:
        model = Odd().to(dtype)
        model.norm(model.conv(torch.randn(2, 2, 5, 5, dtype=dtype)))  # counts a batch
        with torch.no_grad():
            model.frozen.copy_(torch.tensor([torch.nan, -0.0, torch.inf]))
        loaded = evo.load(evo.save(model, tmp_path / "odd.evo"), Odd)
        before, after = tensors(model), tensors(loaded)
        assert before.keys() == after.keys()
        for name, tensor in after.items():
            expected = before[name].detach().contiguous()
            assert (tensor.dtype, tensor.requires_grad) == (expected.dtype, before[name].requires_grad), name
            assert tensor.flatten().view(torch.uint8).equal(expected.flatten().view(torch.uint8)), name
        assert int(loaded.get_buffer("norm.num_batches_tracked")) == 1
        assert loaded.get_parameter("one.weight") is loaded.get_parameter("two.weight")
        assert "grid" not in loaded.state_dict()

    def test_a_tensor_that_no_file_can_hold(self, tmp_path: Path) -> None:
        for model in (nn.Linear(2, 2, device="meta"), nn.Linear(2, 2, dtype=torch.complex128)):
            with pytest.raises(NetworkError, match=r"net\.evo: Linear cannot be written \(.+\)$"):
                evo.save(model, tmp_path / "net.evo")
        assert not list(tmp_path.iterdir())


class TestBits:
    def test_weights_are_stored_as_packed_integers(
        self, small: nn.Module, tmp_path: Path, large_digits: Samples
    ) -> None:
        plain = evo.save(small, tmp_path / "plain.evo").stat().st_size
        quantised = with_bits(small, BITS)
        path = evo.save(quantised, tmp_path / "quantised.evo")
        told = describe(path)
        assert told["bits"] == BITS
        saved = 0
        for layer, bits in BITS.items():
            weight = small.get_parameter(f"{layer}.weight")
            packed, scales = told["tensors"][f"{layer}.weight"], told["tensors"][f"{layer}.weight.scales"]
            assert packed == {"dtype": "uint8", "shape": [math.ceil(weight.numel() * bits / 8)]}
            assert scales == {"dtype": "float32", "shape": [weight.shape[0]]}
            saved += 4 * weight.numel() - math.ceil(weight.numel() * bits / 8) - 4 * weight.shape[0]
        assert abs(plain - saved - path.stat().st_size) < 2000  # the recipe
        loaded = evo.load(path)
        for name, tensor in tensors(quantised).items():
            assert torch.equal(tensors(loaded)[name], tensor), name
        assert torch.equal(outputs(loaded, large_digits.x[:9]), outputs(quantised, large_digits.x[:9]))
        assert origin_of(loaded) == origin_of(evo.load(evo.save(loaded, tmp_path / "again.evo")))
        assert (tmp_path / "again.evo").read_bytes() == path.read_bytes()

    def test_weights_that_moved_are_stored_as_they_are(self, small: nn.Module, tmp_path: Path) -> None:
        quantised = with_bits(small, BITS)
        with torch.no_grad():
            quantised.get_parameter("fc1.weight")[0, 0] += 1e-6
        path = evo.save(quantised, tmp_path / "moved.evo")
        told = describe(path)
        assert (set(told["packed"]), told["bits"]) == ({"conv1.weight", "conv2.weight", "fc2.weight"}, BITS)
        loaded = evo.load(path)
        assert torch.equal(loaded.get_parameter("fc1.weight"), quantised.get_parameter("fc1.weight"))
        quantize_(loaded, BITS)
        assert set(describe(evo.save(loaded, path))["packed"]) == {f"{layer}.weight" for layer in BITS}

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
    @pytest.mark.parametrize("bits", [1, 4, 8, 11, 16, 23])
    def test_layers_of_other_kinds_and_types(self, bits: int, dtype: torch.dtype, tmp_path: Path) -> None:
        def make() -> nn.Module:
            tied = nn.Sequential(nn.Conv1d(3, 8, 3), nn.ConvTranspose1d(8, 6, 2), nn.Linear(9, 9), nn.Linear(9, 9))
            tied[3].weight = tied[2].weight
            return tied

        model = with_bits(make().to(dtype), {"0": bits, "1": bits, "2": bits, "3": bits})
        path = evo.save(model, tmp_path / "net.evo")
        assert set(describe(path)["packed"]) == {"0.weight", "1.weight", "2.weight"}
        assert describe(path)["packed"]["1.weight"]["dim"] == 1
        loaded = evo.load(path, make)
        for name, tensor in tensors(model).items():
            assert torch.equal(tensors(loaded)[name], tensor), name
            assert tensors(loaded)[name].dtype == dtype


class TestDescribe:
    def test_says_where_a_network_comes_from(self, small: nn.Module, tmp_path: Path) -> None:
        annotate(small, run="digits", id=3, seed=0, objectives={"error": 0.25})
        told = describe(evo.save(small, tmp_path / "small.evo"))
        assert (told["format"], told["class"], told["factory"]) == ("evo-network-2", "LeNet", "lenet")
        assert told["arguments"] == {"conv1": 20, "conv2": 50, "fc1": 500, "classes": 10, "in_channels": 1}
        assert told["kept"]["conv1"] == {"of": 20, "kept": [0, 3, 6, 9, 12, 15, 18]}
        assert (told["bits"], told["packed"]) == ({}, {})
        provenance = told["provenance"]
        assert (provenance["run"], provenance["id"], provenance["objectives"]) == ("digits", 3, {"error": 0.25})
        assert (provenance["evo"], provenance["torch"]) == (evo.__version__, str(torch.__version__))
        assert told["tensors"]["conv1.weight"] == {"dtype": "float32", "shape": [7, 1, 5, 5]}
        assert told["file_bytes"] == (tmp_path / "small.evo").stat().st_size
        json.dumps(told)  # plain values only

    def test_provenance_outlives_loading(self, small: nn.Module, tmp_path: Path) -> None:
        annotate(annotate(small, run="digits", id=3), id=4)
        loaded = evo.load(evo.save(small, tmp_path / "small.evo"))
        told = describe(evo.save(annotate(loaded, finetuned=True), tmp_path / "again.evo"))["provenance"]
        assert (told["run"], told["id"], told["finetuned"]) == ("digits", 4, True)

    def test_needs_no_original(self, own: nn.Module, tmp_path: Path) -> None:
        told = describe(evo.save(own, tmp_path / "own.evo"))
        assert (told["factory"], told["class"], told["arguments"]) == ("", "Sequential", {})

    def test_an_original_is_whole(self, tmp_path: Path) -> None:
        assert describe(evo.save(resnet20(width=2), tmp_path / "net.evo"))["kept"] is None

    def test_other_tools_can_read_the_weights(self, small: nn.Module, tmp_path: Path) -> None:
        path = evo.save(small, tmp_path / "small.evo")
        assert set(safetensors.torch.load_file(path)) == set(small.state_dict())
        assert recipe_in(path)["class"] == "LeNet"


class TestDamage:
    """Nothing that `save` did not write is ever built."""

    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        return evo.save(with_bits(nn.Sequential(nn.Conv2d(1, 2, 2), nn.BatchNorm2d(2)), {"0": 4}), tmp_path / "net.evo")

    def test_any_flipped_byte(self, path: Path) -> None:
        whole = path.read_bytes()
        rng = np.random.default_rng(0)
        for position, flip in enumerate(rng.integers(1, 256, len(whole)).tolist()):
            path.write_bytes(whole[:position] + bytes([whole[position] ^ flip]) + whole[position + 1 :])
            for read in (evo.load, describe):
                with pytest.raises(NetworkError, match=r"net\.evo: (damaged|written as)"):
                    read(path)
        path.write_bytes(whole)
        assert describe(path)["class"] == "Sequential"

    def test_any_length(self, path: Path) -> None:
        whole = path.read_bytes()
        for length in range(len(whole)):
            path.write_bytes(whole[:length])
            assert refusal(path).startswith("damaged")
        path.write_bytes(whole + b"\0")
        assert refusal(path).startswith("damaged or altered")

    def test_swapped_and_replaced_weights(self, small: nn.Module, tmp_path: Path) -> None:
        path = evo.save(small, tmp_path / "small.evo")
        metadata = {"evo": json.dumps(recipe_in(path))}
        stored = safetensors.torch.load_file(path)
        for change in (
            {"bn1.weight": stored["bn1.bias"], "bn1.bias": stored["bn1.weight"]},
            {"fc2.bias": stored["fc2.bias"] + 1},
            {"fc2.bias": stored["fc2.bias"].double()},
        ):
            safetensors.torch.save_file({**stored, **change}, path, metadata)
            assert refusal(path).startswith("damaged or altered since evo.save wrote it")

    @pytest.mark.parametrize(
        "change",
        [
            {"factory": "resnet20"},
            {"arguments": {}},
            {"kept": None},
            {"bits": {"conv1": 8}},
            {"provenance": {"id": 1}},
            {"more": 1},
        ],
    )
    def test_an_edited_recipe(self, small: nn.Module, tmp_path: Path, change: dict[str, Any]) -> None:
        path = evo.save(small, tmp_path / "small.evo")
        stored = safetensors.torch.load_file(path)
        safetensors.torch.save_file(stored, path, {"evo": json.dumps({**recipe_in(path), **change})})
        assert refusal(path).startswith("damaged or altered since evo.save wrote it")

    def test_files_of_other_kinds(self, small: nn.Module, tmp_path: Path) -> None:
        path = evo.save(small, tmp_path / "small.evo")
        stored = safetensors.torch.load_file(path)
        recipe = recipe_in(path)
        contents: list[tuple[bytes, str]] = [
            (b"", "damaged, or not written by evo.save"),
            (b"hello", "damaged, or not written by evo.save"),
            (b"\xff" * 100, "damaged, or not written by evo.save"),
            (safetensors.torch.save(stored), "damaged, or not written by evo.save"),
            (safetensors.torch.save(stored, {"evo": "[]"}), "damaged, or not written by evo.save"),
            (safetensors.torch.save(stored, {"evo": "[" * 100_000}), "damaged, or not written by evo.save"),
            (
                safetensors.torch.save(stored, {"evo": json.dumps({**recipe, "format": "evo-network-9"})}),
                "written as 'evo-network-9', this version of evo reads 'evo-network-2'",
            ),
        ]
        for content, message in contents:
            path.write_bytes(content)
            assert refusal(path).startswith(message)

    def test_a_missing_file(self, tmp_path: Path) -> None:
        assert refusal(tmp_path / "none.evo") == "no such file"
        assert refusal(tmp_path).startswith("cannot be read")


def reseal(path: Path, change: dict[str, Any]) -> None:
    """Edit a file's recipe as somebody would who knows how the seal is made."""
    stored = safetensors.torch.load_file(path)
    content = safetensors.torch.save(stored, {"evo": json.dumps({**recipe_in(path), **change, "sha256": "0" * 64})})
    path.write_bytes(content.replace(b"0" * 64, hashlib.sha256(content).hexdigest().encode(), 1))


class TestForgery:
    """A seal can be made anew: even then a file runs nothing and builds nothing but a network of the right shape."""

    def test_the_seal_is_what_it_is_said_to_be(self, small: nn.Module, tmp_path: Path) -> None:
        path = evo.save(small, tmp_path / "small.evo")
        before = path.read_bytes()
        reseal(path, {})
        assert path.read_bytes() == before

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"factory": "os.system", "arguments": {"command": "touch hacked"}}, "unknown network 'os.system'"),
            ({"factory": "lent"}, "unknown network 'lent'; did you mean 'lenet'"),
            ({"arguments": {"conv1": "touch hacked"}}, "damaged, lenet cannot be made as it says"),
            ({"arguments": {"conv1": -1}}, "damaged, lenet cannot be made as it says"),
            ({"arguments": {"nothing": 1}}, "damaged, lenet cannot be made as it says"),
            ({"arguments": [1]}, "damaged, its recipe makes no sense"),
            ({"kept": {"conv1": {"of": 20, "kept": [99]}}}, "damaged, its recipe makes no sense"),
            ({"kept": 5}, "damaged, its recipe makes no sense"),
            ({"bits": {"conv1": 99}}, "damaged, its recipe makes no sense"),
            ({"provenance": 7}, "damaged, its recipe makes no sense"),
            ({"packed": {"conv1.weight": {}}}, "damaged, its recipe makes no sense"),
            (
                {"packed": {"conv1.weight": {"bits": 8, "dim": 0, "dtype": "load", "shape": [7]}}},
                "damaged, its recipe makes no sense",
            ),
        ],
    )
    def test_is_refused(
        self,
        small: nn.Module,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        change: dict[str, Any],
        message: str,
    ) -> None:
        monkeypatch.chdir(tmp_path)
        path = evo.save(small, tmp_path / "small.evo")
        reseal(path, change)
        assert refusal(path).startswith(message)
        assert [entry.name for entry in tmp_path.iterdir()] == ["small.evo"]

    @pytest.mark.parametrize("dtype", ["load", "float99", "Tensor"])
    def test_names_of_types_are_only_types(self, tmp_path: Path, dtype: str) -> None:
        model = nn.Linear(3, 3)
        path = evo.save(with_bits(model, {"": 4}), tmp_path / "net.evo")
        packed = recipe_in(path)["packed"]
        reseal(path, {"packed": {"weight": {**packed["weight"], "dtype": dtype}}})
        assert refusal(path, model).startswith("damaged, its recipe makes no sense")


class TestOriginal:
    def test_another_network_is_refused(self, small: nn.Module, tmp_path: Path) -> None:
        path = evo.save(small, tmp_path / "small.evo")
        assert refusal(path, resnet20()).startswith(
            "CifarResNet is not the network it was cut from, a LeNet (differs in "
        )
        assert "conv2.weight has shape (17, 7, 5, 5), which cannot be cut from" in refusal(path, LeNet(conv2=5))
        with pytest.raises(NetworkError, match=r"model: expected a torch.nn.Module, got int"):
            evo.load(path, lambda: 3)  # type: ignore[arg-type]

    def test_weights_that_are_no_longer_shared_are_noticed(self, tmp_path: Path) -> None:
        path = evo.save(Odd(), tmp_path / "odd.evo")
        model = Odd()
        model.two.weight = nn.Parameter(torch.zeros(4, 4))
        assert "differs in two.weight" in refusal(path, model)

    @pytest.mark.parametrize("name", sorted(ZOO))
    def test_networks_of_the_zoo_hold_no_loose_tensors(self, name: str) -> None:
        # They are made without memory when a file is loaded: what is neither parameter nor buffer would be lost.
        with torch.device("meta"):
            model = ZOO[name]()
        for module in model.modules():
            loose = [key for key, value in vars(module).items() if isinstance(value, torch.Tensor)]
            assert not loose, f"{type(module).__name__}.{loose}"


def plain_modules(model: nn.Module, *allowed: str) -> bool:
    """Whether `model` consists of modules of these packages, and of nothing that runs besides them."""
    return all(
        type(module).__module__.split(".")[0] in allowed
        and "forward" not in vars(module)
        and not any(len(value) for name, value in vars(module).items() if name.endswith("_hooks"))
        for module in model.modules()
    )


class Pickled(pickle.Unpickler):
    """Notes which modules a pickle names."""

    names: set[str]

    def find_class(self, module: str, name: str) -> Any:
        self.names = {*getattr(self, "names", ()), module.split(".")[0]}
        return super().find_class(module, name)


class TestLoadedNetwork:
    @pytest.fixture
    def loaded(self, own: nn.Module, original: nn.Module, tmp_path: Path) -> nn.Module:
        return evo.load(evo.save(with_bits(own, {"0": 4}), tmp_path / "own.evo"), original)

    def test_is_plain(self, loaded: nn.Module) -> None:
        assert plain_modules(loaded, "torch")
        unpickler = Pickled(io.BytesIO(pickle.dumps(loaded)))
        unpickler.load()
        assert "torch" in unpickler.names
        assert "evo" not in unpickler.names
        loaded.register_forward_hook(lambda *_: None)
        assert not plain_modules(loaded, "torch")

    def test_copies_and_states(self, loaded: nn.Module, digits_task: evo.Task) -> None:
        expected = outputs(loaded, digits_task.val.x)
        copied = copy.deepcopy(loaded)
        state = pickle.loads(pickle.dumps(loaded.state_dict()))
        with torch.no_grad():
            for parameter in loaded.parameters():
                parameter.zero_()
        assert torch.equal(outputs(copied, digits_task.val.x), expected)
        loaded.load_state_dict(state)
        assert torch.equal(outputs(loaded, digits_task.val.x), expected)
        assert origin_of(copied) == origin_of(loaded) != origin_of(nn.Identity())

    def test_trains(self, loaded: nn.Module, digits_task: evo.Task) -> None:
        optimiser = torch.optim.SGD(loaded.parameters(), lr=0.1)
        losses = []
        for _ in range(3):
            loss = nn.functional.cross_entropy(loaded.train()(digits_task.train.x[:50]), digits_task.train.y[:50])
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            losses.append(float(loss.detach()))
        assert losses[-1] < losses[0]
        assert all(parameter.grad is not None for parameter in loaded.parameters())

    def test_compiles(self, loaded: nn.Module, digits_task: evo.Task) -> None:
        compiled: Any = torch.compile(loaded, backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(outputs(compiled, digits_task.val.x), outputs(loaded, digits_task.val.x))

    @pytest.mark.slow
    @pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
    @pytest.mark.filterwarnings("ignore")  # inductor's own modules are full of them
    def test_compiles_to_machine_code(self, loaded: nn.Module, digits_task: evo.Task) -> None:
        compiled: Any = torch.compile(loaded, fullgraph=True)
        torch.testing.assert_close(outputs(compiled, digits_task.val.x), outputs(loaded, digits_task.val.x))


@pytest.mark.parametrize(
    "place", [lambda folder: folder / "file" / "small.evo", lambda folder: folder, lambda _: Path()]
)
def test_a_place_that_cannot_be_written_is_refused(
    own: nn.Module, tmp_path: Path, place: Callable[[Path], Path]
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NetworkError, match=r"cannot be written|is a folder, expected a file name"):
        evo.save(own, place(tmp_path))
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
    assert not list(tmp_path.parent.glob(f"{tmp_path.name}.part*"))
