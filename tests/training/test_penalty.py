"""A penalty on absolute weights."""

import numpy as np
import pytest
import torch

from evo.errors import NetworkError
from evo.training import Recipe, Samples, train
from evo.training.penalty import WeightedL1
from evo.training.straight_through import StraightThrough
from tests.training.small import network


def test_it_is_the_weighted_sum_of_absolute_weights_and_its_gradient_their_sign() -> None:
    model, hook = network(), WeightedL1(0.5, {"0": 0.2, "4": 0.0, "7": 1.0})
    hook.begin(model)
    penalty = hook.penalty()
    assert penalty is not None
    first, last = model.get_parameter("0.weight"), model.get_parameter("7.weight")
    expected = 0.5 * (0.2 * first.abs().sum() + 1.0 * last.abs().sum())
    assert torch.allclose(penalty, expected)
    penalty.backward()  # type: ignore[no-untyped-call]
    assert first.grad is not None
    assert torch.allclose(first.grad, 0.1 * first.sign())
    assert model.get_parameter("4.weight").grad is None


def test_of_quantised_weights_it_is_the_quantised_ones() -> None:
    model, bits = network(), StraightThrough({"0": 2})
    hook = WeightedL1(1.0, {"0": 1.0})
    for each in (bits, hook):
        each.begin(model)
    bits.before_forward()
    penalty = hook.penalty()
    assert penalty is not None
    weight = model.get_parameter("0.weight").detach()
    quantised = weight.abs().sum()
    assert torch.equal(penalty.detach(), quantised)
    bits.before_step()
    assert not torch.equal(weight.abs().sum(), quantised)


def test_without_factors_there_is_none() -> None:
    for hook in (WeightedL1(0.0, {"0": 1.0}), WeightedL1(1.0, {"0": 0.0}), WeightedL1(1.0, {})):
        hook.begin(network())
        assert hook.penalty() is None


def test_training_with_it_leaves_smaller_weights(some: Samples) -> None:
    recipe = Recipe(batch_size=32, epochs=2, weight_decay=0.0)
    norms = []
    for eta in (0.0, 0.03):
        model = train(network(), some, recipe, np.random.default_rng(0), hooks=[WeightedL1(eta, {"4": 1.0})])
        norms.append(float(model.get_parameter("4.weight").detach().abs().sum()))
    assert norms[1] < 0.7 * norms[0]


def test_a_layer_that_does_not_exist_is_refused() -> None:
    with pytest.raises(NetworkError, match="unknown convolutional or linear layer '5'"):
        WeightedL1(1.0, {"5": 1.0}).begin(network())
