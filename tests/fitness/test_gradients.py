import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

from evo.fitness.gradients import Estimator, GradientRatio, gradients, layer_weights, positions_of, seeded

Array = NDArray[np.float32]
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="GPU"))]


def plain(values: Sequence[Array], ratio: GradientRatio, positions: Sequence[int] | None = None) -> float:
    """The definition, weight by weight in double precision; `values` are layers of shape (batches, weights)."""
    score = 0.0
    places = positions or [1] * len(values)
    for layer, place in zip(values, places, strict=True):
        total = square = 0.0
        for gradient in layer.T.astype(np.float64):
            mean = np.mean(np.abs(gradient))
            deviation = np.std(gradient if ratio.signed else np.abs(gradient))
            square += float(np.mean(gradient**2))
            if ratio.estimator == "printed":
                total += mean / deviation if deviation else 0.0
            elif mean:
                total += min(mean / deviation, ratio.cap) if deviation else ratio.cap
        if total:
            share = place / max(places)
            score += share**ratio.resolution * (math.log(total) + ratio.gradient * math.log(math.sqrt(square)))
    return score


def as_batches(values: Sequence[Array], dtype: torch.dtype = torch.float32) -> list[list[Tensor]]:
    return [[torch.from_numpy(layer[batch].copy()).to(dtype) for layer in values] for batch in range(len(values[0]))]


# Multiples of 1/8: sums and differences are exact, so that σ is 0 in float32 where it is 0 in truth.
numbers = st.integers(-40, 40).map(lambda number: number / 8)


@st.composite
def layers(draw: st.DrawFn) -> list[Array]:
    batches = draw(st.sampled_from([2, 2, 4, 8]))
    sizes = draw(st.lists(st.integers(1, 6), min_size=1, max_size=4))
    return [
        np.array(
            draw(st.lists(st.lists(numbers, min_size=n, max_size=n), min_size=batches, max_size=batches)), np.float32
        )
        for n in sizes
    ]


