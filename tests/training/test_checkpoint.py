"""A training that is killed goes on from its file as if nothing had happened."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from evo.errors import NetworkError
from evo.training import EpochReport, Recipe, Samples, train
from tests.training.small import content, network, same

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")),
]


class Killed(BaseException):
    """Stands for the end of a process."""


def kill_after(epoch: int) -> Callable[[EpochReport], None]:
    """Return what ends a training after that epoch."""

    def on_epoch(report: EpochReport) -> None:
        if report.epoch == epoch:
            raise Killed

    return on_epoch


class Tied(nn.Module):
    """One layer that is used twice under two names, and a buffer that state dicts leave out."""

    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.first = nn.Linear(64, 64)
            self.second = nn.Linear(64, 64)
            self.last = nn.Linear(64, 10)
        self.second.weight = self.first.weight
        self.register_buffer("seen", torch.zeros(()), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.seen += 1
        x = self.second(self.first(x.flatten(1)).relu()).relu()
        scores: Tensor = self.last(x) + self.seen / 100
        return scores


CASES: dict[str, dict[str, object]] = {
    "sgd": {},
    "augmented": {"shift": 1, "flip": True, "schedule": "step", "step_epochs": 1},
    "adam": {"optimizer": "adam", "lr": 0.01, "schedule": "onecycle"},
    "no momentum": {"momentum": 0.0, "warmup": 1.5},
    "bfloat16": {"dtype": "bfloat16"},
    "fraction": {"epochs": 2.6},
    "patience": {"epochs": 8, "patience": 2, "lr": 0.2},
    "distilled": {"distill": 0.5},
}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("make", [network, Tied])
@pytest.mark.parametrize("case", CASES)
def test_interrupted_twice_it_ends_the_same_bit_for_bit(
    case: str, make: Callable[[], nn.Module], device: str, some: Samples, tmp_path: Path
) -> None:
    recipe = Recipe(**{"batch_size": 32, "epochs": 4, "device": device, **CASES[case]})
    teacher = make().eval() if recipe.distill else None

    def fit(path: Path | None, on_epoch: Callable[[EpochReport], None] | None = None) -> nn.Module:
        rng = np.random.default_rng(5)
        return train(make(), some, recipe, rng, teacher=teacher, val=some, on_epoch=on_epoch, checkpoint=path)

    whole: list[EpochReport] = []
    expected = content(fit(None, whole.append))
    path = tmp_path / "training"
    for epoch in (1, 2):
        with pytest.raises(Killed):
            fit(path, kill_after(epoch))
        torch.manual_seed(epoch)  # another process has other numbers in torch's generator
    rest: list[EpochReport] = []
    assert same(content(fit(path, rest.append)), expected)
    assert [report.epoch for report in rest] == [report.epoch for report in whole][2:]
    for one, other in zip(rest, whole[2:], strict=True):
        assert (one.loss, one.lr, one.error, one.best_epoch) == (other.loss, other.lr, other.error, other.best_epoch)
    assert [entry.name for entry in tmp_path.iterdir()] == ["training"]


SCRIPT = """
import os, signal, sys
import numpy as np, safetensors.torch, torch
from evo.training import Recipe, Samples, train
from tests.training.small import network

def on_epoch(report):
    if report.epoch == 2:
        os.kill(os.getpid(), signal.SIGKILL)

