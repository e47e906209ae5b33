"""Hooks take part in every step, alike in `train` and in a plain loop, and survive a crash."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from evo.errors import NetworkError
from evo.training import EpochReport, Hook, Recipe, Samples, error_rate, train
from evo.training.hooks import Hooks
from tests.training.small import content, network, same


class Average(Hook):
    """Draws the first layer to a moving average of itself, which is also what it hands over; notes its norm at every step."""

    def __init__(self, pull: float = 0.1) -> None:
        self.pull = pull

    def begin(self, model: nn.Module) -> None:
        self.weight = model.get_parameter("0.weight")
        self.average = self.weight.detach().clone()
        self.norms = torch.zeros(0)

    def penalty(self) -> Tensor:
        return self.pull * (self.weight - self.average).square().sum()

    def before_step(self) -> None:
        assert self.weight.grad is not None
        self.weight.grad[0] = 0

    def after_step(self) -> None:
        self.average.lerp_(self.weight.detach(), 0.2)
        self.norms = torch.cat([self.norms, self.average.norm()[None]])

    @contextmanager
    def judging(self) -> Iterator[None]:
        before = self.weight.detach().clone()
        self.weight.data.copy_(self.average)
        try:
            yield
        finally:
            self.weight.data.copy_(before)

    def end(self) -> None:
        self.weight.data.copy_(self.average)

    def tensors(self) -> dict[str, Tensor]:
        return {"average": self.average, "norms": self.norms}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        self.average.copy_(tensors["average"])
        self.norms = tensors["norms"]

    def describe(self) -> dict[str, object]:
        return {**super().describe(), "pull": self.pull}


class Diary(Hook):
    """Notes every call."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def begin(self, model: nn.Module) -> None:
        self.calls.append("begin" if model.training else "begin in evaluation mode")

    def before_forward(self) -> None:
        self.calls.append("before_forward")

    def penalty(self) -> None:
        self.calls.append("penalty")

    def before_step(self) -> None:
        self.calls.append("before_step")

    def after_step(self) -> None:
        self.calls.append("after_step")

    @contextmanager
    def judging(self) -> Iterator[None]:
        self.calls.append("judging")
        yield
        self.calls.append("judged")

    def after_epoch(self, error: float | None) -> None:
        self.calls.append(f"after_epoch {error is not None}")

    def end(self) -> None:
        self.calls.append("end")

    def close(self) -> None:
        self.calls.append("close")


STEP = ["before_forward", "penalty", "before_step", "after_step"]
RECIPE = Recipe(batch_size=80, epochs=2)


def fit(some: Samples, hook: Hook, recipe: Recipe = RECIPE, **settings: object) -> nn.Module:
    return train(network(), some, recipe, np.random.default_rng(0), hooks=[hook], **settings)  # type: ignore[arg-type]


class TestCalls:
    def test_come_in_this_order(self, some: Samples) -> None:
        diary = Diary()
        fit(some, diary)
        assert diary.calls == ["begin", *2 * (2 * STEP + ["after_epoch False"]), "end", "close"]

    def test_enclose_what_is_measured(self, some: Samples) -> None:
        diary = Diary()
        fit(some, diary, val=some, on_epoch=lambda _: None)
        assert diary.calls == ["begin", *2 * (2 * STEP + ["judging", "judged", "after_epoch True"]), "end", "close"]

    def test_begin_and_end_a_training_without_steps(self, some: Samples) -> None:
        diary = Diary()
        fit(some, diary, Recipe(epochs=0))
        assert [call.split()[0] for call in diary.calls] == ["begin", "end", "close"]

    def test_let_go_of_a_model_whose_training_fails(self, some: Samples) -> None:
        diary = Diary()
        with pytest.raises(FloatingPointError):
            fit(some, diary, Recipe(batch_size=80, lr=1e30, epochs=2))
        assert "end" not in diary.calls
        assert diary.calls[-1] == "close"