@settings(max_examples=200, deadline=None)
@given(
    layers(),
    st.builds(
        GradientRatio,
        st.sampled_from(["printed", "capped"]),
        st.sampled_from([1.5, 10.0, 100.0]),
        st.sampled_from([0.0, 0.2, 1.0]),
        st.sampled_from([0.0, 0.5, 1.0]),
        st.booleans(),
        st.booleans(),
    ),
    st.lists(st.integers(1, 100), min_size=4, max_size=4),
)
def test_equals_the_definition(values: list[Array], ratio: GradientRatio, positions: list[int]) -> None:
    if ratio.estimator == "printed":
        # Running means of more batches may be off by a rounding, where the definition's deviation is 0.
        steps = [np.arange(len(layer), dtype=np.float32)[:, None] ** 2 for layer in values]
        values = [
            np.where(np.abs(layer).std(0) * layer.std(0) == 0, np.abs(layer) + step, layer)
            for layer, step in zip(values, steps, strict=True)
        ]
    positions = positions[: len(values)]
    expected = plain(values, ratio, positions)
    assert ratio.of(as_batches(values), positions) == pytest.approx(expected, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("batches", [2, 3, 8])
@pytest.mark.parametrize("device", DEVICES)
def test_random_gradients(batches: int, signed: bool, device: str) -> None:
    rng = np.random.default_rng(batches)
    # A large mean and a small deviation, where running sums of squares would have no digits left.
    values = [rng.normal(1, spread, (batches, 500)).astype(np.float32) for spread in (1.0, 0.01, 0.001)]
    on_device = [[layer.to(device) for layer in batch] for batch in as_batches(values)]
    ratio = GradientRatio(cap=1e6, signed=signed)
    assert ratio.of(on_device, [64, 16, 1]) == pytest.approx(plain(values, ratio, [64, 16, 1]), rel=1e-4)


def test_constant_gradients_count_as_the_cap_or_not_at_all() -> None:
    values = [np.array([[1, 0, 3], [1, 0, 1]], np.float32), np.zeros((2, 4), np.float32)]
    assert GradientRatio(resolution=0, gradient=0).of(as_batches(values), [1, 1]) == pytest.approx(math.log(10 + 2))
    assert GradientRatio.printed().of(as_batches(values), [1, 1]) == pytest.approx(math.log(2))
    opposite = [np.array([[1, 2], [-1, 1]], np.float32)]
    assert GradientRatio.printed().of(as_batches(opposite), [1]) == pytest.approx(math.log(3))
    assert GradientRatio.printed(signed=True).of(as_batches(opposite), [1]) == pytest.approx(math.log(1 + 3))


def test_with_a_cap_of_one_and_nothing_else_it_counts_the_weights_of_two_batches() -> None:
    values = [np.random.default_rng(0).standard_normal((2, size)).astype(np.float32) for size in (5, 70)]
    counting = GradientRatio(cap=1, resolution=0, gradient=0)
    assert counting.of(as_batches(values), [1, 1]) == pytest.approx(math.log(5) + math.log(70))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_summed_in_float32(dtype: torch.dtype) -> None:
    values = [np.random.default_rng(0).standard_normal((2, 3000)).astype(np.float32)]
    batches = as_batches(values, dtype)
    rounded = [np.stack([batch[0].float().numpy() for batch in batches])]
    assert GradientRatio().of(batches, [1]) == pytest.approx(plain(rounded, GradientRatio()), rel=1e-5)


@pytest.mark.parametrize("batches", [2, 3])
@pytest.mark.parametrize("reference", [False, True])
@pytest.mark.parametrize("estimator", ["printed", "capped"])
@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_what_is_not_a_number_stays_so(estimator: Estimator, reference: bool, batches: int, wrong: float) -> None:
    values = [np.ones((batches, 3), np.float32), np.random.default_rng(0).random((batches, 3)).astype(np.float32)]
    values[1][:, 1] = wrong
    with np.errstate(invalid="ignore"):
        score = GradientRatio(estimator, gradient=0, reference=reference).of(as_batches(values), [1, 1])
    assert math.isnan(score)


def test_positions_are_those_of_every_call() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(2, 3, 3, stride=2)
            self.twice = nn.Conv2d(3, 3, 3, padding=1)
            self.up = nn.ConvTranspose2d(3, 2, 2, stride=2)
            self.rows = nn.Linear(10, 4)
            self.functional = nn.Linear(4, 5)
            self.computed = nn.utils.parametrizations.weight_norm(nn.Linear(5, 2))

        def forward(self, x: Tensor) -> Tensor:
            x = self.rows(
                self.up(self.twice(self.twice(self.conv(x)))).flatten(2).transpose(1, 2)[:, :, :1].expand(-1, -1, 10)
            )
            y: Tensor = self.computed(nn.functional.linear(x, self.functional.weight).mean(1))
            return y

    model = Model()
    weights = layer_weights(model)
    assert len(weights) == 5
    for images in (1, 3):
        with positions_of(model, weights) as positions:
            model(torch.zeros(images, 2, 9, 11))
        # 9 × 11 with stride 2 gives 4 × 5, doubled 8 × 10; as many rows.
        assert positions == [20, 40, 80, 80, 1]
    assert not any(module._forward_hooks for module in model.modules())


class Summed(nn.Module):
    """Two weights used only as their sum, which autograd gives one gradient between them, and one without use."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other, self.unused = (nn.Linear(5, 3, bias=False) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.one.weight + self.other.weight)


def test_weights_that_share_a_gradient_count_each() -> None:
    generator = torch.Generator().manual_seed(0)
    model = Summed()
    for layer in (model.one, model.other):
        layer.weight.data = torch.randn(3, 5, generator=generator)
    batches = [(torch.randn(8, 5, generator=generator), torch.arange(8) % 3) for _ in range(3)]
    found = [gradients(model, batch, layer_weights(model)) for batch in batches]
    values = [np.stack([batch[layer].flatten().numpy() for batch in found]) for layer in range(3)]
    assert values[0].tolist() == values[1].tolist()
    for count in (2, 3):
        expected = plain([layer[:count] for layer in values], GradientRatio())
        assert GradientRatio()(model, batches[:count]) == pytest.approx(expected, rel=1e-5)


class Joined(nn.Module):
    """Two weights that are joined and added to a third, so that the gradients of the two are halves of the third's."""

    def __init__(self) -> None:
        super().__init__()
        self.whole, self.upper, self.lower = (nn.Linear(5, rows, bias=False) for rows in (4, 2, 2))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, torch.cat([self.upper.weight, self.lower.weight]) + self.whole.weight)


@pytest.mark.parametrize("signed", [False, True])
def test_gradients_that_are_parts_of_another_are_not_overwritten_with_it(signed: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    model = Joined()
    for layer in (model.whole, model.upper, model.lower):
        layer.weight.data = torch.randn(layer.weight.shape, generator=generator)
    batches = [(torch.randn(8, 5, generator=generator), torch.arange(8) % 4) for _ in range(3)]
    found = [gradients(model, batch, layer_weights(model)) for batch in batches]
    assert found[0][2].untyped_storage().data_ptr() == found[0][0].untyped_storage().data_ptr()
    values = [np.stack([batch[layer].flatten().numpy() for batch in found]) for layer in range(3)]
    ratio = GradientRatio(signed=signed)
    for count in (2, 3):
        expected = plain([layer[:count] for layer in values], ratio)
        assert ratio(model, batches[:count]) == pytest.approx(expected, rel=1e-5)


def test_layer_weights_are_those_of_convolutions_and_linear_layers_once_each() -> None:
    shared = nn.Conv2d(2, 2, 3)
    model = nn.Sequential(
        shared, nn.BatchNorm2d(2), shared, nn.ConvTranspose2d(2, 3, 2), nn.Conv1d(3, 1, 1), nn.Linear(4, 2)
    )
    expected = [model[0].weight, model[3].weight, model[4].weight, model[5].weight]
    assert [id(weight) for weight in layer_weights(model)] == [id(weight) for weight in expected]


def test_seeded_draws_the_same_and_leaves_the_generator_alone() -> None:
    before = torch.get_rng_state()
    drawn = []
    for seed in (1, 1, 2):
        with torch.no_grad(), seeded(torch.device("cpu"), seed):
            assert torch.is_grad_enabled()
            drawn.append(torch.rand(3))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert torch.equal(torch.get_rng_state(), before)
