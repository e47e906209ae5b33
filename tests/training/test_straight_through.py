"""Weights of few bits in training: quantised in every pass, in full precision for the optimiser, quantised for good."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import evo
from evo.errors import NetworkError
from evo.network.origin import origin_of
from evo.quantization import dequantize, quantize, represent, weight_dim
from evo.quantization.latent import latent
from evo.training import EpochReport, Hook, Recipe, Samples, error_rate, train
from evo.training.appraisal import Appraisal
from evo.training.straight_through import StraightThrough
from tests.training.small import content, network, same

BITS = {"0": 4, "4": 2, "7": 1}
DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")),
]
RECIPE = Recipe(batch_size=32, epochs=2)


class Round(torch.autograd.Function):
    """Q_B forward, identity backward: the straight-through estimator as it is written."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, bits: int) -> Tensor:
        return dequantize(*quantize(weight, bits), weight.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


def optimiser(model: nn.Module, name: str) -> torch.optim.Optimizer:
    if name == "adam":
        return torch.optim.Adam(model.parameters(), lr=0.01, weight_decay=0.01)
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)


def loss_of(model: nn.Module, some: Samples, dtype: str, quantised: dict[str, Tensor]) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
        scores = torch.func.functional_call(model, quantised, (some.x[:32],))
        return nn.functional.cross_entropy(scores, some.y[:32])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_every_step_is_that_of_the_estimator_as_it_is_written(name: str, dtype: str, some: Samples) -> None:
    literal, ours = network(), network()
    steps, own_steps = optimiser(literal, name), optimiser(ours, name)
    hook = StraightThrough(BITS)
    hook.begin(ours)
    for step in range(6):
        torch.manual_seed(step)
        rounded = {}
        for layer, bits in BITS.items():
            weight = literal.get_parameter(f"{layer}.weight")
            rounded[f"{layer}.weight"] = Round.apply(weight, bits)  # type: ignore[no-untyped-call]
        loss = loss_of(literal, some, dtype, rounded)
        steps.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        steps.step()
        torch.manual_seed(step)
        hook.before_forward()
        own_loss = loss_of(ours, some, dtype, {})
        own_steps.zero_grad()
        own_loss.backward()  # type: ignore[no-untyped-call]
        hook.before_step()
        own_steps.step()
        hook.after_step()
        assert torch.equal(own_loss, loss)
        assert same(content(ours), content(literal))
    moved = [
        not torch.equal(ours.get_parameter(f"{layer}.weight"), network().get_parameter(f"{layer}.weight"))
        for layer in BITS
    ]
    assert all(moved)
    hook.end()
    for layer, bits in BITS.items():
        expected = dequantize(*quantize(literal.get_parameter(f"{layer}.weight").detach(), bits))
        assert torch.equal(ours.get_parameter(f"{layer}.weight"), expected)


def on_grid(model: nn.Module, bits: dict[str, int]) -> bool:
    found = []
    for layer, count in bits.items():
        weight, dim = weight_dim(model, layer)
        found.append(represent(weight.detach(), count, dim) is not None)
    return all(found)


