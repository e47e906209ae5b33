"""Units that nothing reads are cut out of a trained network, and its output stays what it was."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import evo
from evo.network.origin import origin_of
from evo.training import Appraisal, Recipe, Samples, appraisals, finetune, slice_dead_units, sparsity, train
from tests.training.small import content, network, same


class Residual(nn.Module):
    """A residual addition, a depthwise and a grouped convolution, and a concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.inner = nn.Conv2d(8, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.outer = nn.Conv2d(6, 8, 3, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.grouped = nn.Conv2d(8, 12, 3, padding=1, groups=2)
        self.up = nn.ConvTranspose2d(12, 4, 2, stride=2)
        self.head = nn.Linear(4 + 8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.outer(self.norm(self.inner(x)).relu())
        y = self.up(self.grouped(self.depthwise(x).relu()).relu())
        scores: Tensor = self.head(torch.cat([y.mean((2, 3)), x.mean((2, 3))], 1))
        return scores


def forget(weight: Tensor, dim: int, channels: list[int]) -> None:
    weight.detach().index_fill_(dim, torch.tensor(channels), 0)


def scattered(make: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """Return a network with biases and statistics that are anything but neutral."""
    torch.manual_seed(seed)
    model = make().eval()
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            if tensor.dim() == 1:
                tensor.uniform_(0.5, 1.5)
    return model


def output(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        scores: Tensor = model.eval()(x)
    return scores


def test_a_unit_that_nothing_reads_goes_and_those_that_only_it_has_read() -> None:
    model = scattered(lambda: nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 6), nn.ReLU(), nn.Linear(6, 3)))
    forget(model.get_parameter("4.weight"), 1, [0, 5])
    forget(model.get_parameter("2.weight")[1:5], 1, [3])  # read by units 0 and 5 alone
    x = torch.randn(20, 5)
    small = slice_dead_units(model, x[:2])
    assert [tuple(small.get_parameter(f"{name}.weight").shape) for name in (0, 2, 4)] == [(6, 5), (4, 6), (3, 4)]
    torch.testing.assert_close(output(small, x), output(model, x), rtol=0, atol=1e-5)
    assert type(small) is nn.Sequential


def test_a_unit_without_inputs_is_alive_as_long_as_its_constant_is_read() -> None:
    model = scattered(lambda: nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3)))
    forget(model.get_parameter("0.weight"), 0, [2, 4])
    forget(model.get_parameter("2.weight"), 1, [4])
    x = torch.randn(20, 5)
    small = slice_dead_units(model, x[:2])
    assert tuple(small.get_parameter("0.weight").shape) == (6, 5)
    torch.testing.assert_close(output(small, x), output(model, x), rtol=0, atol=1e-5)


def test_what_a_network_ties_together_goes_together() -> None:
    model = scattered(Residual)
    forget(model.get_parameter("inner.weight"), 1, [1])
    forget(model.get_parameter("outer.weight"), 1, [0, 2])
    forget(model.get_parameter("up.weight"), 0, [1, 3, 7])  # of the two groups' six each: two and one
    x = torch.randn(4, 3, 8, 8)
    small = slice_dead_units(model, x)
    assert small.get_parameter("inner.weight").shape[0] == 4
    assert small.get_parameter("stem.weight").shape[0] == 8, "the addition, the depthwise layer and the head read it"
    assert small.get_parameter("grouped.weight").shape[0] == 10, "one of each group"
    torch.testing.assert_close(output(small, x), output(model, x), rtol=0, atol=1e-5)
    forget(model.get_parameter("inner.weight"), 1, [1, 6])
    forget(model.get_parameter("head.weight"), 1, [4 + 1, 4 + 6])
    forget(model.get_parameter("grouped.weight")[:6], 1, [1])
    forget(model.get_parameter("grouped.weight")[6:], 1, [2])
    small = slice_dead_units(model, x)
    assert small.get_parameter("stem.weight").shape[0] == small.get_parameter("depthwise.weight").shape[0] == 6
    torch.testing.assert_close(output(small, x), output(model, x), rtol=0, atol=1e-5)


@pytest.mark.parametrize("affine", [True, False])
def test_channels_that_are_normalised_together_stay(affine: bool) -> None:
    model = scattered(
        lambda: nn.Sequential(
            nn.Linear(5, 8),
            nn.LayerNorm(8, elementwise_affine=affine),
            nn.ReLU(),
            nn.Linear(8, 6),
            nn.ReLU(),
            nn.Linear(6, 3),
        )
    )
    forget(model.get_parameter("3.weight"), 1, [0])
    forget(model.get_parameter("5.weight"), 1, [2, 3])
    x = torch.randn(20, 5)
    small = slice_dead_units(model, x)
    assert [small.get_parameter(f"{name}.weight").shape[0] for name in (0, 3)] == [8, 4]
    torch.testing.assert_close(output(small, x), output(model, x), rtol=0, atol=1e-5)


def test_a_layer_of_dead_units_keeps_one() -> None:
    model = scattered(lambda: nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3)))
    forget(model.get_parameter("2.weight"), 1, list(range(7)))
    x = torch.randn(20, 5)
    small = slice_dead_units(model, x)
    assert tuple(small.get_parameter("0.weight").shape) == (1, 5)
    torch.testing.assert_close(output(small, x), output(model, x), rtol=0, atol=1e-5)


