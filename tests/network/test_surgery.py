"""Cut networks against the trained originals with silenced channels: written without the code that does either."""

import copy
import itertools
import pickle
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

import evo
from evo.blueprint import Blueprint
from evo.errors import NetworkError
from evo.network import COSTS, evaluating
from evo.network.zoo import CifarResNet, LeNet, resnet20
from evo.training import Recipe, Samples, train
from tests.network.networks import Net, ResNeXt, images
from tests.network.odd_networks import LazyCache

Masks = Mapping[str, NDArray[np.bool_]]

# Who reads which group, with the number of entries per channel, read off the networks' definitions.
LENET_READERS = {"conv1": {"conv2": 1}, "conv2": {"fc1": 16}, "fc1": {"fc2": 1}}
RESNET_READERS: dict[str, dict[str, int]] = {
    **{f"layer{s}.{b}.conv1": {f"layer{s}.{b}.conv2": 1} for s, b in itertools.product((1, 2, 3), range(3))},
    "conv1": {**{f"layer1.{b}.conv1": 1 for b in range(3)}, "layer2.0.conv1": 1, "layer2.0.shortcut.0": 1},
    "layer2.0.conv2": {"layer2.1.conv1": 1, "layer2.2.conv1": 1, "layer3.0.conv1": 1, "layer3.0.shortcut.0": 1},
    "layer3.0.conv2": {"layer3.1.conv1": 1, "layer3.2.conv1": 1, "fc": 1},
}


@pytest.fixture(scope="module")
def trained_resnet(digits: Samples) -> CifarResNet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = resnet20(in_channels=1)
    train(model, digits.take(np.arange(120)), Recipe(epochs=1, batch_size=30), np.random.default_rng(0))
    return model


@pytest.fixture(scope="module")
def resnet_network(trained_resnet: CifarResNet, digits: Samples) -> evo.Network:
    return evo.Network.analyse(trained_resnet, digits.x[:1])


def masks_of(network: evo.Network) -> st.SearchStrategy[Masks]:
    """Keep masks of every group, from a single channel to all of them."""

    def draw(seed: int, ratios: list[float]) -> Masks:
        rng = np.random.default_rng(seed)
        masks = {}
        for group, ratio in zip(network.groups, ratios, strict=True):
            masks[group.name] = rng.permutation(np.arange(group.size) < max(1, round(ratio * group.size)))
        return masks

    count = len(network.groups)
    return st.builds(draw, st.integers(0, 2**32 - 1), st.lists(st.floats(0, 1), min_size=count, max_size=count))


