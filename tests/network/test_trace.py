"""Networks that are written in unusual ways, and the numbers themselves."""

from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import evo
from evo.network.numbers import along, core, settled, varying
from evo.network.rules import apply
from evo.network.trace import trace
from tests.network.checking import Inputs, assert_learns, drawn, outputs, reasons, searchable, verify
from tests.network.networks import Between, Flattened, Net, images
from tests.network.odd_networks import (
    Attributes,
    Bare,
    Branching,
    Chosen,
    Constant,
    Dead,
    DividedByWidth,
    Einsum,
    Hooked,
    InPlace,
    LazyCache,
    MaskedBuffer,
    Mlp,
    Noisy,
    OwnCopy,
    OwnState,
    PairsOnly,
    Recurrent,
    Signal,
    TwoInputs,
    Unbound,
    Unfolded,
    pruned_with_a_mask,
)

NOT_SAME = "cutting it is not the same as silencing it"
OUTPUT = "the network's output"

# Block, its width, its groups, what stays whole in it.
BLOCKS: dict[str, tuple[Callable[[], nn.Module], int, Mapping[str, int], Mapping[str, str]]] = {
    "bare parameters": (lambda: Bare(8), 5, {"kernel": 7, "matrix": 5}, {}),
    "unfold": (lambda: Unfolded(8), 5, {"enter": 7, "matrix": 5}, {}),
    "in place": (lambda: InPlace(8), 7, {"one": 7}, {}),
    "torch.where": (lambda: Chosen(8), 7, {"one": 7}, {}),
    "chunk, stack, unbind": (lambda: Unbound(8), 4, {"conv": 4}, {}),
    "a mask in a buffer": (lambda: MaskedBuffer(8), 7, {"conv": 7}, {}),
    "a channel of constants": (lambda: Constant(8), 8, {"conv": 7}, {}),
    "the width as a number": (lambda: DividedByWidth(8), 7, {}, {"conv": NOT_SAME}),
    "noise": (lambda: Noisy(8, always=True), 7, {}, {"conv": NOT_SAME}),
    "noise in training": (lambda: Noisy(8, always=False), 7, {"conv": 7}, {}),
    "unused layers": (
        lambda: Dead(8),
        7,
        {"conv": 7},
        {"ignored": "no layer reads its channels", "never": "it is not used"},
    ),
    "references to its own parts": (lambda: Attributes(8), 7, {"conv": 7, "again": 7}, {}),
    "hooks": (lambda: Hooked(8), 7, {"conv": 7}, {}),
    "a cached activation": (lambda: LazyCache(8), 7, {"conv": 7}, {}),
    "a state of its own": (lambda: OwnState(8, 7, 3, padding=1), 7, {"": 7}, {}),
    "a copy of its own": (lambda: OwnCopy(8, 7, 3, padding=1), 7, {"": 7}, {}),
}


@pytest.mark.parametrize("kind", BLOCKS)
def test_blocks(kind: str) -> None:
    make, width, groups, frozen = BLOCKS[kind]
    network = verify(Net(make(), width), (images(),))
    inside = {f"block.{name}".rstrip("."): size for name, size in groups.items()}
    assert searchable(network) == {"first": 8, **inside, "last": 6}
    found = reasons(network)
    assert set(found) == {"fc", *(f"block.{name}" for name in frozen)}
    for name, reason in frozen.items():
        assert reason in found[f"block.{name}"]


def test_einsum() -> None:
    # With a single channel on both sides torch multiplies instead, which is no layer to a recount.
    network = verify(Net(Einsum(8), 5), (images(),), fewest=2)
    assert searchable(network) == {"first": 8, "block.matrix": 7, "block.other": 5, "last": 6}


def test_a_branch_on_values_keeps_what_it_looks_at() -> None:
    network = verify(Net(Branching(8), 7), (images(),))
    assert searchable(network) == {"block.other": 7, "last": 6}
    assert reasons(network)["first"] == "max is taken over its channels"


def test_a_recurrent_layer_is_left_alone() -> None:
    network = verify(Net(Recurrent(8), 5), (images(),))
    assert searchable(network) == {"first": 8, "block.after": 9, "block.last": 5, "last": 6}
    assert "block.conv" in reasons(network)


@pytest.mark.parametrize(
    ("make", "inputs", "groups", "frozen"),
    [
        (
            TwoInputs,
            (images(), images(channels=3)),
            {"left": 8, "right": 8, "both": 6},
            {"features", "fc", "aux"},
        ),
        (lambda: Signal(1), (images(size=(8,)),), {"net.0": 6, "net.4": 5, "net.6": 4}, {"net.9"}),
        (lambda: Signal(3), (images(size=(4, 4, 4)),), {"net.0": 6, "net.4": 5, "net.6": 4}, {"net.9"}),
        (Mlp, (images(4)[:, 0, 0, :5],), {"net.0": 9, "net.3": 8}, {"net.6"}),
    ],
    ids=["two inputs", "1d", "3d", "features"],
)
def test_inputs_and_outputs_of_other_shapes(
    make: Callable[[], nn.Module], inputs: Inputs, groups: dict[str, int], frozen: set[str]
) -> None:
    network = verify(make(), inputs)
    assert searchable(network) == groups
    assert set(reasons(network)) == frozen
    assert all(OUTPUT in reason for reason in reasons(network).values())