def literally(model: nn.Module, samples: Samples, recipe: Recipe, hooks: Hook) -> nn.Module:
    """The loop of Hook's docstring, with the order, learning rates and random numbers of `train`."""
    rng = np.random.default_rng(0)
    torch.manual_seed(int(rng.integers(2**63)))
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(model.parameters(), momentum=0.9, nesterov=True, weight_decay=5e-4)
    hooks.begin(model.train())
    per_epoch = len(samples) // recipe.batch_size
    steps = round(recipe.epochs * per_epoch)
    for step in range(steps):
        if step % per_epoch == 0:
            order = torch.from_numpy(rng.permutation(len(samples)))
        rows = order[step % per_epoch * recipe.batch_size :][: recipe.batch_size]
        optimizer.param_groups[0]["lr"] = recipe.lr * (0.5 * (1 + math.cos(math.pi * (step / steps))))
        hooks.before_forward()
        loss = nn.functional.cross_entropy(
            model(samples.x[rows].to(memory_format=torch.channels_last)), samples.y[rows]
        )
        extra = hooks.penalty()
        if extra is not None:
            loss = loss + extra
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        hooks.before_step()
        optimizer.step()
        hooks.after_step()
    hooks.end()
    hooks.close()
    return model


def test_a_plain_loop_does_the_same_with_them_bit_for_bit(some: Samples) -> None:
    with torch.random.fork_rng(devices=[]):
        expected = content(literally(network(), some, RECIPE, Hooks([Average(), Average(0.5)])))
    model = train(network(), some, RECIPE, np.random.default_rng(0), hooks=[Average(), Average(0.5)])
    assert same(content(model), expected)
    assert not same(content(model), content(train(network(), some, RECIPE, np.random.default_rng(0))))


def test_what_is_judged_and_kept_is_what_would_be_handed_over(some: Samples) -> None:
    reports: list[EpochReport] = []
    model = fit(some, Average(), val=some, on_epoch=reports.append)
    assert reports[-1].error == error_rate(model, some)

    class Keeping(Average):
        """Keeps what was handed over to be judged, and leaves the weights in the end as they are."""

        def begin(self, model: nn.Module) -> None:
            super().begin(model)
            self.judged: list[Tensor] = []

        @contextmanager
        def judging(self) -> Iterator[None]:
            self.judged.append(self.average.clone())
            with super().judging():
                yield

        def end(self) -> None:
            pass

    hook = Keeping()
    fit(some, hook, Recipe(batch_size=32, epochs=8, patience=2, lr=0.5), val=some, on_epoch=reports.append)
    best = reports[-1].best_epoch
    assert best is not None
    assert best < len(hook.judged)
    assert torch.equal(hook.weight, hook.judged[best - 1])


class Killed(BaseException):
    """Stands for the end of a process."""


@pytest.mark.parametrize("recipe", [{}, {"patience": 2, "lr": 0.2}, {"epochs": 2.6, "optimizer": "adam"}])
def test_interrupted_twice_it_ends_the_same_bit_for_bit(
    recipe: dict[str, object], some: Samples, tmp_path: Path
) -> None:
    settings = Recipe(**{"batch_size": 32, "epochs": 4, **recipe})

    def kill(report: EpochReport) -> None:
        raise Killed

    whole = Average()
    expected = content(fit(some, whole, settings, val=some))
    for _ in range(2):
        with pytest.raises(Killed):
            fit(some, Average(), settings, val=some, on_epoch=kill, checkpoint=tmp_path / "training")
    resumed = Average()
    assert same(content(fit(some, resumed, settings, val=some, checkpoint=tmp_path / "training")), expected)
    assert torch.equal(resumed.norms, whole.norms)
    again = Average()
    assert same(content(fit(some, again, settings, val=some, checkpoint=tmp_path / "training")), expected)
    assert torch.equal(again.norms, whole.norms)


@pytest.mark.parametrize("hooks", [[], [Average(0.2)], [Average(), Average()]])
def test_other_hooks_are_another_training(hooks: list[Hook], some: Samples, tmp_path: Path) -> None:
    def kill(report: EpochReport) -> None:
        raise Killed

    with pytest.raises(Killed):
        fit(some, Average(), on_epoch=kill, checkpoint=tmp_path / "training")
    with pytest.raises(NetworkError, match=r"belongs to another training \(it has other hooks\)"):
        train(network(), some, RECIPE, np.random.default_rng(0), hooks=hooks, checkpoint=tmp_path / "training")