def silenced(model: nn.Module, readers: Mapping[str, Mapping[str, int]], masks: Masks) -> nn.Module:
    """A float64 copy whose layers are handed zeros in place of removed channels."""

    def silence(mask: NDArray[np.bool_], entries: int) -> Callable[..., Any]:
        factors = torch.from_numpy(np.repeat(mask, entries)).double()

        def hook(_: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
            (x,) = inputs
            return (x * factors.reshape(-1, *[1] * (x.dim() - 2)),)

        return hook

    model = copy.deepcopy(model).double().eval()
    for group, layers in readers.items():
        for layer, entries in layers.items():
            model.get_submodule(layer).register_forward_pre_hook(silence(masks[group], entries))
    return model


def measured(model: nn.Module, images: Tensor) -> dict[str, int]:
    """All costs of a network by counting what is there and what a forward pass does."""
    macs = maps = 0

    def hook(module: nn.Module, _: object, output: Tensor) -> None:
        nonlocal macs, maps
        weight = module.get_parameter("weight")
        macs += output[0].numel() * weight[0].numel()
        maps += output[0].numel()

    layers = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    handles = [layer.register_forward_hook(hook) for layer in layers]
    with evaluating(model):
        model(images)
    for handle in handles:
        handle.remove()
    params = sum(parameter.numel() for parameter in model.parameters())
    weights = sum({id(layer.weight): layer.weight.numel() for layer in layers}.values())
    return {"params": params, "weights": weights, "macs": macs, "bytes": 4 * params, "feature_maps": maps}


def assert_cut_is_silenced(
    model: nn.Module, network: evo.Network, readers: Mapping[str, Mapping[str, int]], masks: Masks, images: Tensor
) -> None:
    blueprint = Blueprint.from_masks(masks)
    small = network.build(blueprint)
    stated = network.cost_of(blueprint)
    assert measured(small, images) == {name: stated[name] for name in stated if name != "peak_memory"}
    with torch.no_grad():
        expected = silenced(model, readers, masks)(images.double())
        torch.testing.assert_close(small.double()(images.double()), expected, rtol=1e-10, atol=1e-10)


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_a_cut_lenet_equals_the_silenced_one(
    data: st.DataObject, trained_lenet: LeNet, lenet_network: evo.Network, large_digits: Samples
) -> None:
    masks = data.draw(masks_of(lenet_network))
    assert_cut_is_silenced(trained_lenet, lenet_network, LENET_READERS, masks, large_digits.x[:3])


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_a_cut_resnet_equals_the_silenced_one(
    data: st.DataObject, trained_resnet: CifarResNet, resnet_network: evo.Network, digits: Samples
) -> None:
    masks = data.draw(masks_of(resnet_network))
    assert_cut_is_silenced(trained_resnet, resnet_network, RESNET_READERS, masks, digits.x[:3])


def test_every_channel_that_can_go_is_offered(lenet_network: evo.Network, resnet_network: evo.Network) -> None:
    assert {group.name for group in lenet_network.groups} == set(LENET_READERS)
    assert {group.name for group in resnet_network.groups} == set(RESNET_READERS)


def test_the_full_blueprint_is_the_original_bit_for_bit(
    trained_lenet: LeNet, lenet_network: evo.Network, large_digits: Samples
) -> None:
    full = lenet_network.build(lenet_network.full)
    with torch.no_grad():
        assert torch.equal(full(large_digits.x[:5]), copy.deepcopy(trained_lenet).eval()(large_digits.x[:5]))


def half(network: evo.Network) -> Blueprint:
    return Blueprint.from_masks({group.name: np.arange(group.size) % 2 == 0 for group in network.groups})


def test_removed_channels_and_images_matter(lenet_network: evo.Network, large_digits: Samples) -> None:
    with torch.no_grad():
        whole, small = (
            lenet_network.build(blueprint)(large_digits.x[:2])
            for blueprint in (lenet_network.full, half(lenet_network))
        )
    assert (whole - small).abs().min() > 1e-3
    assert (small[0] - small[1]).abs().max() > 1e-3


def test_layers_know_their_new_sizes(lenet_network: evo.Network) -> None:
    small = lenet_network.build(half(lenet_network))
    assert isinstance(small, LeNet)
    assert (small.conv1.in_channels, small.conv1.out_channels) == (1, 10)
    assert (small.conv2.in_channels, small.conv2.out_channels) == (10, 25)
    assert (small.fc1.in_features, small.fc1.out_features) == (25 * 16, 250)
    assert (small.fc2.in_features, small.fc2.out_features) == (250, 10)
    assert (small.bn1.num_features, small.bn2.num_features, small.bn3.num_features) == (10, 25, 250)


def content(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
    assert list(one) == list(other)
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def test_the_users_model_is_left_as_it_is(trained_lenet: LeNet, large_digits: Samples) -> None:
    model = copy.deepcopy(trained_lenet).train()
    model.bn2.eval()
    model.conv1.weight.requires_grad_(False)
    before = content(model)
    modes = [module.training for module in model.modules()]
    learning = [parameter.requires_grad for parameter in model.parameters()]
    identities = [id(parameter) for parameter in model.parameters()]
    network = evo.Network.analyse(model, large_digits.x[:1])
    small = network.build(half(network))
    train(small, large_digits.take(np.arange(64)), Recipe(epochs=1, batch_size=32), np.random.default_rng(0))
    assert_same(content(model), before)
    assert [module.training for module in model.modules()] == modes
    assert [parameter.requires_grad for parameter in model.parameters()] == learning
    assert [id(parameter) for parameter in model.parameters()] == identities
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())
    assert not network.build(half(network)).get_parameter("conv1.weight").requires_grad


@pytest.mark.parametrize("which", ["full", "half"])
def test_candidates_share_no_memory(lenet_network: evo.Network, which: str) -> None:
    blueprint = lenet_network.full if which == "full" else half(lenet_network)
    before, built = lenet_network.tensors(), lenet_network.build(blueprint)
    expected = content(built)
    assert not built.training
    with torch.no_grad():
        for tensor in built.state_dict().values():
            tensor.fill_(7)
    for name in before:
        lenet_network.tensor(name).fill(7)
        lenet_network.tensors()[name].fill_(7)
    assert_same(lenet_network.tensors(), before)
    assert_same(content(lenet_network.build(blueprint)), expected)


def test_a_pickled_network_builds_the_same_and_writes_to_nothing_shared(lenet_network: evo.Network) -> None:
    buffers: list[pickle.PickleBuffer] = []
    packed = pickle.dumps(lenet_network, protocol=5, buffer_callback=buffers.append)
    shared = [bytes(buffer.raw()) for buffer in buffers]
    assert sum(map(len, shared)) > 4 * 430_500, "weights travel out of band, so that workers can share them"
    received = pickle.loads(packed, buffers=shared)
    assert received.digest() == lenet_network.digest()
    built = received.build(half(lenet_network))
    assert_same(content(built), content(lenet_network.build(half(lenet_network))))
    whole = received.build(received.full)
    with torch.no_grad():
        for tensor in (*built.state_dict().values(), *whole.state_dict().values()):
            tensor.fill_(7)
    assert received.digest() == lenet_network.digest()


def test_digest_tells_weights_apart(trained_lenet: LeNet, lenet_network: evo.Network, large_digits: Samples) -> None:
    same = evo.Network.analyse(copy.deepcopy(trained_lenet), large_digits.x[:1])
    assert same.digest() == lenet_network.digest()
    other = copy.deepcopy(trained_lenet)
    with torch.no_grad():
        other.fc2.bias[0] += 1e-6
    assert evo.Network.analyse(other, large_digits.x[:1]).digest() != lenet_network.digest()


def test_anothers_blueprint_is_refused(lenet_network: evo.Network, resnet_network: evo.Network) -> None:
    with pytest.raises(NetworkError, match="not this network's"):
        lenet_network.build(resnet_network.full)


def test_costs_are_named_alike_everywhere(lenet_network: evo.Network) -> None:
    costs = lenet_network.cost_of(half(lenet_network))
    assert list(costs) == list(COSTS)
    assert all(type(value) is int for value in costs.values())


@pytest.mark.parametrize("model", [nn.Sequential(nn.Flatten(), nn.Linear(36, 3)), nn.Flatten()])
def test_a_network_with_nothing_to_prune_is_built_as_it_is(model: nn.Module) -> None:
    batch = torch.randn(2, 1, 6, 6)
    network = evo.Network.analyse(model, batch)
    assert network.groups == ()
    assert [entry.name for entry in network.frozen] == [name for name, _ in model.named_children() if name == "1"]
    assert torch.equal(network.build(network.full)(batch), model(batch))
    assert network.cost_of(network.full)["params"] == sum(parameter.numel() for parameter in model.parameters())


def test_a_network_that_does_not_fit_the_data_is_refused(trained_lenet: LeNet) -> None:
    with pytest.raises(NetworkError, match=r"LeNet does not run on an input of shape \(1, 3, 28, 28\)"):
        evo.Network.analyse(trained_lenet, torch.zeros(1, 3, 28, 28))


def test_an_original_that_cannot_be_copied_as_it_is() -> None:
    """A result of a pass with gradients, kept as an attribute, stops a plain deep copy."""
    model = Net(LazyCache(8), 7)
    model(images())
    with pytest.raises(RuntimeError, match="deepcopy"):
        copy.deepcopy(model)
    network = evo.Network.analyse(model, images())
    assert [group.name for group in network.groups] == ["first", "block.conv", "last"]


def test_repaired_restores_the_most_important() -> None:
    network = evo.Network.analyse(Net(ResNeXt(8, 4, 3), 8), images())
    masks = {group.name: np.zeros(group.size, dtype=bool) for group in network.groups}
    masks["block.enter.0"][[0, 1, 5]] = True
    importance = {group.name: np.arange(group.size) for group in network.groups}
    legal = network.repaired(masks, importance).masks
    assert np.flatnonzero(legal["first"]).tolist() == [7]
    # Part 0 keeps two of three, so that every part does: what is there stays, the last ones of each come back.
    assert np.flatnonzero(legal["block.enter.0"]).tolist() == [0, 1, 4, 5, 7, 8, 10, 11]
    assert np.flatnonzero(network.repaired(masks).masks["block.enter.0"]).tolist() == [0, 1, 3, 5, 6, 7, 9, 10]


def test_unequal_parts_are_refused() -> None:
    network = evo.Network.analyse(Net(ResNeXt(8, 4, 3), 8), images())
    masks = network.full.masks | {"block.enter.0": np.arange(12) > 0}
    with pytest.raises(NetworkError, match=r"block.enter.0: its 4 parts keep \[2, 3, 3, 3\] channels"):
        network.build(Blueprint.from_masks(masks))