def test_a_network_that_does_not_run_on_one_input() -> None:
    assert searchable(verify(PairsOnly(), (images(),), batch=2)) == {"conv": 8, "next": 6}


def test_masks_of_torch_prune_stay_and_work() -> None:
    torch.manual_seed(0)
    model = Net(pruned_with_a_mask(), 9)
    network = evo.Network.analyse(model, images())
    assert searchable(network) == {"first": 8, "block.next": 9, "last": 6}
    assert "its weight is computed" in reasons(network)["block.middle"]
    # The layer counts, whatever its weight is made of: the mask is no parameter.
    plain = evo.Network.analyse(Net(Between(8, nn.Conv2d(12, 12, 3, padding=1)), 9), images())
    assert network.cost_of(network.full) == plain.cost_of(plain.full)
    full = network.build(network.full)
    assert all(map(torch.equal, outputs(full, (images(),)), outputs(model.eval(), (images(),))))
    small = network.build(drawn(network, np.random.default_rng(0)))
    assert outputs(small, (images(),))[0].shape == (2, 3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_types_of_numbers_stay(dtype: torch.dtype) -> None:
    model = Flattened().to(dtype)
    network = evo.Network.analyse(model, images().to(dtype))
    assert searchable(network) == {"conv1": 6, "conv2": 5, "fc1": 7}
    blueprint = drawn(network, np.random.default_rng(0))
    small = network.build(blueprint)
    assert {parameter.dtype for parameter in small.parameters()} == {dtype}
    held = sum(parameter.numel() * parameter.element_size() for parameter in small.parameters())
    assert network.cost_of(blueprint)["bytes"] == held
    assert outputs(small, (images().to(dtype),))[0].dtype == dtype
    assert_learns(small, (images().to(dtype),))


class Counting(Flattened):
    """Counts its forward passes in a buffer, in evaluation too."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("passes", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        assert isinstance(self.passes, Tensor)
        self.passes += 1
        result: Tensor = super().forward(x)
        return result


def test_passes_of_the_analysis_leave_nothing_behind() -> None:
    model = Counting()
    network = evo.Network.analyse(model, images())
    assert int(model.get_buffer("passes")) == 0
    assert int(network.build(network.full).get_buffer("passes")) == 0


# The numbers.


def test_numbers_vary_where_they_have_strides() -> None:
    numbers = along(torch.arange(1, 4), 1, (2, 3, 5, 5))
    assert varying(numbers) == (1,)
    assert core(numbers).shape == (1, 3, 1, 1)
    assert varying(settled(numbers.contiguous())) == (1,)
    assert torch.equal(settled(numbers.contiguous()), numbers)
    both = torch.arange(1, 7).view(1, 3, 2, 1).expand(4, 3, 2, 7)
    assert varying(settled(both.contiguous())) == (1, 2)
    assert varying(torch.ones(1, 1, dtype=torch.int64)) == ()


def test_a_trace_counts_work_and_memory() -> None:
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, bias=False), nn.ReLU(), nn.Conv2d(4, 3, 3, 2, bias=False)
    ).eval()
    seen = trace(model, (images(1),), dict(model.named_parameters()), apply, 1)
    first, second = seen.contractions["0.weight"], seen.contractions["2.weight"]
    assert (first.kernel, first.work, first.values, first.groups) == (9, 9 * 8 * 64, 4 * 64, 1)
    assert (second.kernel, second.work, second.values) == (9, 9 * 12 * 9, 3 * 9)
    alive = [sum(len(numbers) * each for numbers, each in moment) for moment in seen.memory]
    image, wide, small = 4 * 2 * 64, 4 * 4 * 64, 4 * 3 * 9
    # The caller holds the image; each layer's input lives until its output is there.
    assert max(alive) == image + 2 * wide
    assert image + wide + small in alive


def test_a_layer_of_a_single_weight_counts() -> None:
    model = nn.Sequential(nn.Conv2d(2, 4, 1), nn.Conv2d(4, 1, 1), nn.Conv2d(1, 1, 1, bias=False), nn.Conv2d(1, 3, 1))
    network = evo.Network.analyse(model, images())
    costs = network.cost_of(network.full)
    assert costs["weights"] == 8 + 4 + 1 + 3
    assert costs["macs"] == 64 * (8 + 4 + 1 + 3)
