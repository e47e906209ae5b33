"""Learning rates, against torch's own schedulers and by hand."""

import warnings
from itertools import pairwise

import pytest
import torch
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LinearLR, LRScheduler, SequentialLR, StepLR

from evo.errors import SettingsError
from evo.training import Recipe
from evo.training.schedule import learning_rate

PER_EPOCH = 7


def rates(recipe: Recipe) -> list[float]:
    """Return the learning rate of every step of a training with seven steps per epoch."""
    steps = round(recipe.epochs * PER_EPOCH)
    return [learning_rate(recipe, step, steps, PER_EPOCH) for step in range(steps)]


def theirs(kind: str, optimizer: torch.optim.Optimizer, recipe: Recipe, steps: int) -> LRScheduler:
    """Return torch's scheduler of that kind, to be stepped after every batch."""
    if kind == "constant":
        return ConstantLR(optimizer, factor=1.0)
    if kind == "step":
        return StepLR(optimizer, round(recipe.step_epochs * PER_EPOCH), recipe.step_factor)
    return CosineAnnealingLR(optimizer, T_max=steps, eta_min=recipe.final_lr)


@pytest.mark.parametrize("warmup", [0.0, 2.0, 0.5])
@pytest.mark.parametrize(
    "settings",
    [
        {"schedule": "constant", "lr": 0.3},
        {"schedule": "step", "lr": 0.01, "step_epochs": 3.0},
        {"schedule": "step", "lr": 0.1, "step_epochs": 1.0, "step_factor": 0.5},
        {"schedule": "cosine", "lr": 0.05},
        {"schedule": "cosine", "lr": 0.2, "final_lr": 0.02},
    ],
)
def test_the_rates_are_those_of_torch(settings: dict[str, object], warmup: float) -> None:
    recipe = Recipe(epochs=10, warmup=warmup, **settings)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=recipe.lr)
    steps, first = 10 * PER_EPOCH, round(warmup * PER_EPOCH)
    if not first:
        scheduler = theirs(str(recipe.schedule), optimizer, recipe, steps)
    else:
        rise = LinearLR(optimizer, start_factor=1 / first, total_iters=first - 1)
        rest = theirs(str(recipe.schedule), optimizer, recipe, steps - first)
        scheduler = SequentialLR(optimizer, [rise, rest], milestones=[first])
    expected = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # SequentialLR calls its parts with an argument that torch itself deprecates
        for _ in range(steps):
            expected.append(float(optimizer.param_groups[0]["lr"]))
            optimizer.step()
            scheduler.step()
    ours = rates(recipe)
    if recipe.schedule == "step" and first:
        # Theirs begins to count when the warm-up is over, ours with the training.
        assert ours[first:] == pytest.approx(rates(Recipe(epochs=10, **settings))[first:], rel=1e-9)
        ours, expected = ours[:first], expected[:first]
    assert ours == pytest.approx(expected, rel=1e-9)


def test_fnp_divides_by_ten_every_fifty_epochs() -> None:
    ours = rates(Recipe(epochs=120, lr=0.01, schedule="step"))
    assert [ours[epoch * PER_EPOCH] for epoch in (0, 49, 50, 99, 100, 119)] == pytest.approx(
        [0.01, 0.01, 0.001, 0.001, 0.0001, 0.0001]
    )


def test_onecycle_by_hand() -> None:
    ours = rates(Recipe(epochs=100 / PER_EPOCH, lr=2.0, schedule="onecycle", final_lr=0.5))
    assert [ours[step] for step in (0, 10, 20, 60)] == pytest.approx([0.1, 1.05, 2.0, 1.25])
    assert ours[99] == pytest.approx(0.5, abs=1e-3)
    assert all(one < other for one, other in pairwise(ours[:21]))
    assert all(one > other for one, other in pairwise(ours[20:]))


@pytest.mark.parametrize("schedule", ["constant", "step", "cosine"])
def test_warmup_may_be_all_there_is(schedule: str) -> None:
    ours = rates(Recipe(epochs=1, warmup=1, lr=0.7, schedule=schedule))
    assert ours == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7])


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"warmup": 3, "epochs": 2}, r"^Recipe\.warmup: got 3.*; at most as many as epochs, which is 2$"),
        ({"warmup": 1, "schedule": "onecycle"}, r"warmup: got 1.*; the schedule onecycle has a rise of its own$"),
        ({"lr": 0.01, "final_lr": 0.02}, r"final_lr: got 0\.02; at most lr, which is 0\.01$"),
        ({"final_lr": 0.01, "schedule": "step"}, r"final_lr: got 0\.01; the schedule step has none, only cosine and"),
        ({"schedule": "linear"}, r"schedule: got 'linear'; input should be 'constant', 'step', 'cosine' or 'onecycle'"),
        ({"step_factor": 0}, r"step_factor: got 0; input should be greater than 0"),
    ],
)
def test_what_makes_no_sense_is_refused(settings: dict[str, object], sentence: str) -> None:
    with pytest.raises(SettingsError, match=sentence):
        Recipe(**settings)


def test_no_epochs_with_warmup_is_no_mistake() -> None:
    assert rates(Recipe(epochs=0, warmup=2)) == []