torch.set_num_threads(1)
some = Samples(**safetensors.torch.load_file("images"))
train(network(), some, Recipe(epochs=4, batch_size=32, shift=1), np.random.default_rng(0), on_epoch=on_epoch, checkpoint="it")
"""


def test_another_process_goes_on_from_what_a_killed_one_left(some: Samples, tmp_path: Path) -> None:
    safetensors.torch.save_file({"x": some.x, "y": some.y}, tmp_path / "images")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    killed = subprocess.run([sys.executable, "-c", SCRIPT], check=False, cwd=tmp_path, env=environment)
    assert killed.returncode == -signal.SIGKILL
    recipe, epochs = Recipe(epochs=4, batch_size=32, shift=1), list[int]()
    rng = np.random.default_rng(0)
    model = train(
        network(), some, recipe, rng, on_epoch=lambda report: epochs.append(report.epoch), checkpoint=tmp_path / "it"
    )
    assert epochs == [3, 4]
    assert same(content(model), content(train(network(), some, recipe, np.random.default_rng(0))))


@pytest.mark.parametrize("case", ["sgd", "patience"])
def test_what_has_ended_is_handed_back_at_once(case: str, some: Samples, tmp_path: Path) -> None:
    recipe = Recipe(**{"batch_size": 32, "epochs": 3, **CASES[case]})
    path = tmp_path / "deeper" / "training"
    first = train(network(), some, recipe, np.random.default_rng(5), val=some, checkpoint=path)
    before = path.read_bytes()
    again = train(
        network(), some, recipe, np.random.default_rng(5), val=some, checkpoint=str(path), on_epoch=kill_after(1)
    )
    assert same(content(again), content(first))
    assert not again.training
    assert path.read_bytes() == before


def test_what_diverged_leaves_no_file_that_would_diverge_again(some: Samples, tmp_path: Path) -> None:
    recipe = Recipe(batch_size=32, epochs=3, lr=1e30)
    with pytest.raises(FloatingPointError):
        train(network(), some, recipe, np.random.default_rng(0), checkpoint=tmp_path / "training")
    assert not list(tmp_path.iterdir())


def test_a_generator_of_any_kind_is_kept(some: Samples, tmp_path: Path) -> None:
    recipe = Recipe(batch_size=32, epochs=2)

    def fit(path: Path | None, on_epoch: Callable[[EpochReport], None] | None = None) -> dict[str, Tensor]:
        rng = np.random.Generator(np.random.MT19937(3))
        return content(train(network(), some, recipe, rng, on_epoch=on_epoch, checkpoint=path))

    with pytest.raises(Killed):
        fit(tmp_path / "training", kill_after(1))
    assert same(fit(tmp_path / "training"), fit(None))


class TestRefusals:
    RECIPE = Recipe(batch_size=32, epochs=2, patience=5, distill=0.1)

    @pytest.fixture
    def begun(self, some: Samples, tmp_path: Path) -> Path:
        """The file of a training that was interrupted after one epoch."""
        with pytest.raises(Killed):
            self.fit(some, tmp_path / "training", on_epoch=kill_after(1))
        return tmp_path / "training"

    def fit(
        self,
        some: Samples,
        path: Path,
        recipe: Recipe = RECIPE,
        model: nn.Module | None = None,
        seed: int = 0,
        val: Samples | None = None,
        teacher: nn.Module | None = None,
        on_epoch: Callable[[EpochReport], None] | None = None,
    ) -> None:
        train(
            model or network(),
            some,
            recipe,
            np.random.default_rng(seed),
            val=val or some,
            teacher=(teacher or network()).eval(),
            checkpoint=path,
            on_epoch=on_epoch,
        )

    @pytest.mark.parametrize(
        ("change", "difference"),
        [
            ({"recipe": Recipe(batch_size=32, epochs=2, patience=5, distill=0.2)}, r"distill was 0\.1, is now 0\.2"),
            ({"recipe": Recipe(batch_size=32, epochs=3, patience=5, distill=0.1)}, r"epochs was 2\.0, is now 3\.0"),
            ({"recipe": Recipe(batch_size=32, epochs=2, distill=0.1)}, "patience was 5, is now None"),
            ({"model": Tied()}, "it has other initial weights"),
            ({"teacher": Tied()}, "it has other weights to distil from"),
            ({"seed": 1}, "it has other random numbers"),
        ],
    )
    def test_another_training_is_named(
        self, begun: Path, some: Samples, change: dict[str, Any], difference: str
    ) -> None:
        before = begun.read_bytes()
        with pytest.raises(NetworkError) as raised:
            self.fit(some, begun, **change)
        assert str(raised.value).startswith(f"{begun}: belongs to another training (")
        assert raised.match(difference + r"\); delete it, or choose another file$")
        assert begun.read_bytes() == before

    def test_other_images_are_named(self, begun: Path, some: Samples) -> None:
        fewer = some.take(np.arange(159))
        with pytest.raises(NetworkError, match=r"\(it has other training images\)"):
            self.fit(fewer, begun, val=some)
        with pytest.raises(NetworkError, match=r"\(it has other validation images\)"):
            self.fit(some, begun, val=fewer)

    def test_other_validation_images_do_not_matter_without_patience(self, some: Samples, tmp_path: Path) -> None:
        free = Recipe(batch_size=32, epochs=2)
        with pytest.raises(Killed):
            self.fit(some, tmp_path / "training", recipe=free, on_epoch=kill_after(1))
        self.fit(some, tmp_path / "training", recipe=free, val=some.take(np.arange(10)), teacher=Tied())

    def test_damage_is_one_sentence(self, begun: Path, some: Samples, tmp_path: Path) -> None:
        data = begun.read_bytes()
        other = tmp_path / "other"
        safetensors.torch.save_file({"weight": torch.zeros(3)}, other, {"evo": "{}"})
        for content_ in (b"", b"no such thing", data[:-100], data[:200], other.read_bytes()):
            begun.write_bytes(content_)
            with pytest.raises(NetworkError, match=r"training: damaged, or not the checkpoint of a training \(.*\)$"):
                self.fit(some, begun)

    def test_another_version_is_named(self, begun: Path, some: Samples) -> None:
        begun.write_bytes(begun.read_bytes().replace(b"evo-training-2", b"evo-training-1"))
        with pytest.raises(
            NetworkError, match=r"written as 'evo-training-1', this version of evo reads 'evo-training-2'"
        ):
            self.fit(some, begun)

    def test_a_place_that_cannot_be_written_is_refused_before_any_training(self, some: Samples, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        for place in (tmp_path, tmp_path / "file" / "training"):
            model = network()
            with pytest.raises(NetworkError, match=str(place)):
                self.fit(some, place, model=model)
            assert same(content(model), content(network()))

    def test_a_full_disk_leaves_the_last_good_file(
        self, begun: Path, some: Samples, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(_: int) -> None:
            raise OSError(28, "No space left on device")

        before = begun.read_bytes()
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(NetworkError, match=r"training: cannot be written \(.*No space left on device"):
            self.fit(some, begun)
        assert begun.read_bytes() == before
        assert [entry.name for entry in begun.parent.iterdir()] == ["training"]
