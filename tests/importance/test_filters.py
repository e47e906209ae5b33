import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from torch import Tensor, nn

import evo
from evo.errors import SettingsError
from evo.importance.filters import filter_vectors, filters, free_groups
from tests.importance.zoo import network_of
from tests.network.networks import Net, PixelShuffle, images
from tests.network.random_networks import networks


def group_of(network: evo.Network, name: str) -> evo.network.CouplingGroup:
    return next(group for group in network.groups if group.name == name)


def test_a_single_layers_filters_are_its_weights(lenet_network: evo.Network) -> None:
    for group in lenet_network.groups:
        weight = lenet_network.tensor(f"{group.name}.weight")
        np.testing.assert_array_equal(filter_vectors(lenet_network, group), weight.reshape(len(weight), -1))


def test_layers_that_share_channels_follow_each_other_at_equal_scale() -> None:
    network = network_of("mobilenet_v2")
    group = group_of(network, "blocks.1.layers.0.conv")
    assert [each.layer for each in filters(network, group)] == ["blocks.1.layers.0.conv", "blocks.1.layers.1.conv"]
    vectors = filter_vectors(network, group)
    expand, depthwise = (
        network.tensor(f"blocks.1.layers.{place}.conv.weight").reshape(group.size, -1).astype(float) for place in (0, 1)
    )
    assert vectors.shape == (group.size, expand.shape[1] + 9)
    for part, weight in ((vectors[:, :-9], expand), (vectors[:, -9:], depthwise)):
        assert (part**2).sum(1).mean() == pytest.approx(1)
        np.testing.assert_allclose(part / part[0, 0], weight / weight[0, 0], rtol=1e-6)


def test_a_silent_layer_among_several_stays_silent() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3, groups=4), nn.Flatten(), nn.Linear(64, 2))
    nn.init.zeros_(model.get_parameter("1.weight"))
    network = evo.Network.analyse(model, torch.randn(1, 1, 8, 8))
    (group,) = network.groups
    assert (filter_vectors(network, group)[:, 9:] == 0).all()


def test_several_entries_of_a_channel_are_one_vector() -> None:
    """Pixel shuffle turns four filters into one channel."""
    torch.manual_seed(0)
    network = evo.Network.analyse(Net(PixelShuffle(8, written=False), 3), images())
    shared = [
        group for group in network.groups for cut in group.cuts if not cut.reads and len(cut.channels) > group.size
    ]
    assert shared
    for group in shared:
        (layer,) = filters(network, group)
        weight = network.tensor(f"{layer.layer}.weight")
        times = len(weight) // group.size
        np.testing.assert_array_equal(layer.rows, weight.reshape(group.size, times * weight[0].size))


@settings(
    max_examples=20,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(made=networks())
def test_every_group_of_any_network_has_the_filters_of_all_its_producers(
    made: tuple[nn.Module, tuple[Tensor, ...]],
) -> None:
    network = evo.Network.analyse(*made)
    for group in network.groups:
        found = list(filters(network, group))
        assert {each.layer for each in found} == set(group.producers)
        assert {len(each.rows) for each in found} == {group.size}
        assert filter_vectors(network, group).shape == (group.size, sum(each.rows.shape[1] for each in found))


def test_patterns_name_groups() -> None:
    network = network_of("resnet20")
    inner = free_groups(network, ["layer*.conv1"])
    names = np.array([group.name for group in network.groups])
    assert names[inner].tolist() == [f"layer{stage}.{block}.conv1" for stage in (1, 2, 3) for block in range(3)]
    assert names[free_groups(network, ["conv1", "layer3.[01].conv1"])].tolist() == [
        "conv1",
        "layer3.0.conv1",
        "layer3.1.conv1",
    ]
    assert free_groups(network, ["*"]).all()


def test_patterns_that_match_nothing_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"free: unknown coupling group 'layer4\.0\.conv1'; did you mean 'layer"):
        free_groups(network_of("resnet20"), ["layer*.conv1", "layer4.0.conv1"])
    with pytest.raises(SettingsError, match=r"free: got \[\]; expected at least one pattern"):
        free_groups(network_of("resnet20"), [])
