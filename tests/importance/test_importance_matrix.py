import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import evo
from evo.errors import SettingsError
from evo.importance import ImportanceMatrix, importance_matrix
from tests.importance.zoo import MAKE, network_of

names = st.sampled_from(sorted(MAKE))
shares = st.floats(0, 0.999)


def macs_of(network: evo.Network, layer: str) -> int:
    """Multiply-accumulates of a layer, from a forward pass of the whole network."""
    model = network.build(network.full)
    found = []

    def hook(module: nn.Module, _: object, output: torch.Tensor) -> None:
        found.append(output[0].numel() * module.get_parameter("weight")[0].numel())

    model.get_submodule(layer).register_forward_hook(hook)
    with torch.no_grad():
        model(torch.zeros(1, *next(shape for name, (_, shape) in MAKE.items() if network is network_of(name))))
    return sum(found)


def literal(network: evo.Network, gamma: float, lam: float, free: list[str]) -> list[int]:
    """FNP eq. 2 to 7 as they are printed, but for the bars in eq. 5: for λ small enough that FLOPs^λ is a number."""
    scored = []
    for group in network.groups:
        if group.name in free:
            for layer in group.producers:
                flops = macs_of(network, layer) ** lam
                weights = network.tensor(f"{layer}.weight").astype(float).ravel()
                scored += [(abs(weight) / flops, group.name) for weight in weights.tolist()]
    important = sorted((score for score, _ in scored), reverse=True)
    retained = max(1, round(len(important) * (1 - gamma)))
    threshold = important[retained - 1]
    counts = []
    for group in network.groups:
        if group.name not in free:
            counts.append(group.size)
            continue
        mine = [score for score, name in scored if name == group.name]
        fell = sum(score < threshold for score in mine)
        channels = max(1, math.floor((len(mine) - fell) * group.size / len(mine)))
        while channels < group.size and (channels < group.least or channels % group.step):
            channels += 1
        counts.append(channels)
    return counts


@pytest.mark.parametrize(
    ("name", "free"),
    [
        ("resnet20", ["*"]),
        ("resnet20", ["layer*.conv1"]),
        ("mobilenet_v2", ["blocks.*"]),
        ("alexnet", ["conv*"]),
        ("vgg16_cifar", ["*"]),
    ],
)
@pytest.mark.parametrize(("gamma", "lam"), [(0.0, 1.0), (0.3, 0.0), (0.7, 0.5), (0.86, 5.0), (0.999, 2.0)])
def test_equations(name: str, free: list[str], gamma: float, lam: float) -> None:
    network = network_of(name)
    chosen = [group.name for group in network.groups if any(np.array([_matches(group.name, one) for one in free]))]
    assert importance_matrix(network, gamma, lam, free).tolist() == literal(network, gamma, lam, chosen)


def _matches(name: str, pattern: str) -> bool:
    head, _, tail = pattern.partition("*")
    return name.startswith(head) and name.endswith(tail)


@settings(max_examples=40, deadline=None)
@given(names, st.sampled_from([0.0, 0.4, 5.0, 20.0, 100.0]))
def test_gamma_zero_keeps_all(name: str, lam: float) -> None:
    network = network_of(name)
    assert importance_matrix(network, 0.0, lam).tolist() == network.costs.sizes.tolist()


@settings(max_examples=30, deadline=None)
@given(names, shares, shares, st.sampled_from([0.0, 0.5, 20.0]), st.sampled_from([1, 4]))
def test_larger_gamma_never_keeps_more_and_all_counts_are_legal(
    name: str, first: float, second: float, lam: float, multiple: int
) -> None:
    network = network_of(name, multiple)
    wide, narrow = (importance_matrix(network, gamma, lam) for gamma in sorted((first, second)))
    assert (wide >= narrow).all()
    for count, group in zip(narrow.tolist(), network.groups, strict=True):
        assert 1 <= count <= group.size
        assert group.legal_count(count) == count


