"""Candidates with random weights against candidates that are cut: everything but the random numbers is the same."""

import math
import pickle
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor, nn

import evo
from evo.errors import NetworkError, SettingsError
from evo.network import untrained
from evo.network.zoo import lenet, resnet20
from tests.network.checking import LAYERS, distinct, drawn, outputs
from tests.network.networks import (
    ConvNeXt,
    GatedHalves,
    Multiplied,
    Net,
    ResNeXt,
    SqueezeExcite,
    Standardised,
    TiedWeights,
    Transformer,
    UNet,
    Up,
    images,
)
from tests.network.odd_networks import Attributes, MaskedBuffer, OwnCopy
from tests.network.random_networks import networks
from tests.network.test_properties import RANDOM, Made, seeds

BLOCKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "grouped": (lambda: ResNeXt(8), 8),
    "depthwise": (lambda: Multiplied(8), 16),
    "gates": (lambda: SqueezeExcite(8, linear=True), 7),
    "halves": (lambda: GatedHalves(8, written=True), 5),
    "transposed": (lambda: Up(8), 8),
    "transposed, grouped": (lambda: Up(8, 2), 8),
    "transposed, depthwise": (lambda: Up(8, 8), 8),
    "U-Net": (lambda: UNet(8), 4),
    "layer normalisation": (lambda: ConvNeXt(8), 8),
    "attention": (lambda: Transformer(8, "fused"), 8),
    "standardised": (lambda: Standardised(8, 8, 3, padding=1), 8),
    "one weight twice": (lambda: TiedWeights(8), 5),
    "a masking buffer": (lambda: MaskedBuffer(8), 7),
    "modules in attributes": (lambda: Attributes(8), 7),
    "copies itself": (lambda: OwnCopy(8, 8, 3, padding=1), 8),
}


def assert_like_the_cut_one(network: evo.Network, inputs: tuple[Tensor, ...], seed: int) -> None:
    """Same modules, shapes and noted sizes as `build`; trained values where no layer or normalisation holds them."""
    blueprint = drawn(network, np.random.default_rng(seed))
    counts = network.counts(blueprint)
    first = {
        group.name: np.arange(group.size) % (group.size // group.parts) < count // group.parts
        for group, count in zip(network.groups, counts, strict=True)
    }
    small = network.build(evo.Blueprint.from_masks(first))
    made = network.untrained(blueprint, dtype=torch.float64)
    assert made.training
    for (name, expected), (found_name, found) in zip(small.named_modules(), made.named_modules(), strict=True):
        assert name == found_name
        assert type(found) is type(expected)
        for own in ("in_channels", "out_channels", "groups", "num_features", "in_features", "out_features"):
            assert getattr(found, own, None) == getattr(expected, own, None)
        layer = isinstance(found, LAYERS)
        norm = isinstance(found, nn.modules.batchnorm._NormBase | nn.GroupNorm | nn.LayerNorm)
        for own, tensor in (*expected._parameters.items(), *expected._buffers.items()):
            other = getattr(found, own)
            if tensor is None:
                assert other is None
                continue
            assert other.shape == tensor.shape
            assert other.dtype == tensor.dtype
            assert other.requires_grad == (layer and own == "weight")
            if own in ("bias", "running_mean", "num_batches_tracked") and (layer or norm):
                assert not other.any()
            elif norm:
                assert (other == 1).all()
            elif not (layer and own == "weight"):
                assert torch.equal(other, tensor)
    for expected, found in zip(outputs(small, inputs), outputs(made.eval(), inputs), strict=True):
        assert found.shape == expected.shape


@pytest.mark.parametrize("name", BLOCKS)
def test_networks_of_every_kind(name: str) -> None:
    make, width = BLOCKS[name]
    inputs = (images().double(),)
    network = evo.Network.analyse(distinct(Net(make(), width)), inputs)
    for seed in range(3):
        assert_like_the_cut_one(network, inputs, seed)


@settings(RANDOM, max_examples=25)
@given(made=networks(), seed=seeds)
def test_random_networks(made: Made, seed: int) -> None:
    model, inputs = made
    inputs = tuple(x.double() for x in inputs)
    assert_like_the_cut_one(evo.Network.analyse(distinct(model), inputs), inputs, seed)


@pytest.fixture(scope="module")
def network() -> evo.Network:
    return evo.Network.analyse(resnet20(), torch.zeros(1, 3, 32, 32))


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {
        name: module.weight.detach()
        for name, module in model.named_modules()
        if isinstance(module, (nn.Conv2d, nn.Linear))
    }


def test_weights_are_normal_with_the_deviation_of_their_fan_in(network: evo.Network) -> None:
    drawn = weights(network.untrained(network.full, seed=3))
    for weight in drawn.values():
        scaled = (weight / math.sqrt(2 / weight[0].numel())).flatten().double()
        tolerance = 5 / math.sqrt(len(scaled))
        assert abs(float(scaled.mean())) < tolerance
        assert abs(float(scaled.std()) - 1) < tolerance
        assert abs(float((scaled**4).mean()) - 3) < 10 * tolerance
        assert len(np.unique(scaled.numpy())) > 0.99 * len(scaled)


@pytest.mark.parametrize(("groups", "fan_in"), [(1, 8 * 9), (2, 4 * 9), (8, 9)])
def test_fan_in_of_transposed_convolutions_is_that_of_their_inputs(groups: int, fan_in: int) -> None:
    network = evo.Network.analyse(Net(Up(8, groups), 8), (images(),))
    tied = next(
        weight for name, weight in network.untrained(network.full).named_parameters() if name == "block.up.weight"
    )
    bank = untrained._bank(0, network._untrained._length, torch.device("cpu"), torch.float32)
    ratio = tied.detach().permute(0, 2, 3, 1).flatten()[0] / math.sqrt(2 / fan_in)
    assert float((bank - ratio).abs().min()) < 1e-6


def test_no_two_weights_share_a_number(network: evo.Network) -> None:
    drawn = weights(network.untrained(network.full))
    scaled = torch.cat([(weight / math.sqrt(2 / weight[0].numel())).flatten() for weight in drawn.values()])
    assert scaled.numel() == network.cost_of(network.full)["weights"]
    # Equal numbers by chance: few among 270,000 of float32's two million or so in [0.5, 1).
    assert len(np.unique(scaled.numpy())) > 0.97 * scaled.numel()
    pairs = [
        torch.corrcoef(torch.stack([one.flatten()[:432], other.flatten()[:432]]))
        for one, other in zip(list(drawn.values())[:-2], list(drawn.values())[1:-1], strict=True)
    ]
    assert max(abs(float(pair[0, 1])) for pair in pairs) < 0.25


def test_a_bank_smaller_than_the_weights_is_read_from_different_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(untrained, "BANK", 1000)
    network = evo.Network.analyse(lenet(), torch.zeros(1, 1, 28, 28))
    drawn = weights(network.untrained(network.full))
    assert network._untrained._length == 800 * 500
    scaled = {name: weight * math.sqrt(weight[0].numel() / 2) for name, weight in drawn.items()}
    starts = {
        name: float(weight.permute(0, 2, 3, 1).flatten()[0] if weight.dim() == 4 else weight.flatten()[0])
        for name, weight in scaled.items()
    }
    assert len(set(starts.values())) >= 3


def test_depends_on_seed_and_counts_alone(network: evo.Network) -> None:
    rng = np.random.default_rng(0)
    blueprint = drawn(network, rng)
    first = network.untrained(blueprint, seed=1)
    torch.rand(5)
    travelled = pickle.loads(pickle.dumps(network))
    untrained._bank.cache_clear()
    again = travelled.untrained(network.counts(blueprint), seed=1)
    assert first.state_dict().keys() == again.state_dict().keys()
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in first.state_dict().items())
    other = weights(network.untrained(blueprint, seed=2))
    assert not any(torch.equal(weight, other[name]) for name, weight in weights(first).items())


