"""Batch-norm statistics and the error of a network."""

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from evo.errors import SettingsError
from evo.training import Recipe, Samples, error_rate, recalibrate
from tests.training.small import content, network, same


def test_recalibration_equals_statistics_by_hand(some: Samples) -> None:
    model = network().train()
    before = content(model)
    recalibrate(model, some, Recipe(batch_size=40))
    with torch.no_grad():
        convolved = nn.functional.conv2d(some.x, before["0.weight"], before["0.bias"])
        batches = torch.split(convolved, 40)
        means = torch.stack([batch.mean((0, 2, 3)) for batch in batches])
        variances = torch.stack([batch.transpose(0, 1).flatten(1).var(1, unbiased=True) for batch in batches])
        # What follows sees activations normalised by each batch's own statistics.
        hidden = []
        for batch in batches:
            normal = (batch - batch.mean((0, 2, 3), keepdim=True)) / (
                batch.transpose(0, 1).flatten(1).var(1, unbiased=False)[None, :, None, None] + 1e-5
            ).sqrt()
            hidden.append(nn.functional.linear(normal.relu().flatten(1), before["4.weight"], before["4.bias"]))
        second = torch.stack([batch.mean(0) for batch in hidden])
        spread = torch.stack([batch.var(0) for batch in hidden])
    after = content(model)
    torch.testing.assert_close(after["1.running_mean"], means.mean(0), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(after["1.running_var"], variances.mean(0), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(after["5.running_mean"], second.mean(0), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(after["5.running_var"], spread.mean(0), rtol=1e-3, atol=1e-5)
    learnt = [name for name, _ in model.named_parameters()]
    assert all(torch.equal(after[name], before[name]) for name in learnt)
    assert all(module.training for module in model.modules()), "modes are as before"
    assert [module.momentum for module in model.modules() if isinstance(module, nn.BatchNorm2d)] == [0.1]


def test_recalibration_without_batch_norm_does_nothing(some: Samples) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    before = content(model)
    assert recalibrate(model, some, Recipe()) is model
    assert same(content(model), before)


def test_a_single_image_is_left_out_of_the_statistics(some: Samples) -> None:
    odd = some.take(np.arange(81))
    one, other = network(), network()
    recalibrate(one, odd, Recipe(batch_size=40))
    recalibrate(other, odd.take(np.arange(80)), Recipe(batch_size=40))
    assert same(content(one), content(other))


def test_error_rate_counts_wrong_images_and_restores_modes(some: Samples) -> None:
    model = network().train()
    model.get_submodule("1").eval()
    error = error_rate(model, some, batch_size=37)
    assert [module.training for module in model.children()] == [True, False] + [True] * 6
    assert torch.is_grad_enabled()
    judge = copy.deepcopy(model).eval()
    with torch.no_grad():
        wrong = sum(int(judge(some.x[i : i + 1]).argmax()) != int(some.y[i]) for i in range(len(some)))
    assert error == wrong / len(some)
    assert 0 < error < 1


def test_error_rate_of_a_network_that_is_not_finite_raises(some: Samples) -> None:
    model = network()
    with torch.no_grad():
        model.get_parameter("7.bias")[3] = torch.nan
    with pytest.raises(FloatingPointError, match="output is not finite"):
        error_rate(model, some)


class Twice(nn.Module):
    """One batch norm that is used twice, on activations of different sizes, and one that keeps no statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)
        self.alias = self.norm
        self.second = nn.Conv2d(3, 3, 3, stride=2)
        self.free = nn.BatchNorm2d(3, track_running_stats=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.first(x)).relu()
        x = self.alias(self.second(x)).relu()
        scores: Tensor = self.free(x).mean((2, 3))
        return scores


@pytest.mark.parametrize("images", [None, 64])
def test_recalibration_of_a_shared_norm_averages_over_its_uses(some: Samples, images: int | None) -> None:
    torch.manual_seed(0)
    model = Twice().eval()
    means, variances = [], []
    with torch.no_grad():
        for x in torch.split(some.x[:images], 32):
            for convolution in (model.first, model.second):
                x = convolution(x)
                means.append(x.mean((0, 2, 3)))
                variances.append(x.transpose(0, 1).flatten(1).var(1))
                x = nn.functional.batch_norm(x, None, None, model.norm.weight, model.norm.bias, training=True).relu()
    recalibrate(model, some, Recipe(batch_size=32), images)
    torch.testing.assert_close(model.norm.running_mean, torch.stack(means).mean(0), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(model.norm.running_var, torch.stack(variances).mean(0), rtol=1e-4, atol=1e-6)
    assert model.norm.num_batches_tracked == len(means)
    assert model.free.running_mean is None


def test_recalibration_leaves_frozen_statistics(some: Samples) -> None:
    """Layers that hold their statistics as constants are no batch norm that anything could be collected for."""

    class Frozen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("running_mean", torch.full((1,), 0.5))

        def forward(self, x: Tensor) -> Tensor:
            return x - self.get_buffer("running_mean")

    model = nn.Sequential(Frozen(), nn.BatchNorm2d(1), nn.Flatten())
    recalibrate(model, some, Recipe(batch_size=32))
    assert float(model.get_buffer("0.running_mean")) == 0.5
    mean = float(torch.stack([x.mean() for x in torch.split(some.x, 32)]).mean()) - 0.5
    assert float(model.get_buffer("1.running_mean")) == pytest.approx(mean, rel=1e-5)


def test_recalibration_that_fails_leaves_the_layers_as_they_were(some: Samples) -> None:
    model = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(3, 10)).train()
    with pytest.raises(RuntimeError):
        recalibrate(model, some, Recipe())
    assert model.get_submodule("0").momentum == 0.1
    assert model.training


@pytest.mark.parametrize("images", [0, 1])
def test_recalibration_refuses_too_few_images(some: Samples, images: int) -> None:
    model = network()
    before = content(model)
    with pytest.raises(SettingsError, match=f"recalibrate: statistics need two images or more, got {images}"):
        recalibrate(model, some, Recipe(), images)
    assert same(content(model), before)