def test_lambda_zero_is_global_magnitude() -> None:
    network = network_of("vgg16_cifar")
    weights = [np.abs(network.tensor(f"{group.name}.weight")) for group in network.groups]
    threshold = np.quantile(np.concatenate([weight.ravel() for weight in weights]), 0.6)
    expected = [max(1, int((weight > threshold).mean() * len(weight))) for weight in weights]
    assert importance_matrix(network, 0.6, 0.0).tolist() == expected


def test_large_lambda_takes_from_the_most_expensive_layers() -> None:
    network = network_of("vgg16_cifar")
    macs = np.array([macs_of(network, group.name) for group in network.groups])
    counts = importance_matrix(network, 0.5, 20.0)
    assert counts[macs.argmax()] == 1
    assert counts[macs.argmin()] == network.costs.sizes[macs.argmin()]


def test_gammas_beyond_all_float_ranges_of_flops() -> None:
    """FLOPs^λ of an ImageNet layer at λ = 100 is 10^900."""
    network = network_of("resnet20")
    counts = importance_matrix(network, 0.5, 100.0)
    assert 0 < (counts < network.costs.sizes).sum() < len(counts)


def test_layers_of_a_group_count_together() -> None:
    """Two tied layers, one of large and one of small weights: half of all weights fall, hence half of the channels."""
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 3, 1))
    with torch.no_grad():
        model.get_parameter("0.weight").uniform_(10, 11)
        model.get_parameter("1.weight").uniform_(1, 2)
    network = evo.Network.analyse(model, torch.randn(1, 1, 8, 8))
    assert importance_matrix(network, 0.25, 0.0).tolist() == [6]
    assert importance_matrix(network, 0.5, 0.0).tolist() == [4]


def test_dead_weights_fall_first_and_a_dead_network_keeps_all() -> None:
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 3, 1))
    nn.init.zeros_(model.get_parameter("2.weight"))
    images = torch.randn(1, 1, 8, 8)
    assert importance_matrix(evo.Network.analyse(model, images), 0.9, 0.5).tolist() == [7, 1]
    nn.init.zeros_(model.get_parameter("0.weight"))
    # All weights are equal: none is below the threshold.
    assert importance_matrix(evo.Network.analyse(model, images), 0.9, 0.5).tolist() == [8, 8]


def test_fewest_channels() -> None:
    network = network_of("alexnet")
    counts = importance_matrix(network, 0.99, 20.0, ["conv*"], 5)
    assert counts.min() == 6  # the next even number, both halves of a group keep as many
    assert counts[5:].tolist() == [20, 20]
    assert importance_matrix(network, 0.99, 20.0, ["conv*"], 1000).tolist() == network.costs.sizes.tolist()


@pytest.mark.parametrize("share", [0.9, 0.5, 0.3])
@pytest.mark.parametrize("name", ["resnet20", "alexnet", "mobilenet_v2"])
def test_the_smallest_gamma_within_limits(name: str, share: float) -> None:
    network = network_of(name)
    limits = evo.Budget(params=share, macs=share).bind(network.costs)
    matrix = ImportanceMatrix(network, 0.5)
    found = matrix.fitting(lambda counts: bool(limits.fits(counts)))
    assert found is not None
    gamma, counts = found
    assert limits.fits(counts)
    assert matrix.counts(gamma).tolist() == counts.tolist()
    assert not limits.fits(matrix.counts(gamma - 1 / matrix.size))


def test_no_limit_and_no_way() -> None:
    matrix = ImportanceMatrix(network_of("lenet"), 0.5)
    found = matrix.fitting(lambda counts: True)
    assert found is not None
    assert found[0] == 0
    assert found[1].tolist() == [20, 50, 500]
    assert matrix.fitting(lambda counts: False) is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gamma": 1.0}, r"gamma: got 1\.0; expected a share in \[0, 1\)"),
        ({"gamma": -0.1}, r"gamma: got -0\.1"),
        ({"lam": -1.0}, r"lam: got -1\.0; expected a number ≥ 0"),
        ({"lam": math.inf}, r"lam: got inf"),
        ({"free": ["conv9"]}, r"free: unknown coupling group 'conv9'; did you mean"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        importance_matrix(network_of("lenet"), **{"gamma": 0.5, "lam": 0.5, **settings})  # type: ignore[arg-type]