@pytest.fixture
def low(digits_task: evo.Task) -> Callable[..., nn.Module]:
    """Makes a network of the task, three quarters of each layer, in 4, 3, 2 and 1 bits."""
    task_network = digits_task.network
    masks = {group.name: np.arange(group.size) < 3 * group.size // 4 for group in task_network.groups}
    bits = dict(zip(task_network.quantisable, (4, 3, 2, 1), strict=True))
    blueprint = evo.Blueprint.from_masks(masks).with_bits(bits)
    return lambda: task_network.build(blueprint)


LOW = {"0": 4, "4": 3, "9": 2, "11": 1}


def test_train_keeps_a_low_bit_network_on_its_grid_by_itself(low: Callable[[], nn.Module], some: Samples) -> None:
    expected = content(train(low(), some, RECIPE, np.random.default_rng(0), hooks=[StraightThrough(LOW)]))
    model = train(low(), some, RECIPE, np.random.default_rng(0))
    assert same(content(model), expected)
    assert on_grid(model, LOW)
    assert [name for name, _ in model.named_modules()] == [name for name, _ in low().named_modules()]
    before = content(low())
    assert not any(torch.equal(before[f"{layer}.weight"], expected[f"{layer}.weight"]) for layer in LOW)


def test_training_begins_with_the_weights_that_were_quantised(
    low: Callable[[], nn.Module], digits_task: evo.Task, some: Samples
) -> None:
    blueprint = origin_of(low()).blueprint
    assert blueprint is not None
    whole = digits_task.network.build(blueprint.with_bits({}))
    expected = content(train(whole, some, RECIPE, np.random.default_rng(0), hooks=[StraightThrough(LOW)]))
    built = low()
    model = train(copy.deepcopy(built), some, RECIPE, np.random.default_rng(0))
    assert same(content(model), expected)
    assert latent(built)
    assert not latent(model)
    grown = low()
    grown.get_parameter("4.weight").data.mul_(2)  # no longer what was noted
    hook = StraightThrough(LOW)
    hook.begin(grown)
    assert torch.equal(grown.get_parameter("4.weight"), 2 * built.get_parameter("4.weight"))
    assert torch.equal(grown.get_parameter("9.weight"), latent(built)["9"])


def test_other_hooks_begin_with_full_precision(low: Callable[[], nn.Module], some: Samples) -> None:
    """More than half of the 2-bit weights are 0: connection appraisal must not take them for removed ones."""
    begun: list[Tensor] = []

    class Watch(Hook):
        def begin(self, model: nn.Module) -> None:
            begun.append(model.get_parameter("9.weight").detach().clone())

    train(low(), some, RECIPE, np.random.default_rng(0), hooks=[Watch()])
    assert (low().get_parameter("9.weight") == 0).float().mean() > 0.5
    assert (begun[0] != 0).all()


def test_connections_can_be_pruned_at_the_same_time(low: Callable[[], nn.Module], some: Samples) -> None:
    recipe = Recipe(batch_size=32, epochs=4, appraisal=Appraisal(every=2, patience=1, threshold=0.5))
    model = train(low(), some, recipe, np.random.default_rng(0))
    plain = train(low(), some, Recipe(batch_size=32, epochs=4), np.random.default_rng(0))
    zeros = [(each.get_parameter("0.weight") == 0).float().mean() for each in (model, plain)]
    assert zeros[0] > zeros[1]
    assert on_grid(model, {layer: bits for layer, bits in LOW.items() if bits > 1})


def test_without_a_step_the_network_stays_as_it_is(low: Callable[[], nn.Module], some: Samples) -> None:
    model = train(low(), some, Recipe(epochs=0), np.random.default_rng(0))
    assert same(content(model), content(low()))


def test_a_network_without_bits_is_trained_as_ever(digits_task: evo.Task, some: Samples) -> None:
    whole = digits_task.network.full
    one, other = (digits_task.network.build(whole) for _ in range(2))
    train(one, some, RECIPE, np.random.default_rng(0))
    train(other, some, RECIPE, np.random.default_rng(0), hooks=[StraightThrough({"0": 32})])
    assert same(content(one), content(other))
    assert not on_grid(one, LOW)


CASES: dict[str, dict[str, object]] = {
    "sgd": {},
    "adam": {"optimizer": "adam", "lr": 0.01},
    "bfloat16": {"dtype": "bfloat16"},
    "patience": {"epochs": 6, "patience": 2, "lr": 0.2},
    "distilled": {"distill": 0.5},
}


class Killed(BaseException):
    """Stands for the end of a process."""


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("case", CASES)
def test_interrupted_it_ends_the_same_bit_for_bit(
    case: str, device: str, low: Callable[[], nn.Module], digits_task: evo.Task, some: Samples, tmp_path: Path
) -> None:
    recipe = Recipe(**{"batch_size": 32, "epochs": 3, "device": device, **CASES[case]})
    teacher = digits_task.network.build(digits_task.network.full)

    def fit(path: Path | None, on_epoch: Callable[[EpochReport], None]) -> nn.Module:
        rng = np.random.default_rng(5)
        return train(low(), some, recipe, rng, teacher=teacher, val=digits_task.val, on_epoch=on_epoch, checkpoint=path)

    def kill(report: EpochReport) -> None:
        if report.epoch == 2:
            raise Killed

    reports: list[EpochReport] = []
    whole = fit(None, reports.append)
    with pytest.raises(Killed):
        fit(tmp_path / "training", kill)
    again = fit(tmp_path / "training", lambda report: None)
    assert same(content(again), content(whole))
    assert same(content(fit(tmp_path / "training", lambda report: None)), content(whole)), "it has ended already"
    assert on_grid(whole, LOW)
    kept = reports[-1].best_error if recipe.patience else reports[-1].error
    assert error_rate(whole, digits_task.val, device=device) == kept, "what was judged is what is handed over"


class Tied(nn.Module):
    """Two layers with one weight."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.first, self.second, self.last = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 10)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.last(self.second(self.first(x.flatten(1)).relu()).relu()))


def test_a_shared_weight_is_quantised_once(some: Samples) -> None:
    models = [
        train(Tied(), some, RECIPE, np.random.default_rng(0), hooks=[StraightThrough(bits)])
        for bits in ({"first": 3}, {"second": 3}, {"first": 3, "second": 3})
    ]
    assert all(same(content(model), content(models[0])) for model in models)
    assert on_grid(models[0], {"first": 3})
    with pytest.raises(NetworkError, match="second: shares its weight with another layer, which is quantised differ"):
        train(Tied(), some, RECIPE, np.random.default_rng(0), hooks=[StraightThrough({"first": 3, "second": 4})])


def test_while_it_is_judged_the_network_is_what_would_be_handed_over() -> None:
    model, hook = network(), StraightThrough(BITS)
    before = content(model)
    hook.begin(model)
    with hook.judging():
        assert on_grid(model, BITS)
    assert same(content(model), before)
    hook.before_forward()
    hook.before_forward()
    assert on_grid(model, BITS)
    hook.close()
    assert same(content(model), before), "training failed in a forward pass"


def test_several_passes_before_a_step_share_the_weights() -> None:
    model, hook = network(), StraightThrough(BITS)
    hook.begin(model)
    before = content(model)
    for _ in range(2):
        hook.before_forward()
    hook.before_step()
    assert same(content(model), before)


def test_weights_that_become_infinite_are_a_training_that_diverged(low: Callable[[], nn.Module], some: Samples) -> None:
    class Spoil(Hook):
        def begin(self, model: nn.Module) -> None:
            self.weight = model.get_parameter("4.weight")

        def after_step(self) -> None:
            self.weight.data.fill_(torch.inf)

    with pytest.raises(FloatingPointError, match="4: its weights became NaN or infinite; lower the learning rate"):
        train(low(), some, RECIPE, np.random.default_rng(0), hooks=[Spoil()])


def test_a_fine_tuned_file_takes_its_bits(low: Callable[[], nn.Module], some: Samples, tmp_path: Path) -> None:
    model = train(low(), some, RECIPE, np.random.default_rng(0))
    path = evo.save(model, tmp_path / "small.evo")
    weights = sum(-(-model.get_parameter(f"{layer}.weight").numel() * bits // 8) for layer, bits in LOW.items())
    stored = evo.network.checkpoint.describe(path)["tensors"]
    assert sum(stored[f"{layer}.weight"]["shape"][0] for layer in LOW) == weights
    assert all(stored[f"{layer}.weight"]["dtype"] == "uint8" for layer in LOW)