def test_candidates_share_no_memory(network: evo.Network) -> None:
    before = {name: tensor.clone() for name, tensor in network.untrained(network.full).state_dict().items()}
    spoilt = network.untrained(network.full)
    with torch.no_grad():
        for tensor in (*spoilt.parameters(), *spoilt.buffers()):
            tensor.fill_(7)
    after = network.untrained(network.full).state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    trained = network.tensors()
    assert not any((tensor == 7).all() for tensor in trained.values() if tensor.numel() > 1)


@pytest.mark.parametrize(
    "device", ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="GPU"))]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_type_device_and_order(network: evo.Network, device: str, dtype: torch.dtype) -> None:
    made = network.untrained(network.full, device=device, dtype=dtype)
    floating = [tensor for tensor in (*made.parameters(), *made.buffers()) if tensor.is_floating_point()]
    assert {tensor.dtype for tensor in floating} == {dtype}
    assert {tensor.device.type for tensor in (*made.parameters(), *made.buffers())} == {device}
    assert all(
        weight.is_contiguous(memory_format=torch.channels_last) for weight in made.parameters() if weight.dim() == 4
    )
    assert made(torch.zeros(2, 3, 32, 32, device=device, dtype=dtype)).shape == (2, 10)


def test_wrong_counts_are_refused(network: evo.Network) -> None:
    full = network.counts(network.full)
    with pytest.raises(
        SettingsError, match=rf"counts: got int64 of shape \(2,\), expected integers of shape \({len(full)},\)"
    ):
        network.untrained([1, 2])
    with pytest.raises(SettingsError, match="counts: got float64"):
        network.untrained(full * 1.0)
    for wrong in (0, full[0] + 1):
        with pytest.raises(NetworkError, match=rf"conv1: it keeps 1 to 16 channels, got {wrong}"):
            network.untrained([wrong, *full[1:]])
    grouped = evo.Network.analyse(Net(ResNeXt(8), 8), (images(),))
    counts = [group.size - (group.parts > 1) for group in grouped.groups]
    with pytest.raises(NetworkError, match="in multiples of 4, got 11"):
        grouped.untrained(counts)
    with pytest.raises(NetworkError, match="are not this network's"):
        network.untrained(grouped.full)