def test_the_structure_is_one_of_the_original(digits_task: evo.Task, digits: Samples) -> None:
    whole = digits_task.network
    masks = {name: mask.copy() for name, mask in whole.full.masks.items()}
    for mask in masks.values():
        mask[::3] = False
    candidate = whole.build(evo.Blueprint.from_masks(masks))
    finetune(candidate, digits_task, epochs=6, batch_size=50, appraisal=Appraisal(threshold=0.9, every=2, patience=3))
    small = slice_dead_units(candidate, digits.x[:2], whole)
    blueprint = origin_of(small).blueprint
    assert blueprint is not None
    assert all((blueprint.masks[name] <= mask).all() for name, mask in masks.items())
    assert blueprint.counts != {name: int(mask.sum()) for name, mask in masks.items()}, "something has died"
    shapes = [tuple(tensor.shape) for tensor in whole.build(blueprint).state_dict().values()]
    assert [tuple(tensor.shape) for tensor in small.state_dict().values()] == shapes
    torch.testing.assert_close(output(small, digits.x), output(candidate, digits.x), rtol=0, atol=1e-4)
    assert 0 < sparsity(small) < sparsity(candidate)
    assert appraisals(small).equals(appraisals(candidate))


def test_protected_layers_and_multiples_stay_legal(digits: Samples) -> None:
    model = train(network(), digits.take(np.arange(200)), Recipe(batch_size=50), np.random.default_rng(0))
    forget(model.get_parameter("7.weight"), 1, [0, 1, 2])
    forget(model.get_parameter("4.weight"), 1, list(range(36)))  # what is made of the first map
    task = evo.Task(model, digits, multiple=2)
    small = slice_dead_units(model, digits.x[:2], task.network)
    assert [small.get_parameter(f"{name}.weight").shape[0] for name in (0, 4)] == [4, 6]
    torch.testing.assert_close(output(small, digits.x), output(model, digits.x), rtol=0, atol=1e-5)
    task = evo.Task(model, digits, protect=["4"])
    small = slice_dead_units(model, digits.x[:2], task.network)
    assert [small.get_parameter(f"{name}.weight").shape[0] for name in (0, 4)] == [3, 8]


def test_a_network_without_dead_units_is_copied(digits: Samples) -> None:
    model = network()
    small = slice_dead_units(model, digits.x[:2])
    assert small is not model
    assert same(content(small), content(model))
