import numpy as np
import pytest
import torch
from torch import nn

import evo
from evo.errors import NetworkError
from evo.importance.norm_scale import bn_scale
from tests.importance.zoo import network_of


def test_one_batch_norm_gives_the_size_of_its_scale() -> None:
    network = network_of("vgg16_cifar")
    for group in network.groups:
        (scale,) = [
            cut.tensor for cut in group.cuts if cut.tensor.endswith("weight") and not network.is_weight(cut.tensor)
        ]
        gamma = np.abs(network.tensor(scale).astype(float))
        np.testing.assert_allclose(bn_scale(network, group), gamma / np.sqrt((gamma**2).mean()), rtol=1e-12)


def test_several_on_one_residual_stream_add_up_each_on_the_same_scale() -> None:
    network = network_of("resnet20")
    expected = np.zeros(8)
    for layer in ("bn1", "layer1.0.bn2", "layer1.1.bn2", "layer1.2.bn2"):
        squares = network.tensor(f"{layer}.weight").astype(float) ** 2
        expected += squares / squares.mean()
    np.testing.assert_allclose(bn_scale(network, network.groups[0]), np.sqrt(expected), rtol=1e-12)


def test_normalisation_after_a_concatenation_counts_for_each_of_its_groups() -> None:
    class Joined(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Conv2d(1, 4, 3), nn.Conv2d(1, 3, 3)
            self.norm, self.last = nn.BatchNorm2d(7), nn.Conv2d(7, 2, 1)
            nn.init.normal_(self.norm.weight)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(self.norm(torch.cat([self.left(x), self.right(x)], 1)).relu())  # type: ignore[no-any-return]

    network = evo.Network.analyse(Joined(), torch.randn(2, 1, 5, 5))
    gamma = np.abs(network.tensor("norm.weight").astype(float))
    for group, own in zip(network.groups, (gamma[:4], gamma[4:]), strict=True):
        np.testing.assert_allclose(bn_scale(network, group), own / np.sqrt((own**2).mean()), rtol=1e-12)


@pytest.mark.parametrize("other", [nn.ReLU(), nn.PReLU(4), nn.GroupNorm(1, 4), nn.BatchNorm2d(4, affine=False)])
def test_without_a_learnt_scale_it_says_so(other: nn.Module) -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), other, nn.Conv2d(4, 2, 1))
    network = evo.Network.analyse(model, torch.randn(2, 1, 5, 5))
    (group,) = network.groups
    with pytest.raises(NetworkError, match=r"0: no batch normalisation follows .* select by l1, l2 or knn instead"):
        bn_scale(network, group)
